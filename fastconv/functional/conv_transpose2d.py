"""fastconv.conv_transpose2d: arguments checked and normalised; then a transposed convolution is the
dgrad of a convolution, with an epilogue."""

import torch.nn.functional as F
from torch import Tensor

from ..autograd.conv2d import conv_transpose
from ..autograd.prepared_conv2d import CONV_TRANSPOSE, remember_product
from ..dispatch import leave_to_aten
from ..prepared import CallCache, is_traced
from . import checks, checks_conv_transpose2d
from .convolve import autocast, batched, by_aten, check_kinds, check_residual, convolve
from .tracing import traceable

known = CallCache()
_aten = by_aten(F.conv_transpose2d)


def conv_transpose2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] = 0,
    output_padding: int | tuple[int, int] = 0,
    groups: int = 1,
    dilation: int | tuple[int, int] = 1,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """2-D transposed convolution with an optional epilogue: activation(conv + bias + residual).

    Equivalent to torch.nn.functional.conv_transpose2d followed by the additions and the activation,
    with the same dtypes, memory formats, autocast rules and derivatives of every order. It is the
    gradient of conv2d with respect to its input. On the CPU the epilogue is part of the same pass;
    the CUDA and Triton backends run it as a second kernel, after a rounding to the dtype.

    Args:
        input: (N, C, H, W) or unbatched (C, H, W).
        weight: (C, K/groups, R, S), same dtype.
        bias: (K) or None.
        stride, dilation: positive int or (vertical, horizontal), in pixels.
        padding: int or pair, in pixels: dilation*(R-1) - padding zeros are added to the input on
            each side, so that larger values make the result smaller.
        output_padding: int or pair, in pixels: what the result has more at the bottom and on the
            right; below stride or below dilation.
        groups: C and K are divided into this many independent groups.
        activation, residual, backend: as in fastconv.conv2d.

    Returns:
        (N, K, P, Q), or (K, P, Q) unbatched, with
        P = (H - 1)*stride - 2*padding + dilation*(R-1) + output_padding + 1
        (torch.nn.ConvTranspose2d), Q alike. channels_last if input or weight is, as torch decides
        it. float16 and bfloat16 are summed in float32.

    Raises:
        TypeError, RuntimeError: as torch.nn.functional.conv_transpose2d for the same arguments.
        ValueError: unknown activation or backend, or a parameter that the activation has not.
        NotImplementedError: the named backend has no kernel for this call.
    """
    if not is_traced():
        y = known(
            *(input, weight, bias, stride, padding, output_padding, groups, dilation),
            *(activation, residual, backend),
        )
        if y is not None:
            return y
    arguments = (input, weight, bias, stride, padding, output_padding, groups, dilation)
    return _conv_transpose2d(*arguments, activation=activation, residual=residual, backend=backend)


@traceable("conv_transpose2d", _aten)
def _conv_transpose2d(
    input,
    weight,
    bias,
    stride,
    padding,
    output_padding,
    groups,
    dilation,
    *,
    activation,
    residual,
    backend,
):
    function = "conv_transpose2d"
    check_kinds(function, input, weight, bias, residual, activation)
    x, w, b, residual = autocast(input, weight, bias, residual)
    groups = checks.integer("groups", groups, function)
    checks.ranks_and_dtypes(x, w, b, 2, function, "(C, K/groups, R, S)")
    geometry = checks_conv_transpose2d.geometry(stride, padding, output_padding, groups, dilation)
    checks_conv_transpose2d.channels(x, w, b, groups)
    checks_conv_transpose2d.sizes(x, w, geometry)
    y_size = geometry.out_size(x.shape, w.shape)
    check_residual(residual, y_size, x, function)

    def leave():
        return _aten(
            *(x, w, b, geometry.stride, geometry.padding, geometry.output_padding),
            *(groups, geometry.dilation),
            activation=activation,
            residual=residual,
        )

    if checks_conv_transpose2d.is_empty_batch(x) and min(*x.shape[2:], *y_size[2:]) <= 0:
        leave_to_aten(function, x, "no pixels: torch defines the result", backend)
        return leave()
    x4, within = batched(x), geometry
    # The convolution whose dgrad this is has more rows and columns than x where output_padding is
    # not below stride: these are zeros.
    more = tuple(o // s for o, s in zip(geometry.output_padding, geometry.stride))
    if more != (0, 0):
        x4 = F.pad(x4, (0, more[1], 0, more[0]))
        rest = tuple(o % s for o, s in zip(geometry.output_padding, geometry.stride))
        within = geometry._replace(output_padding=rest)
    call = (within.out_size(x4.shape, w.shape), tuple(w.shape), within.convolution())
    found = convolve(
        function, conv_transpose, x4, w, b, batched(residual), within, call, activation, backend
    )
    if found is None:
        return leave()
    y, chosen, fused = found
    if x.dim() == 3:
        return y.squeeze(0)
    if x4 is input and fused and not is_traced():
        arguments = (
            *(input, weight, bias, stride, padding, output_padding, groups, dilation),
            *(activation, residual, backend),
        )
        tensors = (x, w, b, residual, y)
        epilogue = activation or "none"
        remember_product(CONV_TRANSPOSE, known, arguments, 2, *tensors, within, epilogue, chosen)
    return y
