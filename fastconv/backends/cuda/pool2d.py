"""Pooling on CUDA devices: what is supported, and the call."""

import functools

import torch

from ... import first_use
from ..._native import core, cuda
from ...problem import DTYPES, memory_format
from ..base import Kernel, PassPlan
from ..memory import NO_STRIDES, location, optional_strides
from ..pool2d import Pool2dBackend, pool_op, pool_problem
from .launch import DEVICE, launch

_locate = functools.partial(location, device=DEVICE)
_LONGEST_AXIS = 2**31 - 1
_ALIGNED = 1 << 8  # an address as allocators give it


def plan_dense_pool2d(op, problem, dtype, channels_last, offsets):
    """The CudaPoolPlan of a pass over dense, aligned tensors: fwd as in inference, without the
    places of maxima; bwd of max with them, as offsets or as indices."""
    layout = memory_format(channels_last)
    x, y = (
        torch.empty(size, device="meta", memory_format=layout).stride()
        for size in ((problem.N, problem.C, problem.H, problem.W), problem.out_size())
    )
    places = (_ALIGNED, y) if op == core.PoolOp.max_bwd else (0, NO_STRIDES)
    return core.plan_pool2d_cuda(
        op, problem, DTYPES[dtype], _ALIGNED, x, _ALIGNED, y, *places, offsets
    )


class CudaPool2d(Pool2dBackend):
    """Pooling methods of the CUDA backends."""

    knows_offsets = True

    def _pool2d_reason(self, x_size, windows):
        H, W = x_size[2:]
        P, Q = windows.out_plane(x_size)
        if max(H, W, P, Q) > _LONGEST_AXIS:
            return f"an axis of more than {_LONGEST_AXIS} positions"
        if max(1, H) * max(1, W) > _LONGEST_AXIS:
            R, S = windows.kernel_size or (H, W)
            if min(R, H) * min(S, W) > _LONGEST_AXIS:
                return f"windows of more than {_LONGEST_AXIS} elements"
        return None

    def explain_pool2d(self, operator, call, dtype, channels_last):
        """(problem, {pass: PassPlan}) of a call (x size, windows), for dense tensors: fwd as in
        inference, without the places of maxima, bwd with them in the form that training saves.
        """
        plans = {}
        for name in ("fwd", "bwd"):
            plan = self._dense_plan(pool_op(operator, name), call, dtype, channels_last)
            plans[name] = PassPlan(plan.algorithm.name, _describe(plan), plan.tile_name)
        return pool_problem(*call), plans

    def _dense_plan(self, op, call, dtype, channels_last):
        offsets = op == core.PoolOp.max_bwd and self.saves_offsets(call[1])
        return plan_dense_pool2d(op, pool_problem(*call), dtype, channels_last, offsets)

    def dense_pool_kernel(self, operation, call, dtype, channels_last):
        """The Kernel of a pass, for tensors as in explain_pool2d."""
        op = core.PoolOp.__members__[operation]
        return _kernel_of(op, dtype, self._dense_plan(op, call, dtype, channels_last))

    def _require(self, op, problem, x, y, places=None):
        """Raises where the kernel for these tensors was left out (first_use.py)."""
        if not first_use.applies(x.device):
            return
        offsets = places is not None and places.dtype == torch.int8
        locations = (*_locate(x), *_locate(y), *_locate(places), offsets)
        plan = core.plan_pool2d_cuda(op, problem, DTYPES[x.dtype], *locations)
        first_use.require(self, _kernel_of(op, x.dtype, plan), x.device)

    def _max(self, op, problem, x, y, places):
        self._require(op, problem, x, y, places)
        launch(
            cuda.pool2d_max,
            x,
            op == core.PoolOp.max_bwd,
            problem.sizes,
            int(DTYPES[x.dtype]),
            *_locate(x),
            *_locate(y),
            *_locate(places),
            places is not None and places.dtype == torch.int8,
        )

    def _avg(self, op, problem, x, y, count_include_pad, divisor):
        self._require(op, problem, x, y)
        launch(
            cuda.pool2d_avg,
            x,
            op == core.PoolOp.avg_bwd,
            problem.sizes,
            int(DTYPES[x.dtype]),
            *_locate(x),
            *_locate(y),
            count_include_pad,
            divisor,
        )

    def prepare_max_pool2d(self, x, windows, y, places):
        return self._prepare(core.PoolOp.max_fwd, pool_problem(x.shape, windows), x, y, places)

    def prepare_max_pool2d_backward(self, dy, places, windows, dx):
        problem = pool_problem(tuple(dx.shape), windows)
        return self._prepare(core.PoolOp.max_bwd, problem, dx, dy, places)

    def prepare_avg_pool2d(self, x, windows, count_include_pad, divisor, y):
        average = (None, count_include_pad, divisor)
        return self._prepare(core.PoolOp.avg_fwd, pool_problem(x.shape, windows), x, y, *average)

    def prepare_avg_pool2d_backward(self, dy, windows, count_include_pad, divisor, dx):
        average = (None, count_include_pad, divisor)
        problem = pool_problem(tuple(dx.shape), windows)
        return self._prepare(core.PoolOp.avg_bwd, problem, dx, dy, *average)

    def _prepare(self, op, problem, x, y, places, count_include_pad=False, divisor=0):
        """x and y, or dx and dy."""
        if 0 in (x.numel(), y.numel()):
            return None
        return cuda.prepare_pool2d(
            int(op),
            problem.sizes,
            int(DTYPES[x.dtype]),
            x.stride(),
            y.stride(),
            optional_strides(places),
            places is not None and places.dtype == torch.int8,
            count_include_pad,
            divisor,
        )


def _kernel_of(op, dtype, plan):
    detail = (plan.vectorised, plan.channels_inner, plan.joined, plan.paired)
    return Kernel(op.name, plan.algorithm.name, dtype, detail)


def _describe(plan):
    """The plan's reason and configuration in words."""
    parts = [plan.reason, plan.tile_name]
    if plan.vectorised:
        parts.append("16-byte accesses")
    if plan.joined:
        parts.append("planes as rows")
    return ", ".join(filter(None, parts))
