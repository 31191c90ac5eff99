"""A convolution along one axis or two that was not met before: arguments checked and normalised, a
backend chosen, the call differentiated, and remembered (prepared.py)."""

import torch.nn.functional as F

from ..autograd.conv2d import fprop
from ..autograd.prepared_conv2d import FPROP, remember_product
from ..geometry import from_planes, image_to_planes, to_planes
from ..prepared import is_traced
from . import checks
from .convolve import autocast, batched, check_kinds, check_residual, convolve

_WEIGHTS = {1: "(K, C/groups, S)", 2: "(K, C/groups, R, S)"}  # by the number of axes


def convolution(
    axes, cache, aten, input, weight, bias, stride, padding, dilation, groups, activation,
    residual, backend,
):  # fmt: skip
    """fastconv.conv1d or conv2d, by the number of axes. `cache` is to know the call from now on;
    aten takes it where no kernel does, see convolve.by_aten."""
    operator = f"conv{axes}d"
    check_kinds(operator, input, weight, bias, residual, activation)
    x, w, b, residual = autocast(input, weight, bias, residual)
    groups = checks.integer("groups", groups, operator)
    checks.ranks_and_dtypes(x, w, b, axes, operator, _WEIGHTS[axes])
    geometry, extra = checks.conv_geometry(stride, padding, dilation, groups, w.shape[2:])
    checks.conv_channels(x, w, b, groups)
    if any(extra):
        x = F.pad(x, [side for pixels in reversed(extra) for side in (0, pixels)])
    checks.conv_reach(x.shape, w.shape, geometry)

    x4, w4, residual4 = image_to_planes(x, axes), to_planes(w, axes), to_planes(residual, axes)
    if x.dim() == axes + 1:
        x4, residual4 = batched(x4), batched(residual4)
    call = (tuple(x4.shape), tuple(w4.shape), geometry)
    size = (*x.shape[: -axes - 1], w.shape[0], *geometry.out_plane(*call[:2])[-axes:])
    check_residual(residual, size, x, operator)
    found = convolve(operator, fprop, x4, w4, b, residual4, geometry, call, activation, backend)
    if found is None:
        per_axis = (values[-axes:] for values in geometry[:3])
        return aten(x, w, b, *per_axis, groups, activation=activation, residual=residual)
    y4, chosen, fused = found
    y = from_planes(y4, axes)
    if x.dim() == axes + 1:
        return y.squeeze(0)
    if x is input and fused and not is_traced():
        arguments = (
            *(input, weight, bias, stride, padding, dilation, groups),
            *(activation, residual, backend),
        )
        planes = (x4, w4, b, residual4, y4)
        epilogue = activation or "none"
        remember_product(FPROP, cache, arguments, axes, *planes, geometry, epilogue, chosen)
    return y
