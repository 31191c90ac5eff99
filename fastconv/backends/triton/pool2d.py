"""Pooling with Triton: what is supported, and the call."""

import functools

import torch

from ... import first_use
from ..._native import core
from ..base import Kernel, PassPlan
from ..pool2d import Pool2dBackend, pool_op, pool_problem
from .launch import current_device, kernels, sm_count, without_memory

_LARGEST = 2**31 - 2**11  # what 32 bits hold, less a tile
_KERNELS = {
    core.PoolOp.max_fwd: "pool2d_reduce",
    core.PoolOp.max_bwd: "pool2d_max",
    core.PoolOp.avg_fwd: "pool2d_reduce",
    core.PoolOp.avg_bwd: "pool2d_avg",
}
_ALGORITHMS = {
    "fwd": ("window", "each program reduces a tile of windows, tap by tap"),
    "bwd": ("gather", "each program sums what the windows around its tile send back"),
}


class TritonPool2d(Pool2dBackend):
    """Pooling methods of the Triton backends."""

    knows_offsets = True

    def _pool2d_reason(self, x_size, windows):
        H, W = x_size[2:]
        if max(H, W, *windows.out_plane(x_size)) > _LARGEST:
            return f"an axis of more than {_LARGEST} positions"
        if max(1, H) * max(1, W) > _LARGEST:
            R, S = windows.kernel_size or (H, W)
            if min(R, H) * min(S, W) > _LARGEST:
                return f"windows of more than {_LARGEST} elements"
        return None

    def explain_pool2d(self, operator, call, dtype, channels_last):
        """(problem, {pass: PassPlan}) of a call (x size, windows), for dense tensors."""
        problem = pool_problem(*call)
        x, y = (without_memory(size, channels_last) for size in (call[0], problem.out_size()))
        plans = {}
        for name, (algorithm, reason) in _ALGORITHMS.items():
            op = pool_op(operator, name)
            strides = x.stride(), y.stride()
            key, config = _key_and_table(op, problem, dtype, *strides, current_device())
            tuned = kernels("tuning").choices(current_device()).get(key)
            config = tuned.config if tuned else config
            found = f"{config}, {tuned or 'from the table'}"
            tile = str(config).removeprefix("tile ")
            plans[name] = PassPlan(algorithm, f"{reason}, {found}", tile)
        return problem, plans

    def _max(self, op, problem, x, y, places):
        if op == core.PoolOp.max_bwd:

            def run(config, outs):
                kernels("pool2d_max").launch_bwd(problem, outs[0], y, places, config)
        else:

            def run(config, outs):
                kernels("pool2d_reduce").launch_reduce(problem, x, outs[0], config, outs[1])

        self._run(op, problem, x, y, places, run)

    def _avg(self, op, problem, x, y, count_include_pad, divisor):
        mean = count_include_pad, divisor  # one argument of the kernels' launch functions
        if op == core.PoolOp.avg_bwd:

            def run(config, outs):
                kernels("pool2d_avg").launch_bwd(problem, outs[0], y, mean, config)
        else:

            def run(config, outs):
                kernels("pool2d_reduce").launch_reduce(problem, x, outs[0], config, mean=mean)

        self._run(op, problem, x, y, None, run)

    def pool_kernel(self, operation, dtype):
        """The Kernel of a pass: one for each, whatever the tensors."""
        return Kernel(operation, _ALGORITHMS[operation.partition("_")[2]][0], dtype)

    def _run(self, op, problem, x, y, places, run):
        if first_use.applies(x.device):
            first_use.require(self, self.pool_kernel(op.name, x.dtype), x.device)
        outs = (x,) if op.name.endswith("_bwd") else (y, places)
        strides = x.stride(), y.stride()
        key, table = _key_and_table(op, problem, x.dtype, *strides, x.device.index)
        run(kernels("tuning").choose(key, table, outs, run), outs)


@functools.lru_cache(maxsize=4096)
def _key_and_table(op, problem, dtype, x_strides, y_strides, device):
    """What a configuration is tuned for, and the one to take where none was."""
    x = torch.empty_strided(problem.sizes[:4], x_strides, device="meta")
    y = torch.empty_strided(problem.out_size(), y_strides, device="meta")
    tuning, windows = kernels("tuning"), kernels("device.pool2d_windows").geometry(problem)
    stem, out = _KERNELS[op], x if op.name.endswith("_bwd") else y
    along_columns = kernels("launch").pixels_inner(x)
    key = tuning.make_key(
        stem,
        op.name,
        dtype,
        "",
        tuning.layout(x, y),
        outputs=out.numel(),
        lanes=out.shape[3 if along_columns else 1],
        taps=windows.h.longest_window * windows.w.longest_window,
    )
    return key, kernels(stem).table_config(problem, x, sm_count(device))
