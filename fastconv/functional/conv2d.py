"""fastconv.conv2d: arguments checked and normalised, a backend chosen, the call differentiated."""

import torch.nn.functional as F
from torch import Tensor

from .. import activations
from ..autograd.conv2d import fprop
from ..autograd.prepared_conv2d import FPROP, remember_product
from ..prepared import CallCache, is_traced
from . import checks
from .convolve import autocast, batched, check_residual, convolve
from .tracing import traceable


def _by_aten(*args, activation=None, residual=None, **kwargs):
    """conv2d by torch's functions, which check what they are given."""
    _check_activation(activation)
    y = F.conv2d(*args, **kwargs)
    y = y if residual is None else y + residual
    return y if activation is None else activations.by_torch(activation, y)


_known = CallCache()


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
        y = _known(
            input, weight, bias, stride, padding, dilation, groups, activation, residual, backend
        )
        if y is not None:
            return y
    arguments = (input, weight, bias, stride, padding, dilation, groups)
    return _conv2d(*arguments, activation=activation, residual=residual, backend=backend)


@traceable("conv2d", _by_aten)
def _conv2d(
    input, weight, bias, stride, padding, dilation, groups, *, activation, residual, backend
):
    """conv2d where it was not met before."""
    checks.image(input, "conv2d")
    checks.tensor("weight", weight, "conv2d")
    if bias is not None:
        checks.tensor("bias", bias, "conv2d")
    if residual is not None:
        checks.tensor("residual", residual, "conv2d")
    _check_activation(activation)
    x, w, b, residual = autocast(input, weight, bias, residual)
    groups = checks.integer("groups", groups, "conv2d")
    checks.ranks_and_dtypes(x, w, b, "conv2d", "(K, C/groups, R, S)")
    geometry, extra = checks.conv2d_geometry(stride, padding, dilation, groups, w.shape[2:])
    checks.conv2d_channels(x, w, b, groups)
    if extra != (0, 0):
        x = F.pad(x, (0, extra[1], 0, extra[0]))
    checks.conv2d_reach(x.shape, w.shape, geometry)
    size = (*x.shape[:-3], w.shape[0], *geometry.out_plane(x.shape, w.shape))
    check_residual(residual, size, x, "conv2d")

    x4 = batched(x)
    call = (tuple(x4.shape), tuple(w.shape), geometry)
    found = convolve(
        "conv2d", fprop, x4, w, b, batched(residual), geometry, call, activation, backend
    )
    if found is None:
        return _by_aten(x, w, b, *geometry, activation=activation, residual=residual)
    y, chosen, fused = found
    if x.dim() == 3:
        return y.squeeze(0)
    if x is input and fused and not is_traced():
        epilogue = activation or "none"
        arguments = (
            *(input, weight, bias, stride, padding, dilation, groups),
            *(activation, residual, backend),
        )
        tensors = (x, w, b, residual, y)
        remember_product(FPROP, _known, arguments, *tensors, geometry, epilogue, chosen)
    return y


def _check_activation(activation):
    if activation is not None:
        activations.parse(activation)
