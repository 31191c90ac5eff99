"""What all backends do for a pooling: check the call and allocate the result, before a subclass
runs the kernel. Only tensors that dispatch found real come here."""

import functools

import torch

from .._native import core
from ..problem import memory_format, suggests_channels_last
from .memory import check_operand, empty, readable

_MOST_OFFSETS = 127  # of a window, for int8


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


def pool_op(operator, name):
    """The PoolOp of a functional's name and a pass, "fwd" or "bwd"."""
    kind, _ = operator.removeprefix("adaptive_").split("_")
    return core.PoolOp.__members__[f"{kind}_{name}"]


def avg_problem(x_size, windows):
    """pool_problem for average pooling; RuntimeError where there is dilation, which its kernels do
    not have."""
    if windows.dilation not in ((), (1, 1)):
        raise RuntimeError(f"average pooling has no dilation, got {windows.dilation}")
    return pool_problem(x_size, windows)


def check_gradient(operator, dy, windows):
    """RuntimeError, as torch raises it, where another axis of dy than the batch is empty."""
    name = f"{'adaptive_' if len(windows.output_size) == 2 else ''}{operator}_backward"
    for i in range(1, 4):
        if dy.shape[i] == 0:
            raise RuntimeError(
                f"{name}(): Expected grad_output to have non-zero size for non-batch dimensions, "
                f"but grad_output has sizes {list(dy.shape)} with dimension {i} being empty"
            )


class Pool2dBackend:
    """Pooling; `windows` is a Pool2dWindows. A subclass has _max and _avg.

    The place of a maximum is its index h * W + w (int64), or its offset r * S + s within the window
    (int8), -1 in a window that lies in the padding. All backends know indices; those that have
    knows_offsets also know the offsets of windows of one size."""

    knows_offsets = False

    def saves_offsets(self, windows):
        """Whether max_pool2d_fwd and max_pool2d_bwd know the offsets of such windows."""
        kernel = windows.kernel_size  # () of adaptive pooling, whose windows differ in size
        return self.knows_offsets and len(kernel) == 2 and kernel[0] * kernel[1] <= _MOST_OFFSETS

    def _pool2d_reason(self, x_size, windows):
        """Why no kernel takes this call, or None."""
        return None

    def max_pool2d_fwd(self, x, windows, place_dtype):
        """(y, places), of int64, int8 or, with None, no places."""
        problem = pool_problem(x.shape, windows)
        channels_last = suggests_channels_last(x)
        y = empty(problem.out_size(), x, channels_last)
        places = None
        if place_dtype is not None:
            self._check_places(place_dtype, windows)
            places = torch.empty(
                y.shape,
                dtype=place_dtype,
                device=x.device,
                memory_format=memory_format(channels_last),
            )
        if y.numel() > 0:
            self._max(core.PoolOp.max_fwd, problem, readable(x), y, places)
        return y, places

    def prepare_max_pool2d(self, x, windows, y, places):
        """A native call (prepared.py) that computes other y and places like these, or None."""
        return None

    def max_pool2d_bwd(self, dy, places, x_size, channels_last, windows):
        problem = pool_problem(x_size, windows)
        check_operand("dy", dy, problem.out_size(), dy)
        check_gradient("max_pool2d", dy, windows)
        self._check_places(places.dtype, windows)
        check_operand("places", places, dy.shape, dy, places.dtype)
        dx = empty(x_size, dy, channels_last)
        if dx.numel() == 0 or dy.numel() == 0:
            return dx.zero_()
        self._max(core.PoolOp.max_bwd, problem, dx, readable(dy), readable(places))
        return dx

    def _check_places(self, dtype, windows):
        if dtype != torch.int64 and not (dtype == torch.int8 and self.saves_offsets(windows)):
            raise RuntimeError(f"this backend has no places of {dtype} for {windows}")

    def avg_pool2d_fwd(self, x, windows, count_include_pad, divisor):
        problem = avg_problem(x.shape, windows)
        y = empty(problem.out_size(), x, suggests_channels_last(x))
        if y.numel() > 0:
            self._avg(core.PoolOp.avg_fwd, problem, readable(x), y, count_include_pad, divisor)
        return y

    def prepare_avg_pool2d(self, x, windows, count_include_pad, divisor, y):
        """A native call (prepared.py) that computes another y like this one, or None."""
        return None

    def avg_pool2d_bwd(self, dy, x_size, channels_last, windows, count_include_pad, divisor):
        problem = avg_problem(x_size, windows)
        check_operand("dy", dy, problem.out_size(), dy)
        check_gradient("avg_pool2d", dy, windows)
        dx = empty(x_size, dy, channels_last)
        if dx.numel() == 0 or dy.numel() == 0:
            return dx.zero_()
        self._avg(core.PoolOp.avg_bwd, problem, dx, readable(dy), count_include_pad, divisor)
        return dx
