"""The derivatives of poolings that were met before: autograd.Functions whose backward is one native
call. Where that does not know dy, or somebody differentiates backward, the formulas of
autograd/pool2d.py take over."""

from functools import partial

import torch

from ..backends import BACKENDS
from ..geometry import from_planes, to_planes
from ..prepared import CallCache, remember
from ..problem import suggests_channels_last
from .pool2d import avg_bwd, max_bwd


class _Call:
    """What backward has to know of a call: how many axes it pools, x's size and memory format as
    planes, and the pooling."""

    __slots__ = ("axes", "backend", "backward", "channels_last", "pooling", "x_size")

    def __init__(self, x, axes, pooling, backend):
        self.x_size, self.channels_last, self.axes = x.shape, suggests_channels_last(x), axes
        self.pooling, self.backend = pooling, backend
        self.backward = CallCache()


def _is_differentiated(x):
    return torch.is_grad_enabled() and x.requires_grad


def remember_max(cache, arguments, x, axes, windows, y, places, returns_places, backend):
    """From now on `cache` knows a max pooling of these arguments along so many axes, which computed
    y and places (None where it needs none) from x, all of them as planes, if it is a call that a
    cache can know (prepared.py)."""

    def prepare():
        call = BACKENDS[backend].prepare_max_pool2d(x, windows, y, places)
        if call is None:
            return None
        differentiate = None
        if _is_differentiated(x):
            function = pool2d_max_with_indices if returns_places else pool2d_max
            differentiate = partial(function.apply_directly, _Call(x, axes, (windows,), backend))
        results = (y,) if places is None else (y, places)
        results = tuple(from_planes(tensor, axes) for tensor in results)
        return call, results, (0, 1) if returns_places else 0, differentiate

    remember(cache, arguments, prepare)


def remember_avg(cache, arguments, x, axes, windows, count_include_pad, divisor, y, backend):
    """As remember_max, for an average pooling."""
    pooling = (windows, count_include_pad, divisor)

    def prepare():
        call = BACKENDS[backend].prepare_avg_pool2d(x, *pooling, y)
        if call is None:
            return None
        differentiate = None
        if _is_differentiated(x):
            differentiate = partial(pool2d_avg.apply_directly, _Call(x, axes, pooling, backend))
        return call, (from_planes(y, axes),), 0, differentiate

    remember(cache, arguments, prepare)


class pool2d_max(torch.autograd.Function):  # grad_fn shows these names
    @staticmethod
    def forward(ctx, call, x, *rest):
        y, places = rest[-1]
        ctx.call, ctx.inputs = call, len(rest) + 2
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(places)
        return y

    @staticmethod
    def backward(ctx, dy, *_):
        call = ctx.call
        (places,) = ctx.saved_tensors
        dx = call.backward(dy, places)
        if dx is None and dy is not None:
            (windows,) = call.pooling
            dy4, places4 = to_planes(dy, call.axes), to_planes(places, call.axes)
            dx4 = max_bwd(dy4, places4, call.x_size, call.channels_last, windows, call.backend)
            dx = from_planes(dx4, call.axes)

            def prepare():
                backend = BACKENDS[call.backend]
                native = backend.prepare_max_pool2d_backward(dy4, places4, windows, dx4)
                return native, (dx,), 0, None

            if not torch.is_grad_enabled():
                remember(call.backward, (dy, places), prepare)
        return (None, dx, *[None] * (ctx.inputs - 2))


class pool2d_max_with_indices(pool2d_max):
    @staticmethod
    def forward(ctx, call, x, *rest):
        pool2d_max.forward(ctx, call, x, *rest)
        y, places = rest[-1]
        ctx.mark_non_differentiable(places)
        return y, places


class pool2d_avg(torch.autograd.Function):
    @staticmethod
    def forward(ctx, call, x, *rest):
        (y,) = rest[-1]
        ctx.call, ctx.inputs = call, len(rest) + 2
        ctx.set_materialize_grads(False)
        return y

    @staticmethod
    def backward(ctx, dy):
        call = ctx.call
        dx = call.backward(dy)
        if dx is None and dy is not None:
            dy4 = to_planes(dy, call.axes)
            dx4 = avg_bwd(dy4, call.x_size, call.channels_last, *call.pooling, call.backend)
            dx = from_planes(dx4, call.axes)

            def prepare():
                backend = BACKENDS[call.backend]
                native = backend.prepare_avg_pool2d_backward(dy4, *call.pooling, dx4)
                return native, (dx,), 0, None

            if not torch.is_grad_enabled():
                remember(call.backward, (dy,), prepare)
        return (None, dx, *[None] * (ctx.inputs - 2))


# Function.apply looks at the signature and unwraps dead wrappers; a cache's arguments need neither.
for _function in (pool2d_max, pool2d_max_with_indices, pool2d_avg):
    _function.apply_directly = super(torch.autograd.Function, _function).apply
