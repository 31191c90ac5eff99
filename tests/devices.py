"""Where the tensors of a backend's tests live. CUDA and TRITON stand for "cuda" and "triton" in a
list of backends: on a GPU, or on the CPU, where CUDA is the emulator's module and Triton its
interpreter."""

import pytest
import torch

from fastconv._native import cuda, cuda_missing
from fastconv.backends.cuda.launch import DEVICE
from fastconv.backends.triton import launch as triton_launch

if cuda is not None and not cuda.is_emulated and not torch.cuda.is_available():
    cuda_missing = "no GPU"
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(bool(cuda_missing), reason=str(cuda_missing)))

triton_missing = triton_launch.missing_reason()
TRITON_DEVICE = "cpu" if triton_missing else triton_launch.device_type()
if TRITON_DEVICE == "cuda" and not torch.cuda.is_available():
    triton_missing = "no GPU, and no TRITON_INTERPRET=1"
needs_triton = pytest.mark.skipif(bool(triton_missing), reason=f"no Triton: {triton_missing}")
TRITON = pytest.param("triton", marks=needs_triton)


def device_of(backend):
    if backend.startswith("triton"):
        return TRITON_DEVICE
    return DEVICE if backend.startswith("cuda") else "cpu"


def interpreted(backend):
    return backend.startswith("triton") and device_of(backend) == "cpu"


def skip_half(backend, number, exhaustive):
    """Skips what has an odd number in Triton's interpreter, the slowest of all by far."""
    if number % 2 and interpreted(backend) and not exhaustive:
        pytest.skip("its neighbours run in Triton's interpreter; --exhaustive runs it too")


def in_turn(items, backend, turn, exhaustive=False):
    """All of the items; in Triton's interpreter the one whose turn it is, but for --exhaustive."""
    return [items[turn % len(items)]] if interpreted(backend) and not exhaustive else items
