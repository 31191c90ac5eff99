"""im2col with Triton's kernels: in chunks of every size, and beyond what 32 bits count."""

import pytest
import torch
from devices import TRITON_DEVICE as DEVICE
from devices import needs_triton
from oracles import assert_exact, conv_passes
from problems import CONVS, Conv, integers

from fastconv.backends import BACKENDS, im2col
from fastconv.backends.conv2d import NO_EPILOGUE, conv_problem
from fastconv.backends.triton_launch import kernels
from fastconv.problem import ConvOp

pytestmark = needs_triton
CHUNKED = [p for p in CONVS if p.why in ("strided", "dilated", "grouped odd")]
CHUNKED += [Conv("vectors", C=16, K=8, H=4, groups=2), Conv("no taps", H=8, R=1, stride=(3, 1))]


def run(problem, tensors, column_bytes):
    """Fills y, dx and dw: tensors are x, w, dy, then these."""
    x, w, dy, y, dx, dw = tensors
    native = conv_problem(problem.x_size, problem.w_size, *problem.geometry)
    calls = ((x, w, y), (dx, w, dy), (x, dw, dy))
    for op, operands in zip(ConvOp.__members__.values(), calls):
        around = kernels("conv2d_im2col")
        im2col.convolve(around, op, native, *operands, NO_EPILOGUE, column_bytes)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("problem", CHUNKED, ids=str)
def test_in_chunks(problem, channels_last):
    """One row of y at a time, several, whole images, all at once: the same exact result."""
    dtypes = (torch.float32, torch.bfloat16, torch.float64, torch.float16)
    for number, rows in enumerate((0, 3, "image", 1 << 20)):
        dtype = dtypes[(number + CHUNKED.index(problem)) % 4]
        x, w = (
            integers(s, dtype, 4, channels_last).to(DEVICE)
            for s in (problem.x_size, problem.w_size)
        )
        y = torch.nn.functional.conv2d(x.double(), w.double(), None, *problem.geometry)
        dy = integers(y.shape, dtype, 4, channels_last).to(DEVICE)
        exact = conv_passes(problem, x.double(), w.double(), dy.double())
        row = (problem.C * problem.R * problem.S + problem.K) * dy.shape[3]
        row *= 8 if dtype == torch.float64 else 4
        out = [torch.full_like(t, float("nan")) for t in (dy, x, w)]
        run(problem, (x, w, dy, *out), row * (dy.shape[2] if rows == "image" else rows) or 1)
        for name, a, e in zip(("y", "dx", "dw"), out, exact):
            assert_exact(a, e, f"{name} {dtype} {rows}")


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("axis", range(4), ids="nchw")
def test_strides_beyond_32_bits(axis, channels_last):
    """Of x where it is read, and of dx where it is written."""
    problem = Conv("", C=3, K=2, H=3, W=4, R=2, S=2, pad=(1, 0))
    x, w = (integers(s, torch.float16, 4).to(DEVICE) for s in (problem.x_size, problem.w_size))
    y = torch.nn.functional.conv2d(x.double(), w.double(), None, *problem.geometry)
    dy = integers(y.shape, torch.float16, 4).to(DEVICE)
    exact = conv_passes(problem, x.double(), w.double(), dy.double())
    storages = [torch.empty(2**31 + 4096, dtype=torch.float16, device=DEVICE) for _ in range(2)]
    strides = [200, 1, 20, 4] if channels_last else [200, 40, 8, 1]
    strides[axis] = 2**31 // (x.shape[axis] - 1) + 1
    far, dx = (s.as_strided(x.shape, strides) for s in storages)
    far.copy_(x)
    out = [torch.full_like(dy, float("nan")), dx.fill_(float("nan")), torch.empty_like(w)]
    run(problem, (far, w, dy, *out), 1 << 26)
    for name, a, e in zip(("y", "dx", "dw"), out, exact):
        assert_exact(a, e, name)


def test_an_axis_beyond_32_bits():
    """Its positions are numbers of 64 bits; the columns are few. Only im2col takes it."""
    problem = Conv("", 1, 1, 1, (1 << 31) + 900, 5, 1, 3, (1, 1 << 28), (0, 7), (1, 1 << 28))
    row = torch.empty(problem.W, dtype=torch.bfloat16, device=DEVICE)
    places = torch.arange(9, device=DEVICE) * problem.stride[1] - problem.pad[1]
    touched = row[places[1:]] = integers((8,), row.dtype).to(DEVICE)
    x, w = row.view(1, 1, 1, -1), integers(problem.w_size, row.dtype).to(DEVICE)
    taps = torch.cat((touched.new_zeros(1), touched)).double()
    windows = taps.unfold(0, 3, 1)  # (Q, S): stride and dilation are alike
    y = BACKENDS["triton"].conv2d_fprop(x, w, None, None, *problem.geometry, "none")
    assert_exact(y[0, :, 0], w[:, 0, 0].double() @ windows.T, "y")
    dw = BACKENDS["triton"].conv2d_wgrad(y, x, w.shape, False, *problem.geometry)
    assert_exact(dw[:, 0, 0], y[0, :, 0].double() @ windows, "dw")
    call = (problem.x_size, problem.w_size, *problem.geometry)
    for algorithm in ("implicit_gemm", "direct"):
        reason = BACKENDS[f"triton:{algorithm}"].supports("conv2d", call, x.dtype, DEVICE)
        assert "32 bits" in reason
