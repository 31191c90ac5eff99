"""Derivatives of the pooling operators.

Average pooling is linear: fwd and bwd are each other's adjoint. Max pooling is linear once its
places are known, the positions of the maxima as backends/pool2d.py writes them: y = take(x, places)
chooses elements of x. Its adjoint bwd adds each element of dy to the element of dx that was chosen,
and its tangent chooses the same elements of x's tangent.
"""

import torch

from ..dispatch import runs_eagerly
from ..ops import pool2d as ops
from ..problem import suggests_channels_last
from .folding import fold, unfold
from .function import differentiable, register_rules, save


def _indices(places, x_size, windows):
    """Places as indices h * W + w (int64), computed from offsets where they are those."""
    if places.dtype == torch.int64:
        return places
    # A window that lies in the padding has offset -1: its index need only be in the plane.
    offsets = places.long().clamp(min=0)
    taps = (offsets // windows.kernel_size[1], offsets % windows.kernel_size[1])
    rows, columns = (
        tap * windows.dilation[i]
        + (
            torch.arange(places.shape[2 + i], device=places.device) * windows.stride[i]
            - windows.padding[i]
        ).view((-1, 1) if i == 0 else (1, -1))
        for i, tap in enumerate(taps)
    )
    return rows.clamp(0, x_size[2] - 1) * x_size[3] + columns.clamp(0, x_size[3] - 1)


def _take(x, places, windows):
    """x[n, c].flatten()[indices[n, c]] for all n, c: what max pooling with these places chose."""
    N, C, H, W = x.shape
    P, Q = places.shape[2:]
    indices = _indices(places, x.shape, windows)
    chosen = x.reshape(N, C, H * W).gather(2, indices.reshape(N, C, P * Q))
    return chosen.reshape(N, C, P, Q)


# ---- max fwd -------------------------------------------------------------------------------------


def _max_fwd_setup(ctx, inputs, output):
    x, ctx.windows, _, ctx.backend = inputs
    ctx.x_size, ctx.channels_last = x.shape, suggests_channels_last(x)
    save(ctx, output[1])


def _max_fwd_backward(ctx, dy, _):
    (places,) = ctx.saved_tensors
    dx = None
    if dy is not None:
        dx = max_bwd(dy, places, ctx.x_size, ctx.channels_last, ctx.windows, ctx.backend)
    return dx, None, None, None


def _max_fwd_jvp(ctx, x_t, *_):
    (places,) = ctx.saved_tensors
    return _take(x_t, places, ctx.windows), None


def _max_fwd_vmap(info, in_dims, x, *arguments):
    y, places = max_fwd(fold(x, in_dims[0], info.batch_size, 0), *arguments)
    return (unfold(y, info.batch_size, 0), unfold(places, info.batch_size, 0)), (0, 0)


max_fwd = differentiable(
    ops.pool2d_max_fwd,
    setup_context=_max_fwd_setup,
    backward=_max_fwd_backward,
    jvp=_max_fwd_jvp,
    vmap=_max_fwd_vmap,
)


# ---- max fwd without places ----------------------------------------------------------------------


def max_values(x, *arguments):
    """Max pooling without places, for calls that nobody seems to differentiate
    (dispatch.is_inference). A derivative that is asked for after all finds the places anew."""
    op = ops.pool2d_max_values
    return op.run(x, *arguments) if runs_eagerly(x) else op.dispatch(x, *arguments)


def _max_values_setup(ctx, inputs, output):
    x, ctx.windows, ctx.backend = inputs
    save(ctx, x)


def _max_values_places(ctx):
    (x,) = ctx.saved_tensors
    return max_fwd(x, ctx.windows, False, ctx.backend)[1]


def _max_values_backward(ctx, dy):
    (x,) = ctx.saved_tensors
    dx = None
    if dy is not None:
        places, channels_last = _max_values_places(ctx), suggests_channels_last(x)
        dx = max_bwd(dy, places, x.shape, channels_last, ctx.windows, ctx.backend)
    return dx, None, None


def _max_values_jvp(ctx, x_t, *_):
    return _take(x_t, _max_values_places(ctx), ctx.windows)


def _max_values_vmap(info, in_dims, x, *arguments):
    y = max_values(fold(x, in_dims[0], info.batch_size, 0), *arguments)
    return unfold(y, info.batch_size, 0), 0


register_rules(
    ops.pool2d_max_values,
    setup_context=_max_values_setup,
    backward=_max_values_backward,
    jvp=_max_values_jvp,
    vmap=_max_values_vmap,
)


# ---- max bwd -------------------------------------------------------------------------------------


def _max_bwd_setup(ctx, inputs, output):
    _, places, ctx.x_size, ctx.channels_last, ctx.windows, ctx.backend = inputs
    save(ctx, places)


def _max_bwd_backward(ctx, ddx):
    (places,) = ctx.saved_tensors
    d_dy = None if ddx is None else _take(ddx, places, ctx.windows)
    return d_dy, None, None, None, None, None


def _max_bwd_jvp(ctx, dy_t, *_):
    (places,) = ctx.saved_tensors
    return max_bwd(dy_t, places, ctx.x_size, ctx.channels_last, ctx.windows, ctx.backend)


def _max_bwd_vmap(info, in_dims, dy, places, x_size, *arguments):
    size = info.batch_size
    N, *image = x_size
    dx = max_bwd(
        fold(dy, in_dims[0], size, 0),
        fold(places, in_dims[1], size, 0),
        (N * size, *image),
        *arguments,
    )
    return unfold(dx, size, 0), 0


max_bwd = differentiable(
    ops.pool2d_max_bwd,
    setup_context=_max_bwd_setup,
    backward=_max_bwd_backward,
    jvp=_max_bwd_jvp,
    vmap=_max_bwd_vmap,
)


# ---- avg fwd -------------------------------------------------------------------------------------


def _avg_fwd_setup(ctx, inputs, output):
    x, *ctx.arguments = inputs
    ctx.x_size, ctx.channels_last = x.shape, suggests_channels_last(x)
    save(ctx)


def _avg_fwd_backward(ctx, dy):
    dx = None if dy is None else avg_bwd(dy, ctx.x_size, ctx.channels_last, *ctx.arguments)
    return dx, *[None] * len(ctx.arguments)


def _avg_fwd_jvp(ctx, x_t, *_):
    return avg_fwd(x_t, *ctx.arguments)


def _avg_fwd_vmap(info, in_dims, x, *arguments):
    y = avg_fwd(fold(x, in_dims[0], info.batch_size, 0), *arguments)
    return unfold(y, info.batch_size, 0), 0


avg_fwd = differentiable(
    ops.pool2d_avg_fwd,
    setup_context=_avg_fwd_setup,
    backward=_avg_fwd_backward,
    jvp=_avg_fwd_jvp,
    vmap=_avg_fwd_vmap,
)


# ---- avg bwd -------------------------------------------------------------------------------------


def _avg_bwd_setup(ctx, inputs, output):
    _, ctx.x_size, ctx.channels_last, *ctx.arguments = inputs
    save(ctx)


def _avg_bwd_backward(ctx, ddx):
    d_dy = None if ddx is None else avg_fwd(ddx, *ctx.arguments)
    return d_dy, *[None] * (len(ctx.arguments) + 2)


def _avg_bwd_jvp(ctx, dy_t, *_):
    return avg_bwd(dy_t, ctx.x_size, ctx.channels_last, *ctx.arguments)


def _avg_bwd_vmap(info, in_dims, dy, x_size, *arguments):
    size = info.batch_size
    N, *image = x_size
    dx = avg_bwd(fold(dy, in_dims[0], size, 0), (N * size, *image), *arguments)
    return unfold(dx, size, 0), 0


avg_bwd = differentiable(
    ops.pool2d_avg_bwd,
    setup_context=_avg_bwd_setup,
    backward=_avg_bwd_backward,
    jvp=_avg_bwd_jvp,
    vmap=_avg_bwd_vmap,
)
