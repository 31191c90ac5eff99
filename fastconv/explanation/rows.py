"""One row of fastconv.explain's table: a Decision with its problem, plan, time and floor."""

from dataclasses import dataclass

import torch

from ..backends.base import PassPlan, is_convolution
from ..backends.conv2d import conv_problem
from ..backends.pool2d import pool_problem
from ..dispatch import get_backend
from ..problem import AdaptivePoolProblem, ConvOp, ConvProblem, PoolProblem
from .roofline import roofline

ATEN = "ATen"
# The pass that an operator runs forward; a pool's is fwd.
FORWARD = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), "fprop"),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d"), "dgrad"),
}


@dataclass(frozen=True)
class LayerTime:
    """One call of a fastconv operator."""

    layer: str  # qualified name of the innermost module, "" for a call outside of modules
    operator: str  # "conv2d", "max_pool2d", ...
    problem: ConvProblem | PoolProblem | AdaptivePoolProblem | None  # None: its sizes are unknown
    dtype: torch.dtype
    device: str
    channels_last: bool  # whether the input is
    backend: str  # or "ATen"
    algorithm: str  # "" where ATen ran it
    tile: str  # "" where the algorithm has none or none is known
    reason: str  # for the algorithm, or why no backend took the call
    flops: int  # of the definition: two a multiply-add, one a window element of a pool
    bytes: int  # x, w and y once each; no bias, residual or indices
    flops_us: float | None  # the FLOPs' time at a matrix product's rate; None without a roofline
    bytes_us: float | None  # the bytes' time at a copy's rate; None without a roofline
    time_us: float | None  # of the whole call, None where it was not measured

    @property
    def floor_us(self):
        """The roofline floor in microseconds: the larger of flops_us and bytes_us, or None."""
        return None if self.flops_us is None else max(self.flops_us, self.bytes_us)

    @property
    def percent_of_floor(self):
        """100 * floor / time: 100 at the floor, 50 at twice its time; None if either is unknown."""
        if self.floor_us is None or self.time_us is None:
            return None
        return 100 * self.floor_us / self.time_us

    @property
    def bound(self):
        """ "FLOPs" or "bytes", whichever sets the floor."""
        return "FLOPs" if self.flops_us > self.bytes_us else "bytes"


def layer_time(decision):
    """The LayerTime of a dispatch.Decision."""
    problem = problem_of(decision)
    plan = _plan(decision)
    flops, size = work(problem, decision.dtype.itemsize)
    limits = problem and roofline(decision.device, decision.dtype)
    return LayerTime(
        decision.layer,
        decision.operator,
        problem,
        decision.dtype,
        decision.device,
        decision.channels_last,
        decision.backend or ATEN,
        plan.algorithm,
        plan.tile,
        plan.reason,
        flops,
        size,
        limits and limits.flops_us(flops),
        limits and limits.bytes_us(size),
        decision.time_us,
    )


def work(problem, element_size):
    """(FLOPs, bytes) of a problem's forward pass; (0, 0) for None."""
    if problem is None:
        return 0, 0
    if isinstance(problem, ConvProblem):
        return problem.flops(ConvOp.fprop), problem.bytes(ConvOp.fprop, element_size)
    if isinstance(problem, PoolProblem):
        return problem.flops(), problem.bytes(element_size)
    N, C, H, W, P, Q = problem.sizes
    window_elements = _window_lengths(H, P) * _window_lengths(W, Q)
    return N * C * window_elements, N * C * (H * W + P * Q) * element_size


def _window_lengths(size, count):
    """The lengths of all windows of adaptive pooling along an axis, summed: window p is from
    floor(p * size / count) to before ceil((p + 1) * size / count)."""
    return sum(-(-(p + 1) * size // count) - p * size // count for p in range(count))


def problem_of(decision):
    """The problem of a Decision; None where its sizes are unknown."""
    if decision.call is None:
        return None
    make = conv_problem if is_convolution(decision.operator) else pool_problem
    return make(*decision.call)


def _plan(decision):
    if decision.backend is None:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in decision.rejected.items())
        return PassPlan("", reasons)
    _, plans = get_backend(decision.backend).explain(
        decision.operator, decision.call, decision.dtype, decision.channels_last
    )
    return plans[FORWARD.get(decision.operator, "fwd")]
