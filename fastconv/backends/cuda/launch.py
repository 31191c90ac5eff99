"""What every launch of a CUDA kernel needs: device, stream, workspace. The emulated module
(tests/emulator) takes CPU tensors and has no streams."""

import functools

import torch

from ..._native import cuda
from ..base import constant_while_compiling

DEVICE = "cpu" if cuda is not None and cuda.is_emulated else "cuda"


def launch(function, like, *args):
    """Runs function(*args, stream) on the device and the current stream of the tensor `like`."""
    if DEVICE == "cpu":
        return function(*args, 0)
    index = like.device.index
    if index == torch._C._cuda_getDevice():
        return _launch(function, index, args)
    with torch.cuda.device(index):
        return _launch(function, index, args)


def _launch(function, index, args):
    cuda.set_device(index)  # the module has a CUDA runtime, and so a current device, of its own
    return function(*args, torch._C._cuda_getCurrentRawStream(index))


# torch aligns memory of the GPU to more than this, memory of the CPU, the emulator's, to less.
_ALIGNMENT = 256


def prepared_workspace(size, like):
    """Memory like that which a prepared call's workspace of so many bytes takes; None for 0. The
    call aligns it."""
    if size == 0:
        return None
    return torch.empty(size + _ALIGNMENT, dtype=torch.uint8, device=like.device)


def workspace(size, like):
    """Memory for a kernel's own use, not initialised: size bytes, 256-byte aligned; None for 0.

    It may be freed as soon as the kernel is enqueued: the caching allocator hands it only to work
    that comes later in the same stream."""
    if size == 0:
        return None
    if DEVICE == "cuda":
        return torch.empty(size, dtype=torch.uint8, device=like.device)
    padded = torch.empty(size + _ALIGNMENT, dtype=torch.uint8, device=like.device)
    return padded[-padded.data_ptr() % _ALIGNMENT :][:size]


@constant_while_compiling  # compilers cannot look into a native module
def unusable_reason(index):
    """Why the module's kernels cannot run on a device, or None."""
    return _unusable_reason(index)


@functools.lru_cache(maxsize=64)
def _unusable_reason(index):
    if torch.version.hip is not None:
        return "torch is built for ROCm, the kernels for NVIDIA's GPUs"
    if (status := cuda.driver_status()) != "no error":
        return f"no device can be used: {status}"
    capability = device_properties(index)[3]
    archs = [name.removeprefix("sm_") for name in cuda.archs.split(", ") if name != "PTX"]
    numbers = [int(arch.rstrip("af")) for arch in archs]
    if "PTX" in cuda.archs and capability >= numbers[-1]:  # the PTX is that of the last arch
        return None
    for arch, number in zip(archs, numbers):
        same_major = number // 10 == capability // 10
        if number == capability or (same_major and number < capability and arch.isdigit()):
            return None
    return f"the kernels were built for {cuda.archs}, the device is sm_{capability}"


@functools.lru_cache(maxsize=64)
def device_properties(index):
    """(SM count, shared memory of a block in bytes, L2 in bytes, compute capability as 90)."""
    return cuda.device_properties(index)
