"""Pooling with Triton: what is supported, and the call."""

from .._native import core
from .pool2d import Pool2dBackend, pool_problem
from .triton_launch import kernels, sm_count

_MOST_OFFSETS = 127  # int8
_LARGEST = 2**31 - 2**11  # what 32 bits hold, less a tile


class TritonPool2d(Pool2dBackend):
    """Pooling methods of the Triton backends."""

    def saves_offsets(self, windows):
        kernel = windows.kernel_size  # none of adaptive pooling, whose windows differ
        return len(kernel) == 2 and kernel[0] * kernel[1] <= _MOST_OFFSETS

    def pool2d_unsupported_reason(self, x_size, windows):
        """None, or why no kernel takes this call."""
        H, W = x_size[2:]
        if max(H, W, *windows.count(x_size)) > _LARGEST:
            return f"an axis of more than {_LARGEST} positions"
        if max(1, H) * max(1, W) > _LARGEST:
            R, S = windows.kernel_size or (H, W)
            if min(R, H) * min(S, W) > _LARGEST:
                return f"windows of more than {_LARGEST} elements"
        return None

    def explain_pool2d(self, operator, call):
        """(problem, {pass: (algorithm, reason)}) of a call (x size, windows)."""
        return pool_problem(*call), {
            "fwd": ("window", "each program reduces a tile of windows, tap by tap"),
            "bwd": ("gather", "each program sums what the windows around its tile send back"),
        }

    def _max(self, op, problem, x, y, places):
        stem = "pool2d_max" if op == core.PoolOp.max_bwd else "pool2d_reduce"
        kernel = kernels(stem)
        config = kernel.table_config(problem, x, sm_count(x.device.index))
        if op == core.PoolOp.max_bwd:
            kernel.launch_bwd(problem, x, y, places, config)
        else:
            kernel.launch_reduce(problem, x, y, config, places)

    def _avg(self, op, problem, x, y, count_include_pad, divisor):
        stem = "pool2d_avg" if op == core.PoolOp.avg_bwd else "pool2d_reduce"
        kernel = kernels(stem)
        config = kernel.table_config(problem, x, sm_count(x.device.index))
        mean = count_include_pad, divisor
        if op == core.PoolOp.avg_bwd:
            kernel.launch_bwd(problem, x, y, mean, config)
        else:
            kernel.launch_reduce(problem, x, y, config, mean=mean)
