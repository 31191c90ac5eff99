"""From tensors to addresses: the last check before native code reads memory."""

import torch

from ..problem import memory_format

NO_STRIDES = (0, 0, 0, 0)


def check_operand(name, tensor, size, like, dtype=None):
    """RuntimeError unless a tensor has this size, the device of `like`, and this or its dtype."""
    dtype = dtype or like.dtype
    if tensor.shape != size or tensor.dtype != dtype or tensor.device != like.device:
        raise RuntimeError(
            f"expected {name} of size {list(size)}, {dtype} on {like.device}, got size "
            f"{list(tensor.shape)}, {tensor.dtype} on {tensor.device}"
        )


def empty(size, like, channels_last):
    """A 4-D tensor, not initialised, of the dtype and device of `like`."""
    return torch.empty(
        size, dtype=like.dtype, device=like.device, memory_format=memory_format(channels_last)
    )


def readable(tensor):
    """The tensor as kernels may read it: torch's lazy negation and lazy zeros carried out.

    RuntimeError where an element lies outside of the storage, which can be resized under a tensor:
    kernels follow the strides. The result may be a new tensor: keep it until the kernel has run."""
    if tensor.is_neg():
        tensor = tensor.resolve_neg()
    if tensor._is_zerotensor():
        tensor = torch.zeros(tensor.shape, dtype=tensor.dtype, device=tensor.device)
    if tensor.numel() == 0:
        return tensor
    end = tensor.storage_offset()
    # Nearly every tensor is dense, and the loop below costs more than everything else here.
    if tensor.is_contiguous() or (
        tensor.dim() == 4 and tensor.is_contiguous(memory_format=torch.channels_last)
    ):
        end += tensor.numel()
    else:
        end += 1
        for size, stride in zip(tensor.shape, tensor.stride()):
            end += (size - 1) * stride
    needed = end * tensor.element_size()
    if needed > tensor.untyped_storage().nbytes():
        raise RuntimeError(
            f"a tensor of size {list(tensor.shape)} and strides {list(tensor.stride())} reaches "
            f"byte {needed} of a storage of {tensor.untyped_storage().nbytes()} bytes"
        )
    return tensor


def location(tensor, device="cpu"):
    """(address, strides in elements) of a 4-D tensor; (0, zeros) for None.

    RuntimeError for a tensor of other dimensions or on another type of device."""
    if tensor is None:
        return 0, NO_STRIDES
    there = tensor.is_cpu if device == "cpu" else tensor.device.type == device
    if not there or tensor.dim() != 4:
        raise RuntimeError(
            f"expected 4-D tensors on {device}, got size {list(tensor.shape)} on {tensor.device}"
        )
    return tensor.data_ptr(), tensor.stride()


def optional_strides(tensor):
    """A tensor's strides; None for None."""
    return None if tensor is None else tensor.stride()
