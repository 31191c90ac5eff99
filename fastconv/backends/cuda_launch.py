"""What every launch of a CUDA kernel needs: device, stream, workspace. The emulated module
(tests/emulator) takes CPU tensors and has no streams."""

import functools

import torch

from .._native import cuda

DEVICE = "cpu" if cuda is not None and cuda.is_emulated else "cuda"


def launch(function, like, *args):
    """Runs function(*args, stream) on the device and the current stream of the tensor `like`."""
    if DEVICE == "cpu":
        return function(*args, 0)
    index = like.device.index
    with torch.cuda.device(index):
        return function(*args, torch._C._cuda_getCurrentRawStream(index))


def workspace(size, like):
    """Memory for a kernel's own use, not initialised: size bytes, 256-byte aligned; None for 0.

    The caching allocator hands it to others only after the kernels that are enqueued by then."""
    if size == 0:
        return None
    if DEVICE == "cuda":
        return torch.empty(size, dtype=torch.uint8, device=like.device)
    padded = torch.empty(size + 256, dtype=torch.uint8)
    return padded[-padded.data_ptr() % 256 :][:size]


@functools.lru_cache(maxsize=64)
def device_properties(index):
    """(SM count, shared memory of a block in bytes, L2 in bytes, compute capability as 90)."""
    return cuda.device_properties(index)


def allows_tf32():
    """Whether convolutions of float32 may round their inputs to TF32: cuDNN's setting in torch."""
    getter = getattr(torch._C, "_get_fp32_precision_getter", None)
    if getter is None:  # torch < 2.9
        return torch.backends.cudnn.allow_tf32
    return getter("cuda", "conv") == "tf32"
