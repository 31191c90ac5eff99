"""fastconv.conv_transpose2d. A call that was not met before goes on in transposed.py."""

import torch.nn.functional as F
from torch import Tensor

from ..prepared import CallCache, is_traced
from .convolve import by_aten
from .tracing import traceable
from .transposed import transposed

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
    """conv_transpose2d where it was not met before."""
    arguments = (input, weight, bias, stride, padding, output_padding, groups, dilation)
    return transposed(2, known, _aten, *arguments, activation, residual, backend)
