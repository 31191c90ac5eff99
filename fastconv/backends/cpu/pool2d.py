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
