"""fprop and dgrad whose sums are cut into slices, in every dtype and layout: the slices add up."""

import pytest
from conv_kernels import LAYOUT_IDS, LAYOUTS, passes
from devices import TRITON_DEVICE as DEVICE
from devices import needs_triton
from oracles import assert_exact, conv_passes
from problems import Conv, drawn, integers

from fastconv.backends.conv2d import conv_problem
from fastconv.backends.triton.launch import kernels
from fastconv.problem import DTYPES, ConvOp

pytestmark = needs_triton
PROBLEM = Conv("a long sum for few pixels", N=1, C=64, K=64, H=4, W=4)
MULTIPROCESSORS = 132


@pytest.fixture
def many_multiprocessors(monkeypatch):
    """The interpreter's few have enough to do without slices."""
    if DEVICE == "cpu":
        monkeypatch.setattr("fastconv.backends.triton.conv2d.sm_count", lambda *_: MULTIPROCESSORS)


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=LAYOUT_IDS)
@pytest.mark.parametrize("dtype", list(DTYPES), ids=lambda d: str(d).removeprefix("torch."))
def test_slices_add_up(dtype, channels_last, many_multiprocessors):
    native = conv_problem(PROBLEM.x_size, PROBLEM.w_size, PROBLEM.geometry)
    for op in (ConvOp.fprop, ConvOp.dgrad):
        about = (op, native, dtype, False, MULTIPROCESSORS, "channels", "implicit_gemm")
        assert kernels("plan").plan_conv2d(*about).splits > 1
    x, w, dy = drawn(integers, PROBLEM, dtype, channels_last, 4, device=DEVICE)
    expected = conv_passes(PROBLEM, x.double(), w.double(), dy.double())
    got = passes("triton:implicit_gemm", PROBLEM, x, w, dy, channels_last)
    for name, a, e in zip(("y", "dx", "dw"), got, expected):
        assert_exact(a, e, name)
