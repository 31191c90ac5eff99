"""A transposed convolution along one axis or two that was not met before: arguments checked and
normalised; then it is the dgrad of a convolution, with an epilogue, and is remembered
(prepared.py)."""

import torch.nn.functional as F

from ..autograd.conv2d import conv_transpose
from ..autograd.prepared_conv2d import CONV_TRANSPOSE, remember_product
from ..dispatch import leave_to_aten
from ..geometry import from_planes, image_to_planes, to_planes
from ..prepared import is_traced
from . import checks, checks_conv_transpose
from .convolve import autocast, batched, check_kinds, check_residual, convolve

_WEIGHTS = {1: "(C, K/groups, S)", 2: "(C, K/groups, R, S)"}  # by the number of axes


def transposed(
    axes, cache, aten, input, weight, bias, stride, padding, output_padding, groups, dilation,
    activation, residual, backend,
):  # fmt: skip
    """fastconv.conv_transpose1d or conv_transpose2d, by the number of axes; `cache` and `aten` as
    in convolution()."""
    operator = f"conv_transpose{axes}d"
    check_kinds(operator, input, weight, bias, residual, activation)
    x, w, b, residual = autocast(input, weight, bias, residual)
    groups = checks.integer("groups", groups, operator)
    checks.ranks_and_dtypes(x, w, b, axes, operator, _WEIGHTS[axes])
    geometry = checks_conv_transpose.geometry(
        stride, padding, output_padding, groups, dilation, axes
    )
    checks_conv_transpose.channels(x, w, b, groups)

    x4, w4, residual4 = image_to_planes(x, axes), to_planes(w, axes), to_planes(residual, axes)
    if x.dim() == axes + 1:
        x4, residual4 = batched(x4), batched(residual4)
    pixels = geometry.out_size(x4.shape, w4.shape)[-axes:]
    size = (*x.shape[: -axes - 1], w.shape[1] * groups, *pixels)
    checks_conv_transpose.sizes(x, w, size)
    check_residual(residual, size, x, operator)

    def leave():
        stride, padding, dilation, _, output_padding = geometry
        pairs = [pair[-axes:] for pair in (stride, padding, output_padding)]
        arguments = (x, w, b, *pairs, groups, dilation[-axes:])
        return aten(*arguments, activation=activation, residual=residual)

    is_empty = checks_conv_transpose.is_empty_batch(x, axes)
    if is_empty and any(count <= 0 for count in (*x.shape[-axes:], *pixels)):
        leave_to_aten(operator, x, "no pixels: torch defines the result", backend)
        return leave()
    # The convolution whose dgrad this is has more rows and columns than x where output_padding is
    # not below stride: these are zeros.
    within = geometry
    more = tuple(o // s for o, s in zip(geometry.output_padding, geometry.stride))
    if more != (0, 0):
        x4 = F.pad(x4, (0, more[1], 0, more[0]))
        rest = tuple(o % s for o, s in zip(geometry.output_padding, geometry.stride))
        within = geometry._replace(output_padding=rest)
    call = (within.out_size(x4.shape, w4.shape), tuple(w4.shape), within.convolution())
    tensors = (x4, w4, b, residual4)
    found = convolve(operator, conv_transpose, *tensors, within, call, activation, backend)
    if found is None:
        return leave()
    y4, chosen, fused = found
    y = from_planes(y4, axes)
    if x.dim() == axes + 1:
        return y.squeeze(0)
    if x is input and within is geometry and fused and not is_traced():
        arguments = (
            *(input, weight, bias, stride, padding, output_padding, groups, dilation),
            *(activation, residual, backend),
        )
        epilogue = activation or "none"
        remember_product(
            CONV_TRANSPOSE, cache, arguments, axes, *tensors, y4, geometry, epilogue, chosen
        )
    return y
