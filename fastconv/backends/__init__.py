"""The backends by name. Each has supports(operator, call, dtype, device type, device index), which
gives None or a reason, and one method for each operator it runs; only tensors that dispatch found
real reach them."""

from .cpu import CPU_BACKENDS
from .cuda import CUDA_BACKENDS
from .triton import TRITON_BACKENDS

BACKENDS = CPU_BACKENDS | CUDA_BACKENDS | TRITON_BACKENDS
