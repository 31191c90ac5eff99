"""A pooling along one axis or two whose arguments were checked: a backend is chosen, the call is
differentiated, and remembered (prepared.py)."""

from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from ..autograd.pool2d import avg_fwd, max_fwd, max_values
from ..autograd.prepared_pool2d import remember_avg, remember_max
from ..backends import BACKENDS
from ..dispatch import is_inference, select
from ..geometry import from_planes, to_planes
from ..prepared import is_traced

# A Tensor, or with return_indices (Tensor, Tensor).
MaxPooled: TypeAlias = Tensor | tuple[Tensor, Tensor]


def maximum(operator, x, axes, windows, return_indices, backend, by_aten, cache, arguments):
    """A max pooling along so many axes. by_aten: the arguments of torch's function; arguments: of
    ours, by which `cache` is to know the call."""
    x4, chosen = choose(operator, x, axes, windows, backend)
    if chosen is None:
        return getattr(F, operator)(x, *by_aten, return_indices=return_indices)
    if not return_indices and is_inference(x4):
        y, places = max_values(x4, windows, chosen), None
    else:
        offsets = not return_indices and BACKENDS[chosen].saves_offsets(windows)
        y, places = max_fwd(x4, windows, offsets, chosen)
    if x.dim() == axes + 2 and not is_traced():
        remember_max(cache, arguments, x4, axes, windows, y, places, return_indices, chosen)
    if not return_indices:
        return like_input(y, x, axes)
    return like_input(y, x, axes), like_input(places, x, axes)


def average(
    operator, x, axes, windows, count_include_pad, divisor, backend, by_aten, cache, arguments
):
    """An average pooling; arguments as in maximum()."""
    x4, chosen = choose(operator, x, axes, windows, backend)
    if chosen is None:
        return getattr(F, operator)(x, *by_aten)
    y = avg_fwd(x4, windows, count_include_pad, divisor, chosen)
    if x.dim() == axes + 2 and not is_traced():
        remember_avg(cache, arguments, x4, axes, windows, count_include_pad, divisor, y, chosen)
    return like_input(y, x, axes)


def choose(operator, x, axes, windows, backend):
    """(x as planes of images, the name of a backend, or None for ATen)."""
    x4 = to_planes(x, axes)
    x4 = x4 if x4.dim() == 4 else x4.unsqueeze(0)
    return x4, select(operator, (x4,), (tuple(x4.shape), windows), backend)


def like_input(result, x, axes):
    """A result of planes with the input's dimensions."""
    if x.dim() == 4:
        return result
    if result.numel() > 0 or not torch.compiler.is_compiling():
        result = from_planes(result, axes)
        return result if x.dim() == axes + 2 else result.squeeze(0)
    # To other views of an empty tensor Inductor gives strides of 0.
    kept = [i for i in range(4) if (i > 0 or x.dim() == axes + 2) and (i != 2 or axes == 2)]
    size, strides = result.shape, result.stride()
    return result.as_strided([size[i] for i in kept], [strides[i] for i in kept])
