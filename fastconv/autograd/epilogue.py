"""Derivatives of the epilogue: y = activation(z), z = conv + bias[k] + residual.

    dz = dy * activation'(saved)        db[k] = sum of dz over n, p, q

`saved` is y where the slope can be told from it (activations.saves_result), else z.
"""

import torch

from ..activations import parse, saves_result
from ..ops import conv2d as ops
from .folding import fold, unfold
from .function import differentiable, save


def times_curvature(factor, z, activation):
    """factor * activation''(z), or None where that is 0 everywhere; differentiable."""
    found, parameter = parse(activation)
    return None if found.curvature is None else factor * found.curvature(z, *parameter)


def per_channel(b):
    """(K) seen as (1, K, 1, 1)."""
    return b.view(1, -1, 1, 1)


# ---- bias gradient: (N,K,P,Q) -> (K) -------------------------------------------------------------


def _bias_grad_setup(ctx, inputs, output):
    dy, ctx.backend = inputs
    ctx.size = dy.shape
    ctx.set_materialize_grads(False)


def _bias_grad_backward(ctx, ddb):
    return None if ddb is None else per_channel(ddb).expand(ctx.size), None


def _bias_grad_jvp(ctx, dy_t, _):
    return bias_grad(dy_t, ctx.backend)


def _bias_grad_vmap(info, in_dims, dy, backend):
    return unfold(
        bias_grad(fold(dy, in_dims[0], info.batch_size, 1), backend), info.batch_size, 0
    ), 0


bias_grad = differentiable(
    ops.bias_grad,
    setup_context=_bias_grad_setup,
    backward=_bias_grad_backward,
    jvp=_bias_grad_jvp,
    vmap=_bias_grad_vmap,
)


# ---- activation backward and bias gradient in one pass: (dz, db) ---------------------------------


def _epilogue_setup(ctx, inputs, output):
    dy, saved, ctx.activation, ctx.backend = inputs
    save(ctx, dy, saved)


def _epilogue_backward(ctx, ddz, ddb):
    dy, saved = ctx.saved_tensors
    if ddz is None and ddb is None:
        return None, None, None, None
    direction = torch.zeros_like(dy) if ddz is None else ddz
    if ddb is not None:
        direction = direction + per_channel(ddb)
    d_dy = d_saved = None
    if ctx.needs_input_grad[0]:
        d_dy, _ = epilogue_backward(direction, saved, ctx.activation, ctx.backend)
    if ctx.needs_input_grad[1]:
        d_saved = times_curvature(direction * dy, saved, ctx.activation)
    return d_dy, d_saved, None, None


def _epilogue_jvp(ctx, dy_t, saved_t, *_):
    dy, saved = ctx.saved_tensors
    dz_t = torch.zeros_like(dy)
    if dy_t is not None:
        dz_t, _ = epilogue_backward(dy_t, saved, ctx.activation, ctx.backend)
    if saved_t is not None:
        of_saved = times_curvature(dy * saved_t, saved, ctx.activation)
        dz_t = dz_t if of_saved is None else dz_t + of_saved
    return dz_t, bias_grad(dz_t, ctx.backend)


def _epilogue_vmap(info, in_dims, dy, saved, activation, backend):
    size = info.batch_size
    dz, db = epilogue_backward(
        fold(dy, in_dims[0], size, 1), fold(saved, in_dims[1], size, 1), activation, backend
    )
    return (unfold(dz, size, 1), unfold(db, size, 0)), (1, 0)


epilogue_backward = differentiable(
    ops.epilogue_backward,
    setup_context=_epilogue_setup,
    backward=_epilogue_backward,
    jvp=_epilogue_jvp,
    vmap=_epilogue_vmap,
)


# ---- activation on its own -----------------------------------------------------------------------


def _activation_setup(ctx, inputs, output):
    z, ctx.activation, ctx.backend = inputs
    save(ctx, output if saves_result(ctx.activation) else z)


def _activation_backward(ctx, dy):
    (saved,) = ctx.saved_tensors
    if dy is None:
        return None, None, None
    return epilogue_backward(dy, saved, ctx.activation, ctx.backend)[0], None, None


def _activation_jvp(ctx, z_t, *_):
    (saved,) = ctx.saved_tensors
    return epilogue_backward(z_t, saved, ctx.activation, ctx.backend)[0]


def _activation_vmap(info, in_dims, z, activation, backend):
    y = activation_forward(fold(z, in_dims[0], info.batch_size, 0), activation, backend)
    return unfold(y, info.batch_size, 0), 0


activation_forward = differentiable(
    ops.activation_forward,
    setup_context=_activation_setup,
    backward=_activation_backward,
    jvp=_activation_jvp,
    vmap=_activation_vmap,
)
