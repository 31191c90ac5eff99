"""Derivatives of the convolution operators.

fprop, dgrad and wgrad are each bilinear, and each one's derivatives are the other two:
    y = fprop(x, w)       dx = dgrad(dy, w)      dw = wgrad(dy, x)
so three differentiable callables that call each other give every order of derivative, forward mode
and vmap. A transposed convolution is dgrad; with an epilogue it is a fourth, whose derivatives are
fprop and wgrad. The epilogue's activation is fused where its backward needs only y (relu, relu6 and
leaky_relu); other activations differentiate through activation_forward, which keeps its input.
A call that nobody seemed to differentiate (dispatch.is_inference) has them fused too; should a
derivative be asked for after all, the convolution is computed again without the activation.
"""

import torch

from ..activations import saves_result
from ..ops import conv2d as ops
from ..problem import suggests_channels_last
from .epilogue import bias_grad, epilogue_backward, per_channel
from .folding import fold, unfold
from .function import differentiable, save


def _sum(*terms):
    """The sum of the terms that are not None; None if all are."""
    terms = [term for term in terms if term is not None]
    return sum(terms[1:], terms[0]) if terms else None


def _product_rule(product, a, b, a_t, b_t, *tail):
    """The tangent of product(a, b, *tail) for tangents a_t and b_t, each of which may be None."""
    return _sum(
        None if a_t is None else product(a_t, b, *tail),
        None if b_t is None else product(a, b_t, *tail),
    )


def _grouped(geometry, size):
    """The geometry of `size` convolutions that lie side by side as groups of one."""
    return geometry._replace(groups=geometry.groups * size)


# ---- operators with an epilogue ------------------------------------------------------------------


def gradients_through_epilogue(gradients, dy, x, w, saved, needed, geometry, activation, backend):
    """(dx, dw, db, gradient of the residual), None where `needed` says no or dy is None."""
    if dy is None:
        return None, None, None, None
    need_x, need_w, need_b, need_residual = needed
    db = None
    dz = dy
    if activation != "none":
        dz, db = epilogue_backward(dy, saved, activation, backend)
    elif need_b:
        db = bias_grad(dz, backend)
    dx, dw = gradients(dz, x, w, need_x, need_w, geometry, backend)
    return dx, dw, db if need_b else None, dz if need_residual else None


def _with_epilogue(op, gradients):
    """The differentiable callable of an operator (x, w, b, residual, geometry, activation, backend)
    -> activation(z), z = product(x, w) + b + residual.

    gradients(dz, x, w, need_x, need_w, geometry, backend) is (dx, dw) of the product."""

    def setup_context(ctx, inputs, output):
        x, w, b, residual, ctx.geometry, ctx.activation, ctx.backend = inputs
        if ctx.activation == "none":
            save(ctx, x, w)
        elif saves_result(ctx.activation):
            save(ctx, x, w, output)
        else:
            save(ctx, x, w, b, residual)

    def saved_tensors(ctx):
        """x, w, and what the epilogue's backward reads: y or z, or None without an activation."""
        x, w, *rest = ctx.saved_tensors
        if len(rest) == 2:
            return x, w, convolve(x, w, *rest, ctx.geometry, "none", ctx.backend)
        return x, w, rest[0] if rest else None

    def backward(ctx, dy):
        x, w, saved = saved_tensors(ctx)
        needed, tail = ctx.needs_input_grad[:4], (ctx.geometry, ctx.activation, ctx.backend)
        grads = gradients_through_epilogue(gradients, dy, x, w, saved, needed, *tail)
        return *grads, None, None, None

    def jvp(ctx, x_t, w_t, b_t, residual_t, *_):
        x, w, saved = saved_tensors(ctx)
        tail = (ctx.geometry, "none", ctx.backend)
        tangent = _sum(
            None if x_t is None else convolve(x_t, w, b_t, residual_t, *tail),
            None
            if w_t is None
            else convolve(
                x,
                w_t,
                None if x_t is not None else b_t,
                None if x_t is not None else residual_t,
                *tail,
            ),
        )
        if tangent is None:
            z = saved if saved is not None else convolve(x, w, None, None, *tail)
            tangent = torch.zeros_like(z)
            tangent = _sum(tangent, None if b_t is None else per_channel(b_t), residual_t)
        if ctx.activation != "none":
            tangent, _ = epilogue_backward(tangent, saved, ctx.activation, ctx.backend)
        return tangent

    def vmap(info, in_dims, x, w, b, residual, geometry, *tail):
        size = info.batch_size
        x_dim, w_dim, b_dim, residual_dim = in_dims
        if w_dim is None and b_dim is None:
            x, residual = fold(x, x_dim, size, 0), fold(residual, residual_dim, size, 0)
            return unfold(convolve(x, w, b, residual, geometry, *tail), size, 0), 0
        y = convolve(
            fold(x, x_dim, size, 1),
            fold(w, w_dim, size, 0),
            fold(b, b_dim, size, 0),
            fold(residual, residual_dim, size, 1),
            _grouped(geometry, size),
            *tail,
        )
        return unfold(y, size, 1), 1

    convolve = differentiable(
        op, setup_context=setup_context, backward=backward, jvp=jvp, vmap=vmap
    )
    return convolve


# ---- fprop and the transposed convolution --------------------------------------------------------


def fprop_gradients(dz, x, w, need_x, need_w, geometry, backend):
    channels_last = suggests_channels_last(x) or suggests_channels_last(w)
    dx = dw = None
    if need_x:
        dx = dgrad(dz, w, x.shape, channels_last, geometry, backend)
    if need_w:
        dw = wgrad(dz, x, w.shape, channels_last, geometry, backend)
    return dx, dw


def conv_transpose_gradients(dz, x, w, need_x, need_w, geometry, backend):
    channels_last = suggests_channels_last(x) or suggests_channels_last(w)
    convolution = geometry.convolution()
    dx = dw = None
    if need_x:
        dx = fprop(dz, w, None, None, convolution, "none", backend)
        dx = _in_format(dx, channels_last)  # fprop's follows dz and w, torch's x and w
    if need_w:
        dw = wgrad(x, dz, w.shape, channels_last, convolution, backend)
    return dx, dw


def _in_format(tensor, channels_last):
    if suggests_channels_last(tensor) == channels_last:
        return tensor
    if channels_last:  # torch.vmap has no contiguous(memory_format=)
        return tensor.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)
    return tensor.contiguous()


fprop = _with_epilogue(ops.conv2d_fprop, fprop_gradients)
conv_transpose = _with_epilogue(ops.conv_transpose2d, conv_transpose_gradients)


# ---- dgrad ---------------------------------------------------------------------------------------


def _dgrad_setup(ctx, inputs, output):
    dy, w, ctx.x_size, ctx.channels_last, ctx.geometry, ctx.backend = inputs
    save(ctx, dy, w)


def _dgrad_backward(ctx, ddx):
    dy, w = ctx.saved_tensors
    d_dy = dw = None
    if ddx is not None and ctx.needs_input_grad[0]:
        d_dy = fprop(ddx, w, None, None, ctx.geometry, "none", ctx.backend)
    if ddx is not None and ctx.needs_input_grad[1]:
        dw = wgrad(dy, ddx, w.shape, suggests_channels_last(w), ctx.geometry, ctx.backend)
    return d_dy, dw, None, None, None, None


def _dgrad_jvp(ctx, dy_t, w_t, *_):
    tail = (ctx.x_size, ctx.channels_last, ctx.geometry, ctx.backend)
    return _product_rule(dgrad, *ctx.saved_tensors, dy_t, w_t, *tail)


def _dgrad_vmap(info, in_dims, dy, w, x_size, channels_last, geometry, backend):
    size = info.batch_size
    N, C, H, W = x_size
    if in_dims[1] is None:
        dy = fold(dy, in_dims[0], size, 0)
        dx = dgrad(dy, w, (N * size, C, H, W), channels_last, geometry, backend)
        return unfold(dx, size, 0), 0
    dx = dgrad(
        fold(dy, in_dims[0], size, 1),
        fold(w, in_dims[1], size, 0),
        (N, C * size, H, W),
        channels_last,
        _grouped(geometry, size),
        backend,
    )
    return unfold(dx, size, 1), 1


dgrad = differentiable(
    ops.conv2d_dgrad,
    setup_context=_dgrad_setup,
    backward=_dgrad_backward,
    jvp=_dgrad_jvp,
    vmap=_dgrad_vmap,
)


# ---- wgrad ---------------------------------------------------------------------------------------


def _wgrad_setup(ctx, inputs, output):
    dy, x, ctx.w_size, ctx.channels_last, ctx.geometry, ctx.backend = inputs
    save(ctx, dy, x)


def _wgrad_backward(ctx, ddw):
    dy, x = ctx.saved_tensors
    d_dy = dx = None
    if ddw is not None and ctx.needs_input_grad[0]:
        d_dy = fprop(x, ddw, None, None, ctx.geometry, "none", ctx.backend)
    if ddw is not None and ctx.needs_input_grad[1]:
        dx = dgrad(dy, ddw, x.shape, suggests_channels_last(x), ctx.geometry, ctx.backend)
    return d_dy, dx, None, None, None, None


def _wgrad_jvp(ctx, dy_t, x_t, *_):
    tail = (ctx.w_size, ctx.channels_last, ctx.geometry, ctx.backend)
    return _product_rule(wgrad, *ctx.saved_tensors, dy_t, x_t, *tail)


def _wgrad_vmap(info, in_dims, dy, x, w_size, channels_last, geometry, backend):
    size = info.batch_size
    K, Cg, R, S = w_size
    dw = wgrad(
        fold(dy, in_dims[0], size, 1),
        fold(x, in_dims[1], size, 1),
        (K * size, Cg, R, S),
        channels_last,
        _grouped(geometry, size),
        backend,
    )
    return unfold(dw, size, 0), 0


wgrad = differentiable(
    ops.conv2d_wgrad,
    setup_context=_wgrad_setup,
    backward=_wgrad_backward,
    jvp=_wgrad_jvp,
    vmap=_wgrad_vmap,
)
