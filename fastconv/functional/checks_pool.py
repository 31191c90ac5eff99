"""Arguments of the pooling functions, read as torch reads them, with torch's error classes."""

import torch

from ..geometry import Pool2dWindows
from . import checks

_MAX_INT = 2**31 - 1
_COUNTS = {1: "one int", 2: "two ints"}  # by the number of axes


def _per_axis(name, value, function, axes):
    values = checks.integers(name, value, function)
    if len(values) not in (1, axes):
        raise RuntimeError(
            f"{function}: {name} must either be a single int, or a tuple of {_COUNTS[axes]}, got "
            f"{list(values)}"
        )
    return values * axes if len(values) == 1 else values


def flag(name, value, function):
    if not isinstance(value, bool):
        raise TypeError(f"{function}(): {name} must be a bool, got {type(value).__name__}")
    return value


def windows(function, x, axes, kernel_size, stride, padding, dilation, ceil_mode):
    """The Pool2dWindows of plain pooling along one axis or two. stride None or empty: the kernel
    size."""
    kernel_size = _per_axis("kernel_size", kernel_size, function, axes)
    absent = stride is None or (isinstance(stride, (list, tuple)) and not stride)
    stride = kernel_size if absent else _per_axis("stride", stride, function, axes)
    padding = _per_axis("padding", padding, function, axes)
    dilation = _per_axis("dilation", dilation, function, axes)
    _in_range(function, axes, kernel_size, stride, padding, dilation)
    if x.dim() not in (axes + 1, axes + 2) or any(size == 0 for size in x.shape[-axes - 1 :]):
        raise RuntimeError(
            f"{function}(): Expected {axes + 1}D or {axes + 2}D (batch mode) tensor with optional "
            f"0 dim batch size for input, but got:{list(x.shape)}"
        )
    flag("ceil_mode", ceil_mode, function)
    if axes == 1:
        kernel_size, stride, dilation = (1, *kernel_size), (1, *stride), (1, *dilation)
        padding = (0, *padding)
    result = Pool2dWindows(kernel_size, stride, padding, dilation, ceil_mode, ())
    _not_too_small(function, x, axes, result)
    return result


def _in_range(function, axes, kernel_size, stride, padding, dilation):
    """RuntimeError unless all sizes but padding are positive, and fit a kernel of their size."""
    sizes = {"kernel_size": kernel_size, "stride": stride, "dilation": dilation}
    for name, values in sizes.items():
        if any(value <= 0 for value in values):
            # torch's words: first along one axis, then along two.
            words = (
                f"{name} must be greater than zero, but got {values[0]}"
                if axes == 1
                else f"{name.replace('_', ' ')} should be greater than zero, but got "
                f"{name}={list(values)}"
            )
            raise RuntimeError(f"{function}(): {words}")
    for name, values in {**sizes, "padding": padding}.items():
        if any(value > _MAX_INT for value in values):
            raise RuntimeError(
                f"{function}(): {name} cannot be converted to a 32-bit int without overflow, got "
                f"{list(values)}"
            )
    for kernel, pad, step in zip(kernel_size, padding, dilation):
        if pad < 0:
            raise RuntimeError(f"{function}(): pad must be non-negative, but got pad: {pad}")
        reach = kernel if axes == 1 else (kernel - 1) * step + 1  # as torch's functions have it
        if pad > reach // 2:
            raise RuntimeError(
                f"{function}(): pad should be at most half of effective kernel size, but got "
                f"pad={pad}, kernel_size={kernel} and dilation={step}"
            )


def _not_too_small(function, x, axes, windows):
    """RuntimeError where no window fits."""
    sizes = windows.out_plane(x.shape)[-axes:]
    if any(size < 1 for size in sizes):
        got = "x".join(map(str, x.shape[-axes - 1 :]))
        out = "x".join(map(str, (x.shape[-axes - 1], *(max(size, 0) for size in sizes))))
        raise RuntimeError(
            f"{function}(): Given input size: ({got}). Calculated output size: ({out}). Output "
            f"size is too small. Invalid computed output size: {sizes[-1]}"
        )


def adaptive_windows(function, x, axes, output_size):
    """The Pool2dWindows of adaptive pooling. None in a pair: the input's size."""
    if axes == 1:
        sizes = checks.integers("output_size", output_size, function)
    elif isinstance(output_size, (int, torch.SymInt)):
        sizes = (checks.integer("output_size", output_size, function),) * 2
    elif hasattr(type(output_size), "__len__"):  # arrays and tensors, too
        items = _filled(function, x, output_size, len(output_size))
        sizes = checks.integers("output_size", items, function)
    else:
        raise TypeError(
            f"{function}(): output_size must be an int or a tuple of two ints or None, got "
            f"{output_size!r} ({type(output_size).__name__})"
        )
    if len(sizes) != axes:
        words = (
            "must be 2 sizes" if axes == 2 else "is no size: 'output_size' should contain one int"
        )
        raise RuntimeError(f"{function}(): output_size {words}, got {list(sizes)}")
    if any(size < 0 for size in sizes):
        raise RuntimeError(
            f"{function}: elements of output_size must be greater than or equal to 0 but received "
            f"{list(sizes)}"
        )
    return Pool2dWindows((), (), (), (), False, sizes if axes == 2 else (1, *sizes))


def adaptive_input(function, x, axes, channels_may_be_empty):
    """RuntimeError unless x has a rank and sizes that adaptive pooling takes."""
    if x.dim() not in (axes + 1, axes + 2):
        raise RuntimeError(
            f"{function}(): Expected {axes + 1}D or {axes + 2}D tensor, but got {list(x.shape)}"
        )
    # The first dimension counts as a batch here, also where it is the channels.
    is_batched = x.dim() == axes + 2
    for axis in range(-axes - 1 if is_batched and not channels_may_be_empty else -axes, 0):
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
