"""fastconv.export_decompositions: fastconv's operators in terms of ATen's, for exported programs
that are to run, or to be converted, where fastconv is not installed."""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch._ops import OperatorBase

from .activations import by_torch, parse
from .ops import conv2d, pool2d
from .problem import memory_format

_aten = torch.ops.aten


def export_decompositions() -> dict[OperatorBase, Callable]:
    """The decomposition table of fastconv's operators: `program.run_decompositions(table)` replaces
    them by ATen's in a program that torch.export.export made, for tools that know ATen's only.

    torch.onnx.export needs the table only where it is given such a program; given a module, it
    records ATen's operators by itself.

    Returns:
        A new dict: torch.ops.fastconv operator -> function of the same arguments. A backend that
        the program names has no effect on it.
    """
    return {op.overload: op.schema.adapt(function) for op, function in _DECOMPOSITIONS.items()}


# ---- convolution ---------------------------------------------------------------------------------


def _fprop(x, w, b, residual, geometry, activation, backend):
    y = F.conv2d(x, w, b, *geometry)
    y = y if residual is None else y + residual
    return y if activation == "none" else by_torch(activation, y)


def _convolution_backward(dy, x, w, geometry, wanted):
    stride, padding, dilation, groups = geometry
    return _aten.convolution_backward(
        dy, x, w, None, stride, padding, dilation, False, [0, 0], groups, wanted
    )


def _dgrad(dy, w, x_size, channels_last, geometry, backend):
    x = _empty(x_size, dy, channels_last)
    wanted = [True, False, False]
    return _convolution_backward(dy, x, w, geometry, wanted)[0]


def _wgrad(dy, x, w_size, channels_last, geometry, backend):
    w = _empty(w_size, dy, channels_last)
    wanted = [False, True, False]
    return _convolution_backward(dy, x, w, geometry, wanted)[1]


def _empty(size, like, channels_last):
    return torch.empty(
        size, dtype=like.dtype, device=like.device, memory_format=memory_format(channels_last)
    )


def _conv_transpose2d(x, w, b, residual, geometry, activation, backend):
    stride, padding, dilation, groups, output_padding = geometry
    y = F.conv_transpose2d(x, w, b, stride, padding, output_padding, groups, dilation)
    y = y if residual is None else y + residual
    return y if activation == "none" else by_torch(activation, y)


def _epilogue_backward(dy, saved, activation, backend):
    # An operator's result is never its argument itself.
    if activation == "none":
        dz = dy.clone()
    else:
        found, parameter = parse(activation)
        dz = found.backward(dy, saved, *parameter)
    return dz, _bias_grad(dz, backend)


def _bias_grad(dy, backend):
    return dy.sum((0, 2, 3))


# ---- pooling -------------------------------------------------------------------------------------


def _max_values(x, windows, backend):
    return _max(x, windows, False)


def _max_fwd(x, windows, offsets, backend):
    y, indices = _max(x, windows, True)
    return y, _offsets_of(indices, x.shape[3], windows) if offsets else indices


def _max(x, windows, return_indices):
    if windows.output_size:
        return F.adaptive_max_pool2d(x, windows.output_size, return_indices)
    *sizes, ceil_mode, _ = windows
    return F.max_pool2d(x, *sizes, ceil_mode=ceil_mode, return_indices=return_indices)


def _corners(windows, like):
    """The rows (P, 1) and columns (1, Q) of the windows' first taps, which may lie in padding."""
    P, Q = like.shape[2:]
    rows = torch.arange(P, device=like.device).view(-1, 1) * windows.stride[0] - windows.padding[0]
    columns = torch.arange(Q, device=like.device).view(1, -1) * windows.stride[1]
    return rows, columns - windows.padding[1]


def _offsets_of(indices, W, windows):
    """Indices h * W + w as offsets r * S + s within the windows, int8."""
    rows, columns = _corners(windows, indices)
    r = (indices // W - rows) // windows.dilation[0]
    s = (indices % W - columns) // windows.dilation[1]
    return (r * windows.kernel_size[1] + s).to(torch.int8)


def _indices_of(offsets, W, windows):
    rows, columns = _corners(windows, offsets)
    offsets = offsets.long()
    r, s = offsets // windows.kernel_size[1], offsets % windows.kernel_size[1]
    return (rows + r * windows.dilation[0]) * W + columns + s * windows.dilation[1]


def _max_bwd(dy, places, x_size, channels_last, windows, backend):
    N, C, H, W = x_size
    if places.dtype != torch.int64:
        in_padding = places < 0  # the whole window: no element gets its dy
        indices = _indices_of(places, W, windows)
        dy, places = dy.masked_fill(in_padding, 0), indices.masked_fill(in_padding, 0)
    dx = torch.zeros((N, C, H * W), dtype=dy.dtype, device=dy.device)
    dx = dx.scatter_add(2, places.flatten(2), dy.flatten(2)).view(N, C, H, W)
    return dx.contiguous(memory_format=memory_format(channels_last))


def _avg_fwd(x, windows, count_include_pad, divisor, backend):
    kernel_size, stride, padding, _, ceil_mode, output_size = windows
    if output_size:
        return F.adaptive_avg_pool2d(x, output_size)
    return F.avg_pool2d(
        x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor or None
    )


def _avg_bwd(dy, x_size, channels_last, windows, count_include_pad, divisor, backend):
    kernel_size, stride, padding, _, ceil_mode, output_size = windows
    x = _empty(x_size, dy, channels_last)
    if output_size:
        return _aten._adaptive_avg_pool2d_backward(dy, x)
    return _aten.avg_pool2d_backward(
        dy, x, kernel_size, stride, padding, ceil_mode, count_include_pad, divisor or None
    )


_DECOMPOSITIONS = {
    conv2d.conv2d_fprop: _fprop,
    conv2d.conv2d_dgrad: _dgrad,
    conv2d.conv2d_wgrad: _wgrad,
    conv2d.conv_transpose2d: _conv_transpose2d,
    conv2d.epilogue_backward: _epilogue_backward,
    conv2d.bias_grad: _bias_grad,
    conv2d.activation_forward: lambda z, activation, backend: by_torch(activation, z),
    pool2d.pool2d_max_values: _max_values,
    pool2d.pool2d_max_fwd: _max_fwd,
    pool2d.pool2d_max_bwd: _max_bwd,
    pool2d.pool2d_avg_fwd: _avg_fwd,
    pool2d.pool2d_avg_bwd: _avg_bwd,
}
