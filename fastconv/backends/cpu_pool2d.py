"""Pooling on the CPU: problems, outputs, addresses."""

import functools

import torch

from .._native import core
from ..problem import memory_format, suggests_channels_last
from .memory import DTYPES, check_operand, empty, location, readable


@functools.lru_cache(maxsize=4096)
def pool_problem(x_size, windows):
    """The PoolProblem or AdaptivePoolProblem of concrete sizes; networks repeat theirs."""
    if len(x_size) != 4:
        raise RuntimeError(f"expected x of size (N, C, H, W), got {list(x_size)}")
    sizes = dict(zip("NCHW", x_size))
    if len(windows.output_size) == 2:
        return core.AdaptivePoolProblem(**sizes, **dict(zip("PQ", windows.output_size)))
    return core.PoolProblem(
        **sizes,
        **dict(zip("RS", windows.kernel_size)),
        **{
            f"{name}_{axis}": value
            for name, pair in (
                ("stride", windows.stride),
                ("pad", windows.padding),
                ("dilation", windows.dilation),
            )
            for axis, value in zip("hw", pair)
        },
        ceil_mode=windows.ceil_mode,
    )


def avg_problem(x_size, windows):
    """pool_problem of an average pooling, whose kernels know no dilation."""
    if windows.dilation not in ((), (1, 1)):
        raise RuntimeError(f"average pooling has no dilation, got {windows.dilation}")
    return pool_problem(x_size, windows)


class CpuPool2d:
    """Pooling methods of the CPU backends; `windows` is a checks_pool2d.Windows."""

    @property
    def _pool_algorithm(self):
        reference = self.algorithm == core.ConvAlgorithm.reference
        return core.PoolAlgorithm.reference if reference else core.PoolAlgorithm.vectorised

    def explain_pool2d(self, operator, call):
        """(problem, {pass: (algorithm, reason)}) of a call (x size, windows)."""
        algorithm = self._pool_algorithm.name
        reason = "asked for by name" if algorithm == "reference" else "the only pooling algorithm"
        return pool_problem(*call), {name: (algorithm, reason) for name in ("fwd", "bwd")}

    def max_pool2d_fwd(self, x, windows, with_indices):
        """(y, indices); indices is None where they are not wanted."""
        problem = pool_problem(x.shape, windows)
        channels_last = suggests_channels_last(x)
        y = empty(problem.out_size(), x, channels_last)
        indices = None
        if with_indices:
            indices = torch.empty(
                y.shape,
                dtype=torch.int64,
                device=x.device,
                memory_format=memory_format(channels_last),
            )
        self._max(core.PoolOp.max_fwd, problem, readable(x), y, indices)
        return y, indices

    def max_pool2d_bwd(self, dy, indices, x_size, channels_last, windows):
        problem = pool_problem(x_size, windows)
        check_operand("dy", dy, problem.out_size(), dy)
        check_operand("indices", indices, dy.shape, dy, torch.int64)
        dx = empty(x_size, dy, channels_last)
        self._max(core.PoolOp.max_bwd, problem, dx, readable(dy), readable(indices))
        return dx

    def _max(self, op, problem, x, y, indices):
        core.pool2d_max(
            self._pool_algorithm,
            op,
            problem,
            DTYPES[x.dtype],
            *location(x),
            *location(y),
            *location(indices),
            torch.get_num_threads(),
        )

    def avg_pool2d_fwd(self, x, windows, count_include_pad, divisor):
        problem = avg_problem(x.shape, windows)
        y = empty(problem.out_size(), x, suggests_channels_last(x))
        self._avg(core.PoolOp.avg_fwd, problem, readable(x), y, count_include_pad, divisor)
        return y

    def avg_pool2d_bwd(self, dy, x_size, channels_last, windows, count_include_pad, divisor):
        problem = avg_problem(x_size, windows)
        check_operand("dy", dy, problem.out_size(), dy)
        dx = empty(x_size, dy, channels_last)
        self._avg(core.PoolOp.avg_bwd, problem, dx, readable(dy), count_include_pad, divisor)
        return dx

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
