"""Pooling on the CPU: which algorithm, and the call."""

import torch

from ..._native import core
from ...problem import DTYPES
from ..base import PassPlan
from ..memory import location
from ..pool2d import Pool2dBackend, pool_problem


class CpuPool2d(Pool2dBackend):
    """Pooling methods of the CPU backends."""

    @property
    def _pool_algorithm(self):
        reference = self.algorithm == core.CpuAlgorithm.reference
        return core.PoolAlgorithm.reference if reference else core.PoolAlgorithm.vectorised

    def explain_pool2d(self, operator, call):
        """(problem, {pass: PassPlan}) of a call (x size, windows)."""
        algorithm = self._pool_algorithm.name
        reason = "asked for by name" if algorithm == "reference" else "the only pooling algorithm"
        return pool_problem(*call), {name: PassPlan(algorithm, reason) for name in ("fwd", "bwd")}

    def _max(self, op, problem, x, y, places):
        core.pool2d_max(
            self._pool_algorithm,
            op,
            problem,
            DTYPES[x.dtype],
            *location(x),
            *location(y),
            *location(places),
            torch.get_num_threads(),
        )

    def _avg(self, op, problem, x, y, count_include_pad, divisor):
        core.pool2d_avg(
            self._pool_algorithm,
            op,
            problem,
            DTYPES[x.dtype],
            *location(x),
            *location(y),
            count_include_pad,
            divisor,
            torch.get_num_threads(),
        )

    def prepare_max_pool2d(self, x, windows, y, places):
        problem = pool_problem(x.shape, windows)
        strides = None if places is None else places.stride()
        return self._prepare(core.PoolOp.max_fwd, problem, x, y, places=strides)

    def prepare_max_pool2d_backward(self, dy, places, windows, dx):
        problem = pool_problem(tuple(dx.shape), windows)
        return self._prepare(core.PoolOp.max_bwd, problem, dx, dy, places=places.stride())

    def prepare_avg_pool2d(self, x, windows, count_include_pad, divisor, y):
        average = dict(count_include_pad=count_include_pad, divisor=divisor)
        return self._prepare(core.PoolOp.avg_fwd, pool_problem(x.shape, windows), x, y, **average)

    def prepare_avg_pool2d_backward(self, dy, windows, count_include_pad, divisor, dx):
        average = dict(count_include_pad=count_include_pad, divisor=divisor)
        problem = pool_problem(tuple(dx.shape), windows)
        return self._prepare(core.PoolOp.avg_bwd, problem, dx, dy, **average)

    def _prepare(self, op, problem, x, y, **options):
        """x and y, or dx and dy."""
        if self._pool_algorithm == core.PoolAlgorithm.reference or 0 in (x.numel(), y.numel()):
            return None
        return core.prepare_pool2d(op, problem, DTYPES[x.dtype], x.stride(), y.stride(), **options)
