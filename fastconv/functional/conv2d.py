"""fastconv.conv2d. A call that was not met before goes on in convolution.py."""

import torch.nn.functional as F
from torch import Tensor

from ..prepared import CallCache, is_traced
from .convolution import convolution
from .convolve import by_aten
from .tracing import traceable

known = CallCache()
_aten = by_aten(F.conv2d)


def conv2d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int, int] = 1,
    padding: int | tuple[int, int] | str = 0,
    dilation: int | tuple[int, int] = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """2-D convolution with an optional fused epilogue: activation(conv + bias + residual).

    Equivalent to torch.nn.functional.conv2d followed by the additions and the activation, with the
    same dtypes, memory formats, autocast rules and derivatives of every order.

    Args:
        input: (N, C, H, W) or unbatched (C, H, W).
        weight: (K, C/groups, R, S), same dtype.
        bias: (K) or None.
        stride, dilation: positive int or (vertical, horizontal), in pixels.
        padding: int or pair, in pixels on each side, or "valid" (0) or "same" (output size = input
            size; stride 1 only; an odd pixel goes to the bottom or right).
        groups: C and K are divided into this many independent groups.
        activation: None, "relu", "relu6", "leaky_relu", "elu", "silu", "gelu" (exact, by erf),
            "mish", "hardswish", "sigmoid", "hardsigmoid" or "tanh": torch's function of that name.
            leaky_relu's negative_slope and elu's alpha are torch's defaults, 0.01 and 1, or stand
            in brackets: "leaky_relu(0.2)".
        residual: same shape as the result, added before the activation; or None.
        backend: None for the automatic choice, or a name (see fastconv.backend); a named backend
            never falls back.

    Returns:
        (N, K, P, Q), or (K, P, Q) unbatched, with
        P = floor((H + 2*padding - dilation*(R-1) - 1) / stride) + 1 (torch.nn.Conv2d), Q alike.
        channels_last if input or weight is, as torch decides it. float16 and bfloat16 are summed
        in float32.

    Raises:
        TypeError, RuntimeError, ValueError: as torch.nn.functional.conv2d for the same arguments.
        ValueError: unknown activation or backend, or a parameter that the activation has not.
        NotImplementedError: the named backend has no kernel for this call.
    """
    if not is_traced():
        y = known(
            input, weight, bias, stride, padding, dilation, groups, activation, residual, backend
        )
        if y is not None:
            return y
    arguments = (input, weight, bias, stride, padding, dilation, groups)
    return _conv2d(*arguments, activation=activation, residual=residual, backend=backend)


@traceable("conv2d", _aten)
def _conv2d(
    input, weight, bias, stride, padding, dilation, groups, *, activation, residual, backend
):
    """conv2d where it was not met before."""
    arguments = (input, weight, bias, stride, padding, dilation, groups)
    return convolution(2, known, _aten, *arguments, activation, residual, backend)
