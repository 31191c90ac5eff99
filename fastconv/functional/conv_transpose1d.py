"""fastconv.conv_transpose1d. A call that was not met before goes on in transposed.py."""

import torch.nn.functional as F
from torch import Tensor

from ..prepared import CallCache, is_traced
from .convolve import by_aten
from .tracing import traceable
from .transposed import transposed

known = CallCache()
_aten = by_aten(F.conv_transpose1d)


def conv_transpose1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] = 0,
    output_padding: int | tuple[int] = 0,
    groups: int = 1,
    dilation: int | tuple[int] = 1,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """1-D transposed convolution with an optional epilogue: activation(conv + bias + residual).

    Equivalent to torch.nn.functional.conv_transpose1d followed by the additions and the activation,
    with the same dtypes, memory formats, autocast rules and derivatives of every order. It is the
    gradient of conv1d with respect to its input. The epilogue is run as conv_transpose2d's.

    Args:
        input: (N, C, W) or unbatched (C, W).
        weight: (C, K/groups, S), same dtype.
        bias: (K) or None.
        stride, dilation: positive int, in pixels.
        padding: int, in pixels: dilation*(S-1) - padding zeros are added to the input on each side,
            so that larger values make the result smaller.
        output_padding: int, in pixels: what the result has more on the right; below stride or below
            dilation.
        groups: C and K are divided into this many independent groups.
        activation, residual, backend: as in fastconv.conv1d.

    Returns:
        (N, K, Q), or (K, Q) unbatched, with
        Q = (W - 1)*stride - 2*padding + dilation*(S-1) + output_padding + 1
        (torch.nn.ConvTranspose1d). Channels are adjacent in memory if weight's are, as torch
        decides it. float16 and bfloat16 are summed in float32.

    Raises:
        TypeError, RuntimeError: as torch.nn.functional.conv_transpose1d for the same arguments.
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
    return _conv_transpose1d(*arguments, activation=activation, residual=residual, backend=backend)


@traceable("conv_transpose1d", _aten)
def _conv_transpose1d(
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
    """conv_transpose1d where it was not met before."""
    arguments = (input, weight, bias, stride, padding, output_padding, groups, dilation)
    return transposed(1, known, _aten, *arguments, activation, residual, backend)
