"""The derivative of a convolution that was met before: one autograd.Function, whose backward is one
native call. Where that does not know dy, or somebody differentiates backward, the formulas of
autograd/conv2d.py take over."""

from functools import partial

import torch

from ..activations import saves_result
from ..backends import BACKENDS
from ..geometry import from_planes, to_planes
from ..prepared import CallCache, remember
from .conv2d import fprop_gradients

# Where the tensors of fastconv.conv1d and conv2d are among the arguments of conv2d_fprop.apply.
_X, _W, _B, _RESIDUAL = 1, 2, 3, 9
_ARGUMENTS = 12


class _Call:
    """What backward has to know of a call."""

    __slots__ = ("activation", "axes", "backend", "backward", "geometry", "saves_y")

    def __init__(self, axes, geometry, activation, backend):
        self.axes, self.geometry, self.activation = axes, geometry, activation
        self.backend = backend
        self.saves_y = activation != "none" and saves_result(activation)
        self.backward = CallCache()


def remember_fprop(cache, arguments, axes, x, w, b, residual, y, geometry, activation, backend):
    """From now on `cache` knows fastconv.conv1d(*arguments) or conv2d, by the number of axes, which
    computed y from x, w, b and residual, all of them as planes, if it is a call that a cache can
    know (prepared.py)."""

    def prepare():
        found = BACKENDS[backend].prepare_fprop(x, w, b, residual, y, geometry, activation)
        if found is None:
            return None
        call, *workspace = found
        differentiate = None
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            differentiate = partial(
                conv2d_fprop.apply_directly, _Call(axes, geometry, activation, backend)
            )
        return call, (from_planes(y, axes), *workspace), 0, differentiate

    tensors = (x, w, b, residual)
    remember(cache, arguments, prepare)


class conv2d_fprop(torch.autograd.Function):  # grad_fn shows this name
    @staticmethod
    def forward(
        ctx, call, x, w, b, stride, padding, dilation, groups, activation, residual, backend,
        computed,
    ):  # fmt: skip
        y = computed[0]
        ctx.call = call
        ctx.set_materialize_grads(False)
        if call.saves_y:
            ctx.save_for_backward(x, w, y)
        else:
            ctx.save_for_backward(x, w)
        return y

    @staticmethod
    def backward(ctx, dy):
        call, needs = ctx.call, ctx.needs_input_grad
        x, w, *saved = ctx.saved_tensors
        saved = saved[0] if saved else None
        arguments = (dy, x, w, saved, needs)
        grads = call.backward(*arguments)
        if grads is not None:
            return grads
        needed = needs[_X], needs[_W], needs[_B], needs[_RESIDUAL]
        tail = (call.geometry, call.activation, call.backend)
        planes = [to_planes(tensor, call.axes) for tensor in (dy, x, w, saved)]
        dx4, dw4, db, residual4 = fprop_gradients(*planes, needed, *tail)
        dx, dw, d_residual = (from_planes(tensor, call.axes) for tensor in (dx4, dw4, residual4))

        def prepare():
            backend = BACKENDS[call.backend]
            prepared = backend.prepare_fprop_backward(*planes, dx4, dw4, db, *tail[:2])
            if prepared is None:
                return None
            native, dz, *workspace = prepared
            dz = from_planes(dz, call.axes)
            results = [tensor for tensor in (dz, db, dx, dw, *workspace) if tensor is not None]
            numbers = {id(tensor): number for number, tensor in enumerate(results)}
            returned = [None] * _ARGUMENTS
            for place, tensor in ((_X, dx), (_W, dw), (_B, db)):
                returned[place] = numbers.get(id(tensor))
            if needed[3]:
                if dz is None:
                    return None  # the residual's gradient is dy itself
                returned[_RESIDUAL] = numbers[id(dz)]
            return native, tuple(results), tuple(returned), None

        if dy is not None and not torch.is_grad_enabled():
            remember(call.backward, arguments, prepare)
        grads = [None] * _ARGUMENTS
        for place, grad in zip((_X, _W, _B, _RESIDUAL), (dx, dw, db, d_residual)):
            grads[place] = grad
        return tuple(grads)


# Function.apply looks at the signature and unwraps dead wrappers; a cache's arguments need neither.
conv2d_fprop.apply_directly = super(torch.autograd.Function, conv2d_fprop).apply
