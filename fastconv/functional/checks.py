"""Arguments, read as torch reads them. Errors are of the classes that torch raises; each names the
argument, what was got and what was expected."""

import operator

import torch

from ..geometry import Conv2dGeometry, Conv3dGeometry


def tensor(name, value, function):
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"{function}(): {name} must be a Tensor, got {type(value).__name__}")
    return value


def image(value, function):
    """The input, a tensor with sizes."""
    tensor("input", value, function)
    if value.is_nested:
        raise NotImplementedError(f"{function}(): input must not be a nested tensor")
    return value


def _integer(value):
    """value as an int, or as it is if it is a symbolic one; None for anything else, a bool too."""
    if type(value) is int:
        return value
    if isinstance(value, torch.Tensor):
        is_index = value.numel() == 1 and not value.is_floating_point() and not value.is_complex()
        return int(value) if is_index else None
    if isinstance(value, torch.SymInt):
        return value
    if isinstance(value, bool):
        return None
    try:
        return operator.index(value)  # numpy's integers wrap
    except TypeError:
        return None


def _fits(value):
    return isinstance(value, torch.SymInt) or -(2**63) <= value < 2**63


def integer(name, value, function, expected="an int"):
    """One int. TypeError for anything else, ValueError where it does not fit into 64 bits."""
    if type(value) is int and abs(value) < 2**63:  # what nearly every call passes
        return value
    result = _integer(value)
    if result is None:
        raise TypeError(
            f"{function}(): {name} must be {expected}, got {value!r} ({type(value).__name__})"
        )
    if not _fits(result):
        raise ValueError(f"{function}(): {name}={result} does not fit into 64 bits")
    return result


def integers(name, value, function):
    """An int, or a list or tuple of ints, as a tuple. TypeError for anything else and where an item
    does not fit into 64 bits, ValueError where an int alone does not."""
    if type(value) is int and abs(value) < 2**63:
        return (value,)
    expected = "an int or a tuple of ints"
    if not isinstance(value, (tuple, list)):
        return (integer(name, value, function, expected),)
    result = tuple(map(_integer, value))
    if None in result or not all(map(_fits, result)):
        raise TypeError(
            f"{function}(): {name} must be {expected} of at most 64 bits, got {value!r} "
            f"({type(value).__name__})"
        )
    return result


def per_axis(name, value, function, axes):
    """An int, or a list or tuple of 1 or `axes` ints, as `axes` ints: (horizontal,) or (vertical,
    horizontal). RuntimeError for another number of them."""
    if type(value) is int and abs(value) < 2**63:  # what nearly every call passes
        return (value,) * axes
    values = integers(name, value, function)
    if len(values) not in (1, axes):
        raise RuntimeError(
            f"{function}(): expected {name} to be a single integer value or a list of {axes} "
            f"values to match the convolution dimensions, but got {name}={list(values)}"
        )
    return values * axes if len(values) == 1 else values


def same_padding(kernel_size, dilation):
    """Padding of padding="same" for stride 1: ((top, left), (extra bottom, extra right)), or of one
    axis ((left,), (extra right,)).

    total = dilation * (kernel - 1); where it is odd the extra row goes to the bottom or right."""
    totals = [d * (k - 1) for d, k in zip(dilation, kernel_size)]
    return tuple(t // 2 for t in totals), tuple(t % 2 for t in totals)


def ranks_and_dtypes(x, w, b, axes, function, w_size):
    """RuntimeError unless input and weight have the ranks of a convolution along so many axes and
    all dtypes agree; w_size says in letters what the weight is to be."""
    if w.dim() != axes + 2:
        raise RuntimeError(
            f"{function}(): expected a {axes + 2}-dimensional weight {w_size}, but got weight of "
            f"size {list(w.shape)}. Expected {w.dim()}-dimensional input for {w.dim()}-dimensional "
            "weight" + ("; weight should have at least three dimensions" if w.dim() < 3 else "")
        )
    if x.dim() not in (axes + 1, axes + 2):
        raise RuntimeError(
            f"Expected {axes + 1}D (unbatched) or {axes + 2}D (batched) input to {function}, but "
            f"got input of size: {list(x.shape)}"
        )
    for name, other in (("weight", w), ("bias", b)):
        if other is not None and other.dtype != x.dtype:
            raise RuntimeError(
                f"{function}(): Input type ({x.dtype}) and {name} type ({other.dtype}) should be "
                "the same"
            )


def conv_channels(x, w, b, groups):
    """RuntimeError unless channels, filters, groups and bias fit together."""
    if w.shape[0] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, but "
            f"got weight of size {list(w.shape)} instead"
        )
    if w.shape[0] % groups != 0:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, "
            f"but got weight of size {list(w.shape)} instead"
        )
    channels = x.shape[1 - w.dim()]
    if channels != w.shape[1] * groups:
        raise RuntimeError(
            f"Given groups={groups}, weight of size {list(w.shape)}, expected input{list(x.shape)} "
            f"to have {w.shape[1] * groups} channels, but got {channels} channels instead"
        )
    if b is not None and (b.dim() != 1 or b.shape[0] != w.shape[0]):
        raise RuntimeError(
            f"Given weight of size {list(w.shape)}, expected bias to be 1-dimensional with "
            f"{w.shape[0]} elements, but got bias of size {list(b.shape)} instead"
        )


def conv_geometry(stride, padding, dilation, groups, kernel_size):
    """(Conv2dGeometry, what padding="same" adds at the bottom and on the right alone); for a
    kernel_size of one axis, the geometry of its planes of one row, of three axes a Conv3dGeometry.
    RuntimeError unless stride, dilation and groups are positive and padding is not negative."""
    axes = len(kernel_size)
    function = f"conv{axes}d"
    stride = per_axis("stride", stride, function, axes)
    dilation = per_axis("dilation", dilation, function, axes)
    extra = (0,) * axes
    if isinstance(padding, str):
        padding, extra = _named_padding(padding, stride, kernel_size, dilation)
    else:
        padding = per_axis("padding", padding, function, axes)
    raise_unless_positive(stride, padding, dilation, groups, function)
    if axes == 3:
        return Conv3dGeometry(stride, padding, dilation, groups), extra
    if axes == 1:
        stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
    return Conv2dGeometry(stride, padding, dilation, groups), extra


def _named_padding(padding, stride, kernel_size, dilation):
    function = f"conv{len(kernel_size)}d"
    if padding == "valid":
        return ((0,) * len(kernel_size),) * 2
    if padding != "same":
        raise RuntimeError(
            f"{function}(): Invalid padding string: {padding!r}, should be 'valid' or 'same'"
        )
    if any(step != 1 for step in stride):
        raise RuntimeError(
            f"{function}(): padding='same' is not supported for strided convolutions"
        )
    return same_padding(kernel_size, dilation)


def raise_unless_positive(stride, padding, dilation, groups, function):
    """RuntimeError unless stride, dilation and groups are positive and padding is not negative."""
    for name, values in (("stride", stride), ("dilation", dilation), ("groups", (groups,))):
        if any(value <= 0 for value in values):
            raise RuntimeError(
                f"{function}(): non-positive {name} is not supported; {name} should be greater "
                f"than zero, got {name}={list(values)}"
            )
    if any(value < 0 for value in padding):
        raise RuntimeError(
            f"{function}(): negative padding is not supported, got padding={list(padding)}"
        )


def conv_reach(x_size, w_size, geometry):
    """RuntimeError unless the dilated kernel fits into the padded input."""
    axes = len(w_size) - 2
    if any(size <= 0 for size in w_size[2:]):
        raise RuntimeError(f"conv{axes}d(): weight of size {list(w_size)} has an empty kernel")
    padded = [size + 2 * pad for size, pad in zip(x_size[-axes:], geometry.padding[-axes:])]
    reach = [d * (size - 1) + 1 for size, d in zip(w_size[2:], geometry.dilation[-axes:])]
    if any(size < taken for size, taken in zip(padded, reach)):
        raise RuntimeError(
            f"Calculated padded input size per channel: ({by(padded)}). Kernel size: "
            f"({by(reach)}). Kernel size can't be greater than actual input size"
        )


def by(sizes):
    return " x ".join(map(str, sizes))
