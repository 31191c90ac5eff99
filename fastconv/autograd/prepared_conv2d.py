"""The derivative of a convolution that was met before: one autograd.Function, whose backward is one
native call. Where that does not know dy, or somebody differentiates backward, the formulas of
autograd/conv2d.py take over."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch

from ..activations import saves_result
from ..backends import BACKENDS
from ..geometry import from_planes, image_to_planes, to_planes
from ..prepared import CallCache, remember
from .conv2d import conv_transpose_gradients, fprop_gradients, gradients_through_epilogue

# Where the functionals' tensors are among the arguments of _Function.apply. Both functionals end
# with the activation, the residual and the backend; behind these is what was computed.
_X, _W, _B, _RESIDUAL = 1, 2, 3, -3


class _Product(NamedTuple):
    """What differs from one operator to another."""

    function: type[torch.autograd.Function]
    gradients: Callable  # of autograd/conv2d.py
    prepare: str  # the name of a backend's method
    prepare_backward: str


class _Call:
    """What backward has to know of a call."""

    __slots__ = ("activation", "axes", "backend", "backward", "geometry", "product", "saves_y")

    def __init__(self, product, axes, geometry, activation, backend):
        self.product, self.axes = product, axes
        self.geometry, self.activation, self.backend = geometry, activation, backend
        self.saves_y = activation != "none" and saves_result(activation)
        self.backward = CallCache()


def remember_product(
    product, cache, arguments, axes, x, w, b, residual, y, geometry, activation, backend
):
    """From now on `cache` knows a functional's call with these arguments, along so many axes, which
    computed y from x, w, b and residual, all of them as planes, if it is a call that a cache can
    know (prepared.py)."""

    def prepare():
        prepare_call = getattr(BACKENDS[backend], product.prepare)
        found = prepare_call(x, w, b, residual, y, geometry, activation)
        if found is None:
            return None
        call, *workspace = found
        differentiate = None
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            differentiate = partial(
                product.function.apply_directly, _Call(product, axes, geometry, activation, backend)
            )
        return call, (from_planes(y, axes), *workspace), 0, differentiate

    tensors = (x, w, b, residual)
    remember(cache, arguments, prepare)


class _Function(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, x, w, *arguments_and_computed):
        y = arguments_and_computed[-1][0]
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
        product = call.product
        dy4, w4, saved4 = (to_planes(tensor, call.axes) for tensor in (dy, w, saved))
        planes = (dy4, image_to_planes(x, call.axes), w4, saved4)
        dx4, dw4, db, residual4 = gradients_through_epilogue(
            product.gradients, *planes, needed, *tail
        )
        dx, dw, d_residual = (from_planes(tensor, call.axes) for tensor in (dx4, dw4, residual4))

        def prepare():
            prepare_call = getattr(BACKENDS[call.backend], product.prepare_backward)
            prepared = prepare_call(*planes, dx4, dw4, db, *tail[:2])
            if prepared is None:
                return None
            native, dz, *workspace = prepared
            dz = from_planes(dz, call.axes)
            results = [tensor for tensor in (dz, db, dx, dw, *workspace) if tensor is not None]
            numbers = {id(tensor): number for number, tensor in enumerate(results)}
            returned = [None] * len(needs)
            for place, tensor in ((_X, dx), (_W, dw), (_B, db)):
                returned[place] = numbers.get(id(tensor))
            if needed[3]:
                if dz is None:
                    return None  # the residual's gradient is dy itself
                returned[_RESIDUAL] = numbers[id(dz)]
            return native, tuple(results), tuple(returned), None

        if dy is not None and not torch.is_grad_enabled():
            remember(call.backward, arguments, prepare)
        grads = [None] * len(needs)
        for place, grad in zip((_X, _W, _B, _RESIDUAL), (dx, dw, db, d_residual)):
            grads[place] = grad
        return tuple(grads)


class conv2d_fprop(_Function):  # grad_fn shows this name
    pass


class conv_transpose2d(_Function):
    pass


# Function.apply looks at the signature and unwraps dead wrappers; a cache's arguments need neither.
for _function in (conv2d_fprop, conv_transpose2d):
    _function.apply_directly = super(torch.autograd.Function, _function).apply

FPROP = _Product(conv2d_fprop, fprop_gradients, "prepare_fprop", "prepare_fprop_backward")
CONV_TRANSPOSE = _Product(
    conv_transpose2d,
    conv_transpose_gradients,
    "prepare_conv_transpose",
    "prepare_conv_transpose_backward",
)
