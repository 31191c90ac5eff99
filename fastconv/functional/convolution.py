"""A convolution along one axis or two that was not met before: arguments checked and normalised, a
backend chosen, the call differentiated, and remembered (prepared.py)."""

import torch
import torch.nn.functional as F

from .. import activations
from ..autograd.conv2d import fprop
from ..autograd.epilogue import activation_forward
from ..autograd.prepared_conv2d import remember_fprop
from ..dispatch import is_inference, select
from ..geometry import from_planes, to_planes
from ..prepared import is_traced
from ..problem import suggests_channels_last
from . import checks


def by_aten(convolve):
    """What `convolve`, torch's conv1d or conv2d, makes of our function's arguments, which it
    checks."""

    def call(*args, activation=None, residual=None, **kwargs):
        _check_activation(activation)
        y = convolve(*args, **kwargs)
        y = y if residual is None else y + residual
        return y if activation is None else activations.by_torch(activation, y)

    return call


def convolution(
    axes, cache, aten, input, weight, bias, stride, padding, dilation, groups, activation,
    residual, backend,
):  # fmt: skip
    """fastconv.conv1d or conv2d, by the number of axes. `cache` is to know the call from now on;
    aten takes it where no kernel does, see by_aten."""
    operator = f"conv{axes}d"
    checks.image(input, operator)
    checks.tensor("weight", weight, operator)
    if bias is not None:
        checks.tensor("bias", bias, operator)
    if residual is not None:
        checks.tensor("residual", residual, operator)
    _check_activation(activation)
    x, w, b, residual = _autocast(input, weight, bias, residual)
    groups = checks.integer("groups", groups, operator)
    checks.conv_ranks_and_dtypes(x, w, b, axes)
    geometry, extra = checks.conv_geometry(stride, padding, dilation, groups, w.shape[2:])
    checks.conv_channels(x, w, b, groups)
    if any(extra):
        x = F.pad(x, [side for pixels in reversed(extra) for side in (0, pixels)])
    checks.conv_reach(x.shape, w.shape, geometry)

    batched = x.dim() == axes + 2
    x4 = x if axes == 2 else _as_rows(x)
    w4, residual4 = to_planes(w, axes), to_planes(residual, axes)
    if not batched:
        x4 = x4.unsqueeze(0)
        residual4 = None if residual is None else residual4.unsqueeze(0)
    call = (tuple(x4.shape), tuple(w4.shape), geometry)
    _check_residual(operator, axes, residual, x, call)
    chosen = select(operator, (x4, w4, b, residual4), call, backend)
    if chosen is None:
        per_axis = (values[-axes:] for values in geometry[:3])
        return aten(x, w, b, *per_axis, groups, activation=activation, residual=residual)
    # Where backward needs the activation's input, it is fused only where nobody differentiates.
    fused = (
        activation is None
        or activations.saves_result(activation)
        or is_inference(x, w, b, residual)
    )
    epilogue = activation if activation is not None and fused else "none"
    y4 = fprop(x4, w4, b, residual4, geometry, epilogue, chosen)
    if activation is not None and not fused:
        y4 = activation_forward(y4, activation, chosen)
    y = from_planes(y4, axes)
    if not batched:
        return y.squeeze(0)
    if x is input and fused and not is_traced():
        arguments = (
            *(input, weight, bias, stride, padding, dilation, groups),
            *(activation, residual, backend),
        )
        planes = (x4, w4, b, residual4, y4)
        remember_fprop(cache, arguments, axes, *planes, geometry, epilogue, chosen)
    return y


def _as_rows(x):
    """x as planes of one row. The result of conv2d is channels_last if x is; for that of conv1d
    torch asks the weight alone. So the stride of H, which has one position, is here such that x is
    never channels_last."""
    x4 = to_planes(x, 1)
    if x4.dim() < 4 or not suggests_channels_last(x4):
        return x4
    return x.unsqueeze(-1).transpose(-1, -2)


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


def _check_residual(operator, axes, residual, x, call):
    if residual is None:
        return
    x_size, w_size, geometry = call
    size = (*x.shape[: -axes - 1], w_size[0], *geometry.out_plane(x_size, w_size)[-axes:])
    if tuple(residual.shape) != size or residual.dtype != x.dtype:
        raise RuntimeError(
            f"{operator}(): expected residual of size {list(size)} and type {x.dtype}, but got "
            f"size {list(residual.shape)} and type {residual.dtype}"
        )
