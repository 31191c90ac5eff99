"""Pooling on CUDA devices: what is supported, and the call."""

import functools

import torch

from ..._native import core, cuda
from ...problem import DTYPES
from ..base import PassPlan
from ..memory import location
from ..pool2d import Pool2dBackend, pool_problem
from .launch import DEVICE, launch

_locate = functools.partial(location, device=DEVICE)
_LONGEST_AXIS = 2**31 - 1


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

    def explain_pool2d(self, operator, call):
        """(problem, {pass: PassPlan}) of a call (x size, windows)."""
        forward = "each thread, or group of threads, reduces its windows"
        backward = "each thread sums what the windows around its elements send back"
        return pool_problem(*call), {
            "fwd": PassPlan("window", forward),
            "bwd": PassPlan("gather", backward),
        }

    def _max(self, op, problem, x, y, places):
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
