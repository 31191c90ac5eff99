"""Every Triton convolution kernel on the named problems, on the GPU or interpreted: exact on
integers, no worse than torch on random numbers, for every dtype, layout and pass."""

import pytest
import torch
from devices import TRITON_DEVICE as DEVICE
from devices import needs_triton
from oracles import assert_exact, assert_no_worse_than_torch, conv_magnitudes, conv_passes
from problems import CONVS, EMPTY_BATCH, integers, normals
from test_conv2d_kernels import (
    assert_written_whole_and_nothing_else,
    guarded_empty,
    passes,
    strided_views,
)

from fastconv.backends import BACKENDS
from fastconv.backends.memory import DTYPES

pytestmark = needs_triton
ALGORITHMS = [
    "triton:direct",
    "triton:im2col",
    "triton:implicit_gemm",
    "triton:depthwise",
    "triton",
]
LAYOUTS = [False, True]


def why_not(backend, problem, dtype=torch.float32):
    call = (problem.x_size, problem.w_size, *problem.geometry)
    return BACKENDS[backend].supports("conv2d", call, dtype, DEVICE)


def drawn(make, problem, dtype, channels_last, *limit):
    """x, w and dy of a problem."""
    x, w = (
        make(size, dtype, *limit, channels_last=channels_last).to(DEVICE)
        for size in (problem.x_size, problem.w_size)
    )
    y = torch.nn.functional.conv2d(x.double(), w.double(), None, *problem.geometry)
    return x, w, make(y.shape, dtype, *limit, channels_last=channels_last).to(DEVICE)


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("problem", CONVS, ids=str)
@pytest.mark.parametrize("backend", ALGORITHMS)
def test_integers_exactly(backend, problem, channels_last, exhaustive):
    """The interpreter is slow: by turns two of the dtypes, unless all are asked for."""
    if reason := why_not(backend, problem):
        pytest.skip(reason)
    turn = CONVS.index(problem) + channels_last
    dtypes = list(DTYPES)
    for dtype in dtypes if exhaustive or DEVICE == "cuda" else (dtypes * 2)[turn % 4 :][:2]:
        x, w, dy = drawn(integers, problem, dtype, channels_last, 8)
        expected = conv_passes(problem, x.double(), w.double(), dy.double())
        got = passes(backend, problem, x, w, dy, channels_last)
        for name, a, e in zip(("y", "dx", "dw"), got, expected):
            # Sums stay below 2**24 and are exact in float32; 16-bit results round to nearest.
            assert_exact(a, e, f"{name} {dtype}")
