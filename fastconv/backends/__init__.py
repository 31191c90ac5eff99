"""The backends by name. Each is a base.Backend with one method for each operator it runs; only
tensors that dispatch found real reach those."""

from .cpu.conv2d import CPU_BACKENDS
from .cuda.conv2d import CUDA_BACKENDS
from .triton.conv2d import TRITON_BACKENDS

BACKENDS = CPU_BACKENDS | CUDA_BACKENDS | TRITON_BACKENDS
