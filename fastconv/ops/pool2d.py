"""The pooling operators: max (with and without indices) and avg, each fwd and bwd.

Sizes: x (N,C,H,W), y and places (N,C,P,Q), gradients like what they are gradients of. divisor 0
stands for the windows' own sizes. The places of maxima are offsets within the window (int8) where
`offsets` says so, else indices (int64): backends/pool2d.py.
"""

import torch
from torch import Tensor

from ..backends import BACKENDS
from ..backends.pool2d import check_gradient
from ..geometry import Pool2dWindows
from ..problem import memory_format, suggests_channels_last
from .library import define_op

_WINDOWS = (
    "SymInt[] kernel_size, SymInt[] stride, SymInt[] padding, SymInt[] dilation, bool ceil_mode, "
    "SymInt[] output_size"
)
_AVERAGE = "bool count_include_pad, int divisor"


def _empty(size, like, channels_last, dtype=None):
    return torch.empty(
        size,
        dtype=dtype or like.dtype,
        device=like.device,
        memory_format=memory_format(channels_last),
    )


def _fake_y(x, windows, dtype=None):
    size = (*x.shape[:2], *windows.out_plane(x.shape))
    return _empty(size, x, suggests_channels_last(x), dtype)


def _fake_dx(operator, dy, x_size, channels_last, windows):
    check_gradient(operator, dy, windows)
    return _empty(x_size, dy, channels_last)


def _run_max_values(x: Tensor, windows: Pool2dWindows, backend: str) -> Tensor:
    return BACKENDS[backend].max_pool2d_fwd(x, windows, None)[0]


def _place_dtype(offsets):
    return torch.int8 if offsets else torch.int64


def _run_max_fwd(
    x: Tensor, windows: Pool2dWindows, offsets: bool, backend: str
) -> tuple[Tensor, Tensor]:
    return BACKENDS[backend].max_pool2d_fwd(x, windows, _place_dtype(offsets))


def _run_max_bwd(
    dy: Tensor,
    places: Tensor,
    x_size: tuple[int, ...],
    channels_last: bool,
    windows: Pool2dWindows,
    backend: str,
) -> Tensor:
    return BACKENDS[backend].max_pool2d_bwd(dy, places, tuple(x_size), channels_last, windows)


def _run_avg_fwd(
    x: Tensor, windows: Pool2dWindows, count_include_pad: bool, divisor: int, backend: str
) -> Tensor:
    return BACKENDS[backend].avg_pool2d_fwd(x, windows, count_include_pad, divisor)


def _run_avg_bwd(
    dy: Tensor,
    x_size: tuple[int, ...],
    channels_last: bool,
    windows: Pool2dWindows,
    count_include_pad: bool,
    divisor: int,
    backend: str,
) -> Tensor:
    return BACKENDS[backend].avg_pool2d_bwd(
        dy, tuple(x_size), channels_last, windows, count_include_pad, divisor
    )


pool2d_max_values = define_op(
    f"pool2d_max_values(Tensor x, {_WINDOWS}, str backend) -> Tensor",
    _run_max_values,
    lambda x, windows, backend: _fake_y(x, windows),
    Pool2dWindows,
)
pool2d_max_fwd = define_op(
    f"pool2d_max_fwd(Tensor x, {_WINDOWS}, bool offsets, str backend) -> (Tensor, Tensor)",
    _run_max_fwd,
    lambda x, windows, offsets, backend: (
        _fake_y(x, windows),
        _fake_y(x, windows, _place_dtype(offsets)),
    ),
    Pool2dWindows,
)
pool2d_max_bwd = define_op(
    "pool2d_max_bwd(Tensor dy, Tensor places, SymInt[] x_size, bool channels_last, "
    f"{_WINDOWS}, str backend) -> Tensor",
    _run_max_bwd,
    lambda dy, places, x_size, channels_last, windows, backend: _fake_dx(
        "max_pool2d", dy, x_size, channels_last, windows
    ),
    Pool2dWindows,
)
pool2d_avg_fwd = define_op(
    f"pool2d_avg_fwd(Tensor x, {_WINDOWS}, {_AVERAGE}, str backend) -> Tensor",
    _run_avg_fwd,
    lambda x, windows, *_: _fake_y(x, windows),
    Pool2dWindows,
)
pool2d_avg_bwd = define_op(
    f"pool2d_avg_bwd(Tensor dy, SymInt[] x_size, bool channels_last, {_WINDOWS}, {_AVERAGE}, "
    "str backend) -> Tensor",
    _run_avg_bwd,
    lambda dy, x_size, channels_last, windows, *_: _fake_dx(
        "avg_pool2d", dy, x_size, channels_last, windows
    ),
    Pool2dWindows,
)
