"""Arguments, read as torch reads them. Errors are of the classes that torch raises; each names the
argument, what was got and what was expected."""

import operator

import torch

from ..geometry import Conv2dGeometry


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


def pair(name, value, function):
    """An int or 1 or 2 ints as (vertical, horizontal). RuntimeError for another number of them."""
    if type(value) is int and abs(value) < 2**63:  # what nearly every call passes
        return value, value
    values = integers(name, value, function)
    if len(values) not in (1, 2):
        raise RuntimeError(
            f"{function}(): expected {name} to be a single integer value or a list of 2 values to "
            f"match the convolution dimensions, but got {name}={list(values)}"
        )
    return values * 2 if len(values) == 1 else values


def same_padding(kernel_size, dilation):
    """Padding of padding="same" for stride 1: ((top, left), (extra bottom, extra right)).

    total = dilation * (kernel - 1); where it is odd the extra row goes to the bottom or right."""
    totals = [d * (k - 1) for d, k in zip(dilation, kernel_size)]
    return tuple(t // 2 for t in totals), tuple(t % 2 for t in totals)


def ranks_and_dtypes(x, w, b, function, w_size):
    """RuntimeError unless input and weight have the ranks of a 2-D convolution and all dtypes
    agree; w_size says in letters what the weight is to be."""
    if w.dim() != 4:
        raise RuntimeError(
            f"{function}(): expected a 4-dimensional weight {w_size}, but got weight of size "
            f"{list(w.shape)}. Expected {w.dim()}-dimensional input for {w.dim()}-dimensional "
            "weight"
        )
    if x.dim() not in (3, 4):
        raise RuntimeError(
            f"Expected 3D (unbatched) or 4D (batched) input to {function}, but got input of size: "
            f"{list(x.shape)}"
        )
    for name, other in (("weight", w), ("bias", b)):
        if other is not None and other.dtype != x.dtype:
            raise RuntimeError(
                f"{function}(): Input type ({x.dtype}) and {name} type ({other.dtype}) should be "
                "the same"
            )


def conv2d_channels(x, w, b, groups):
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
    channels = x.shape[-3]
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


def conv2d_geometry(stride, padding, dilation, groups, kernel_size):
    """(Conv2dGeometry, (extra bottom, extra right)): what padding="same" adds on those two sides
    alone. RuntimeError unless stride, dilation and groups are positive and padding is not
    negative."""
    stride = pair("stride", stride, "conv2d")
    dilation = pair("dilation", dilation, "conv2d")
    extra = (0, 0)
    if isinstance(padding, str):
        padding, extra = _named_padding(padding, stride, kernel_size, dilation)
    else:
        padding = pair("padding", padding, "conv2d")
    raise_unless_positive(stride, padding, dilation, groups, "conv2d")
    return Conv2dGeometry(stride, padding, dilation, groups), extra


def _named_padding(padding, stride, kernel_size, dilation):
    if padding == "valid":
        return (0, 0), (0, 0)
    if padding != "same":
        raise RuntimeError(
            f"conv2d(): Invalid padding string: {padding!r}, should be 'valid' or 'same'"
        )
    if stride != (1, 1):
        raise RuntimeError("conv2d(): padding='same' is not supported for strided convolutions")
    return same_padding(kernel_size, dilation)


def raise_unless_positive(stride, padding, dilation, groups, function):
    (s0, s1), (d0, d1), (p0, p1) = stride, dilation, padding
    if s0 > 0 and s1 > 0 and d0 > 0 and d1 > 0 and groups > 0 and p0 >= 0 and p1 >= 0:
        return
    for name, values in (("stride", stride), ("dilation", dilation), ("groups", (groups,))):
        if any(value <= 0 for value in values):
            raise RuntimeError(
                f"{function}(): non-positive {name} is not supported; {name} should be greater "
                f"than zero, got {name}={list(values)}"
            )
    raise RuntimeError(
        f"{function}(): negative padding is not supported, got padding={list(padding)}"
    )


def conv2d_reach(x_size, w_size, geometry):
    """RuntimeError unless the dilated kernel fits into the padded input."""
    R, S = w_size[2:]
    if R <= 0 or S <= 0:
        raise RuntimeError(f"conv2d(): weight of size {list(w_size)} has an empty kernel")
    padding, dilation = geometry.padding, geometry.dilation
    H, W = x_size[-2] + 2 * padding[0], x_size[-1] + 2 * padding[1]
    reach_h, reach_w = dilation[0] * (R - 1) + 1, dilation[1] * (S - 1) + 1
    if H < reach_h or W < reach_w:
        raise RuntimeError(
            f"Calculated padded input size per channel: ({H} x {W}). Kernel size: ({reach_h} x "
            f"{reach_w}). Kernel size can't be greater than actual input size"
        )
