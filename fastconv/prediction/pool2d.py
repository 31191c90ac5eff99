"""Which kernel a pooling's plan launches, with how many blocks and turns: the launchers of
csrc/cuda/launch/pool2d*.cu told once more, as far as time goes."""

from math import ceil, prod

from .._native import core
from ..backends.cuda.pool2d import plan_dense_pool2d
from ..problem import PoolProblem
from .kernel_speeds import TYPE_NAMES, kernel_speed
from .schedule import Launch, launch_prediction, roofline_us

_THREADS = 256
_ACCESS_BYTES = 16


def predict_pool2d(op, problem, dtype, channels_last, machine):
    """(the plan, the Prediction) of a pass over dense tensors: fwd as in inference, bwd of max with
    offsets where windows have them."""
    offsets = op == core.PoolOp.max_bwd and isinstance(problem, PoolProblem)
    plan = plan_dense_pool2d(op, problem, dtype, channels_last, offsets)
    vector = _ACCESS_BYTES // dtype.itemsize if plan.vectorised else 1
    size = (problem.N, problem.C, problem.H, problem.W)
    y_elements = prod(problem.out_size())
    taps = _window(problem)
    kernel, owned, loads = _kernel(op, plan, problem, machine.arch, TYPE_NAMES[dtype], vector, taps)

    forward = op in (core.PoolOp.max_fwd, core.PoolOp.avg_fwd)
    elements = (y_elements if forward else prod(size)) / vector
    lanes = plan.lanes_h * plan.lanes_w
    blocks = ceil(ceil(elements / owned) * lanes / _THREADS)
    # A turn loads so many vectors a thread; a kernel without a loop needs one turn.
    per_turn = kernel.loop_bytes / (kernel.threads * vector * dtype.itemsize)
    looped = kernel.once_clocks > 0
    turns = max(1.0, owned * loads / lanes / max(per_turn, 1e-9)) if looped else 1.0
    place_bytes = y_elements if op == core.PoolOp.max_bwd else 0
    memory_bytes = (prod(size) + y_elements) * dtype.itemsize + place_bytes
    launch = Launch(kernel, blocks, turns, memory_bytes)
    prediction = launch_prediction(launch, machine)
    roofline = roofline_us(0, memory_bytes, 1.0, machine)
    return plan, prediction.with_roofline(roofline)


def _window(problem):
    """Elements of a window."""
    if isinstance(problem, PoolProblem):
        return problem.R * problem.S
    _, _, P, Q = problem.out_size()
    return ceil(problem.H / P) * ceil(problem.W / Q)


def _kernel(op, plan, problem, arch, type_, vector, taps):
    """(the KernelSpeed, elements of y or dx that a thread owns, vectors that it loads for each)"""
    owned = plan.rows * plan.columns
    is_max = op in (core.PoolOp.max_fwd, core.PoolOp.max_bwd)
    algorithm = plan.algorithm.name
    if algorithm == "reduce":
        reduction = "Maximum" if is_max else "Mean"
        return kernel_speed(arch, "pool2d_reduce", reduction, type_, str(vector)), owned, taps
    if algorithm == "strip":
        words = (type_, str(vector), str(problem.R))
        return kernel_speed(arch, "pool2d_max_fwd_strip", *words), owned, taps
    if algorithm == "tile":
        words = (type_, str(vector), str(problem.R), str(problem.pad_h))
        return kernel_speed(arch, "pool2d_max_bwd_tile", *words), owned, 1
    if algorithm == "global":
        # 16 bytes of dx a thread, though the plan counts elements.
        return kernel_speed(arch, "pool2d_avg_bwd_global", type_), 1, 1
    name = "pool2d_max_bwd" if is_max else "pool2d_avg_bwd"
    windows = prod(problem.out_size()) / (problem.H * problem.W * problem.N * problem.C) * taps
    return kernel_speed(arch, name, type_, str(vector)), owned, max(1, ceil(windows))
