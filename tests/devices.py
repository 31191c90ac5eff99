"""Where the tensors of a backend's tests live. CUDA stands for "cuda" in a list of backends: on a
GPU, or on the CPU where the module is the emulator's."""

import pytest
import torch

from fastconv._native import cuda, cuda_missing
from fastconv.backends.cuda_launch import DEVICE

if cuda is not None and not cuda.is_emulated and not torch.cuda.is_available():
    cuda_missing = "no GPU"
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(bool(cuda_missing), reason=str(cuda_missing)))


def device_of(backend):
    return DEVICE if backend.startswith("cuda") else "cpu"
