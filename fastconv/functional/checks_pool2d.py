"""Arguments of the pooling functions, read as torch reads them, with torch's error classes."""

import torch

from ..geometry import Pool2dWindows
from . import checks

_MAX_INT = 2**31 - 1


def _pair(name, value, function):
    values = checks.integers(name, value, function)
    if len(values) not in (1, 2):
        raise RuntimeError(
            f"{function}: {name} must either be a single int, or a tuple of two ints, got "
            f"{list(values)}"
        )
    return values * 2 if len(values) == 1 else values


def flag(name, value, function):
    if not isinstance(value, bool):
        raise TypeError(f"{function}(): {name} must be a bool, got {type(value).__name__}")
    return value


def windows(function, x, kernel_size, stride, padding, dilation, ceil_mode):
    """The Pool2dWindows of plain pooling. stride None or empty: the kernel size."""
    kernel_size = _pair("kernel_size", kernel_size, function)
    absent = stride is None or (isinstance(stride, (list, tuple)) and not stride)
    stride = kernel_size if absent else _pair("stride", stride, function)
    padding = _pair("padding", padding, function)
    dilation = _pair("dilation", dilation, function)
    result = Pool2dWindows(
        kernel_size, stride, padding, dilation, flag("ceil_mode", ceil_mode, function), ()
    )
    for name in ("kernel_size", "stride", "dilation"):
        if any(value <= 0 for value in getattr(result, name)):
            raise RuntimeError(
                f"{function}(): {name.replace('_', ' ')} should be greater than zero, but got "
                f"{name}={list(getattr(result, name))}"
            )
    for name in ("kernel_size", "stride", "padding", "dilation"):
        if any(value > _MAX_INT for value in getattr(result, name)):
            raise RuntimeError(
                f"{function}(): {name} cannot be converted to a 32-bit int without overflow, got "
                f"{list(getattr(result, name))}"
            )
    for kernel, pad, step in zip(kernel_size, padding, dilation):
        if pad < 0:
            raise RuntimeError(f"{function}(): pad must be non-negative, but got pad: {pad}")
        if pad > ((kernel - 1) * step + 1) // 2:
            raise RuntimeError(
                f"{function}(): pad should be at most half of effective kernel size, but got "
                f"pad={pad}, kernel_size={kernel} and dilation={step}"
            )
    if x.dim() not in (3, 4) or any(size == 0 for size in x.shape[-3:]):
        raise RuntimeError(
            f"{function}(): Expected 3D or 4D (batch mode) tensor with optional 0 dim batch size "
            f"for input, but got:{list(x.shape)}"
        )
    C, H, W = x.shape[-3:]
    P, Q = result.out_plane(x.shape)
    if P < 1 or Q < 1:
        raise RuntimeError(
            f"{function}(): Given input size: ({C}x{H}x{W}). Calculated output size: "
            f"({C}x{max(P, 0)}x{max(Q, 0)}). Output size is too small"
        )
    return result


def adaptive_windows(function, x, output_size):
    """The Pool2dWindows of adaptive pooling. None in output_size: the input's size."""
    if isinstance(output_size, (int, torch.SymInt)):
        sizes = (checks.integer("output_size", output_size, function),) * 2
    elif hasattr(type(output_size), "__len__"):  # arrays and tensors, too
        items = _filled(function, x, output_size, len(output_size))
        sizes = checks.integers("output_size", items, function)
    else:
        raise TypeError(
            f"{function}(): output_size must be an int or a tuple of two ints or None, got "
            f"{output_size!r} ({type(output_size).__name__})"
        )
    if len(sizes) != 2:
        raise RuntimeError(f"{function}: output_size must be 2 sizes, got {list(sizes)}")
    if any(size < 0 for size in sizes):
        raise RuntimeError(
            f"{function}: elements of output_size must be greater than or equal to 0 but received "
            f"{list(sizes)}"
        )
    return Pool2dWindows((), (), (), (), False, sizes)


def adaptive_input(function, x, channels_may_be_empty):
    """RuntimeError unless x has a rank and sizes that adaptive pooling takes."""
    if x.dim() not in (3, 4):
        raise RuntimeError(f"{function}(): Expected 3D or 4D tensor, but got {list(x.shape)}")
    # The first of three dimensions counts as a batch here.
    for axis in range(-2 if channels_may_be_empty or x.dim() == 3 else -3, 0):
        if x.shape[axis] == 0:
            raise RuntimeError(
                f"{function}(): Expected input to have non-zero size for non-batch dimensions, but "
                f"input has sizes {list(x.shape)} with dimension {axis + x.dim()} being empty"
            )


def _filled(function, x, output_size, count):
    """The items of output_size, None among them replaced by the input's size."""
    if x.dim() <= count:
        raise ValueError(
            f"{function}(): Input dimension should be at least {count + 1}, got input of size "
            f"{list(x.shape)}"
        )
    return tuple(x.shape[i - count] if size is None else size for i, size in enumerate(output_size))
