"""im2col on CUDA and with Triton: in chunks of every size, and beyond what 32 bits count."""

import pytest
import torch
from conv_kernels import LAYOUT_IDS, LAYOUTS
from devices import CUDA, TRITON, device_of, in_turn, skip_half
from oracles import assert_exact, conv_passes
from problems import Conv, drawn, integers, named

from fastconv.backends import BACKENDS, im2col
from fastconv.backends.conv2d import NO_EPILOGUE, conv_problem
from fastconv.backends.cuda import im2col as cuda_im2col
from fastconv.backends.triton.launch import kernels
from fastconv.problem import DTYPES, ConvOp

CHUNKED = [named(why) for why in ("strided", "dilated", "grouped odd")]
CHUNKED += [Conv("vectors", C=16, K=8, H=4, groups=2), Conv("no taps", H=8, R=1, stride=(3, 1))]
ON_BOTH = pytest.mark.parametrize("backend", [CUDA, TRITON])


def run(backend, problem, tensors, column_bytes):
    """Fills y, dx and dw: tensors are x, w, dy, then these."""
    x, w, dy, y, dx, dw = tensors
    around = cuda_im2col if backend == "cuda" else kernels("conv2d_im2col")
    native = conv_problem(problem.x_size, problem.w_size, problem.geometry)
    for op, operands in zip(ConvOp.__members__.values(), ((x, w, y), (dx, w, dy), (x, dw, dy))):
        im2col.convolve(around, op, native, *operands, NO_EPILOGUE, column_bytes)


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=LAYOUT_IDS)
@pytest.mark.parametrize("problem", CHUNKED, ids=str)
@ON_BOTH
def test_in_chunks(backend, problem, channels_last, exhaustive):
    """One row of y at a time, several, whole images, all at once: the same exact result."""
    skip_half(backend, CHUNKED.index(problem) + channels_last, exhaustive)
    for number, rows in enumerate((0, 3, "image", 1 << 20)):
        turn = number + CHUNKED.index(problem)
        for dtype in in_turn(list(DTYPES), backend, turn, exhaustive):
            x, w, dy = drawn(integers, problem, dtype, channels_last, 4, device=device_of(backend))
            exact = conv_passes(problem, x.double(), w.double(), dy.double())
            row = (problem.C * problem.R * problem.S + problem.K) * dy.shape[3]
            row *= 8 if dtype == torch.float64 else 4
            column_bytes = row * (dy.shape[2] if rows == "image" else rows) or 1
            out = [torch.full_like(t, float("nan")) for t in (dy, x, w)]
            run(backend, problem, (x, w, dy, *out), column_bytes)
            for name, a, e in zip(("y", "dx", "dw"), out, exact):
                assert_exact(a, e, f"{name} {dtype} {rows}")


@pytest.mark.parametrize("axis", range(4), ids="nchw")
@ON_BOTH
def test_strides_beyond_32_bits(backend, axis, exhaustive):
    """x has such a stride where it is read, and dx where it is written."""
    device = device_of(backend)
    for channels_last in in_turn(LAYOUTS, backend, axis, exhaustive):
        problem = Conv("", C=3, K=2, H=3, W=4, R=2, S=2, pad=(1, 0))
        x, w, dy = drawn(integers, problem, torch.float16, False, 4, device=device)
        exact = conv_passes(problem, x.double(), w.double(), dy.double())
        storages = [torch.empty(2**31 + 4096, dtype=x.dtype, device=device) for _ in range(2)]
        strides = [200, 1, 20, 4] if channels_last else [200, 40, 8, 1]
        strides[axis] = 2**31 // (x.shape[axis] - 1) + 1
        far, dx = (s.as_strided(x.shape, strides) for s in storages)
        far.copy_(x)
        out = [torch.full_like(dy, float("nan")), dx.fill_(float("nan")), torch.empty_like(w)]
        run(backend, problem, (far, w, dy, *out), 1 << 26)
        for name, a, e in zip(("y", "dx", "dw"), out, exact):
            assert_exact(a, e, name)


@ON_BOTH
def test_an_axis_beyond_32_bits(backend):
    """Its positions are numbers of 64 bits; the columns are few. With Triton only im2col takes
    it, on CUDA the direct kernel as well (test_cuda_direct.py)."""
    device = device_of(backend)
    problem = Conv("", 1, 1, 1, (1 << 31) + 900, 5, 1, 3, (1, 1 << 28), (0, 7), (1, 1 << 28))
    row = torch.empty(problem.W, dtype=torch.bfloat16, device=device)
    places = torch.arange(9, device=device) * problem.stride[1] - problem.pad[1]
    touched = row[places[1:]] = integers((8,), row.dtype).to(device)
    x, w = row.view(1, 1, 1, -1), integers(problem.w_size, row.dtype).to(device)
    taps = torch.cat((touched.new_zeros(1), touched)).double()
    windows = taps.unfold(0, 3, 1)  # (Q, S): stride and dilation are alike
    kernels_of = BACKENDS[f"{backend}:im2col"]
    y = kernels_of.conv2d_fprop(x, w, None, None, problem.geometry, "none")
    assert_exact(y[0, :, 0], w[:, 0, 0].double() @ windows.T, "y")
    dw = kernels_of.conv2d_wgrad(y, x, w.shape, False, problem.geometry)
    assert_exact(dw[:, 0, 0], y[0, :, 0].double() @ windows, "dw")
    call = (problem.x_size, problem.w_size, problem.geometry)
    for algorithm in ("implicit_gemm", "direct") if backend == "triton" else ("implicit_gemm",):
        reason = BACKENDS[f"{backend}:{algorithm}"].supports("conv2d", call, x.dtype, device)
        assert reason, algorithm


@pytest.mark.parametrize("backend", [CUDA])
def test_what_its_workspace_does_not_hold_is_refused(backend):
    device = device_of(backend)
    call = ((1, 300_000, 3, 60), (1, 300_000, 1, 1), ((1, 1), (0, 0), (1, 1), 1))
    reason = BACKENDS["cuda:im2col"].supports("conv2d", call, torch.float32, device)
    assert "workspace of 64" in reason
    assert BACKENDS["cuda:direct"].supports("conv2d", call, torch.float32, device) is None
