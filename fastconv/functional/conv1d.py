"""fastconv.conv1d. A call that was not met before goes on in convolution.py."""

import torch.nn.functional as F
from torch import Tensor

from ..prepared import CallCache, is_traced
from .convolution import convolution
from .convolve import by_aten
from .tracing import traceable

known = CallCache()
_aten = by_aten(F.conv1d)


def conv1d(
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | tuple[int] = 1,
    padding: int | tuple[int] | str = 0,
    dilation: int | tuple[int] = 1,
    groups: int = 1,
    *,
    activation: str | None = None,
    residual: Tensor | None = None,
    backend: str | None = None,
) -> Tensor:
    """1-D convolution with an optional fused epilogue: activation(conv + bias + residual).

    Equivalent to torch.nn.functional.conv1d followed by the additions and the activation, with the
    same dtypes, memory formats, autocast rules and derivatives of every order.

    Args:
        input: (N, C, W) or unbatched (C, W).
        weight: (K, C/groups, S), same dtype.
        bias: (K) or None.
        stride, dilation: positive int, in pixels.
        padding: int, in pixels on each side, or "valid" (0) or "same" (output size = input size;
            stride 1 only; an odd pixel goes to the right).
        groups: C and K are divided into this many independent groups.
        activation: as in fastconv.conv2d.
        residual: same shape as the result, added before the activation; or None.
        backend: None for the automatic choice, or a name (see fastconv.backend); a named backend
            never falls back.

    Returns:
        (N, K, Q), or (K, Q) unbatched, with
        Q = floor((W + 2*padding - dilation*(S-1) - 1) / stride) + 1 (torch.nn.Conv1d). Channels are
        adjacent in memory if weight's are, as torch decides it. float16 and bfloat16 are summed in
        float32.

    Raises:
        TypeError, RuntimeError, ValueError: as torch.nn.functional.conv1d for the same arguments.
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
    return _conv1d(*arguments, activation=activation, residual=residual, backend=backend)


@traceable("conv1d", _aten)
def _conv1d(
    input, weight, bias, stride, padding, dilation, groups, *, activation, residual, backend
):
    """conv1d where it was not met before."""
    arguments = (input, weight, bias, stride, padding, dilation, groups)
    return convolution(1, known, _aten, *arguments, activation, residual, backend)
