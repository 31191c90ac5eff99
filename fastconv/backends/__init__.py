"""The backends by name. Each has supports(operator, call, dtype, device type, device index), which
gives None or a reason, and one method for each operator it runs; only tensors that dispatch found
real reach them."""

from .cpu.conv2d import CPU_BACKENDS
from .cuda.conv2d import CUDA_BACKENDS
from .triton.conv2d import TRITON_BACKENDS

BACKENDS = CPU_BACKENDS | CUDA_BACKENDS | TRITON_BACKENDS
