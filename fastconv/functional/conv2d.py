"""fastconv.conv2d: arguments checked and normalised, a backend chosen, the call differentiated."""

import torch
import torch.nn.functional as F
from torch import Tensor

from .. import activations
from ..autograd.conv2d import fprop
from ..autograd.epilogue import activation_forward
from ..autograd.prepared_conv2d import remember_fprop
from ..dispatch import is_inference, select
from ..prepared import CallCache, is_traced
from . import checks
from .tracing import traceable


def _by_aten(*args, activation=None, residual=None, **kwargs):
    """conv2d by torch's functions, which check what they are given."""
    _check_activation(activation)
    y = F.conv2d(*args, **kwargs)
    y = y if residual is None else y + residual
    return y if activation is None else activations.by_torch(activation, y)


known = CallCache()


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
    x, w, b, residual = _autocast(input, weight, bias, residual)
    groups = checks.integer("groups", groups, "conv2d")
    checks.conv2d_ranks_and_dtypes(x, w, b)
    geometry, extra = checks.conv2d_geometry(stride, padding, dilation, groups, w.shape[2:])
    checks.conv2d_channels(x, w, b, groups)
    if extra != (0, 0):
        x = F.pad(x, (0, extra[1], 0, extra[0]))
    checks.conv2d_reach(x.shape, w.shape, geometry)
    _check_residual(residual, x, w, geometry)

    batched = x.dim() == 4
    x4, residual4 = x, residual
    if not batched:
        x4 = x.unsqueeze(0)
        residual4 = None if residual is None else residual.unsqueeze(0)
    call = (tuple(x4.shape), tuple(w.shape), geometry)
    chosen = select("conv2d", (x4, w, b, residual4), call, backend)
    if chosen is None:
        return _by_aten(x, w, b, *geometry, activation=activation, residual=residual)
    # Where backward needs the activation's input, it is fused only where nobody differentiates.
    fused = (
        activation is None
        or activations.saves_result(activation)
        or is_inference(x, w, b, residual)
    )
    epilogue = activation if activation is not None and fused else "none"
    y = fprop(x4, w, b, residual4, geometry, epilogue, chosen)
    if activation is not None and not fused:
        y = activation_forward(y, activation, chosen)
    if not batched:
        return y.squeeze(0)
    if x is input and fused and not is_traced():
        arguments = (
            *(input, weight, bias, stride, padding, dilation, groups),
            *(activation, residual, backend),
        )
        remember_fprop(known, arguments, x, w, b, residual, y, geometry, epilogue, chosen)
    return y


def _check_activation(activation):
    if activation is not None:
        activations.parse(activation)


def _autocast(*tensors):
    """Under autocast convolutions run in its dtype; float64 and integers are left alone.

    On devices without kernels of ours ATen sees the call, and its own autocast."""
    device = tensors[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    )


def _check_residual(residual, x, w, geometry):
    if residual is None:
        return
    size = (*x.shape[:-3], w.shape[0], *geometry.out_plane(x.shape, w.shape))
    if tuple(residual.shape) != size or residual.dtype != x.dtype:
        raise RuntimeError(
            f"conv2d(): expected residual of size {list(size)} and type {x.dtype}, but got size "
            f"{list(residual.shape)} and type {residual.dtype}"
        )
