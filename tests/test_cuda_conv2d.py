"""Every CUDA convolution kernel on every named problem, on the GPU or emulated: exact on integers,
no worse than torch on random numbers, for every dtype, layout and pass."""

import pytest
import torch
from oracles import assert_exact, assert_no_worse_than_torch, conv_magnitudes, conv_passes
from problems import CONVS, EMPTY_BATCH, integers, normals
from test_conv2d_kernels import (
    assert_written_whole_and_nothing_else,
    guarded_empty,
    passes,
    strided_views,
)

from fastconv._native import cuda, cuda_missing
from fastconv.backends import BACKENDS
from fastconv.backends.cuda_launch import DEVICE, allows_tf32
from fastconv.backends.memory import DTYPES

pytestmark = pytest.mark.skipif(cuda is None, reason=f"no CUDA kernels: {cuda_missing}")

ALGORITHMS = ["cuda:direct", "cuda:im2col", "cuda:implicit_gemm", "cuda:depthwise", "cuda"]
LAYOUTS = [False, True]
# Each factor of a product is rounded to TF32's 10 bits.
TF32_ERROR = 2.0**-10


def why_not(backend, problem, dtype):
    call = (problem.x_size, problem.w_size, *problem.geometry)
    return BACKENDS[backend].supports("conv2d", call, dtype, DEVICE)


def cudnn_flags(allow_tf32):
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=allow_tf32)


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
def test_integers_exactly(backend, problem, channels_last):
    ran = 0
    for dtype in DTYPES:
        if why_not(backend, problem, dtype):
            continue
        x, w, dy = drawn(integers, problem, dtype, channels_last, 8)
        expected = conv_passes(problem, x.double(), w.double(), dy.double())
        for allow_tf32 in (False, True) if dtype == torch.float32 else (False,):
            with cudnn_flags(allow_tf32):
                got = passes(backend, problem, x, w, dy, channels_last)
            for name, a, e in zip(("y", "dx", "dw"), got, expected):
                # Sums stay below 2**24 and are exact in float32; 16-bit results round to nearest.
                assert_exact(a, e, f"{name} {dtype} tf32 {allow_tf32}")
        ran += 1
    if not ran:
        pytest.skip(why_not(backend, problem, torch.float32))


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", list(DTYPES), ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("backend", ALGORITHMS)
def test_random_no_worse_than_torch(backend, dtype, channels_last):
    for problem in CONVS:
        if why_not(backend, problem, dtype):
            continue
        x, w, dy = drawn(normals, problem, dtype, channels_last)
        exact = conv_passes(problem, x.double(), w.double(), dy.double())
        magnitudes = conv_magnitudes(problem, x, w, dy)
        with cudnn_flags(allow_tf32=False):
            torchs = conv_passes(problem, x, w, dy)
            got = passes(backend, problem, x, w, dy, channels_last)
        for name, *tensors in zip(("y", "dx", "dw"), got, torchs, exact, magnitudes):
            assert_no_worse_than_torch(*tensors, f"{problem} {name}")


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
def test_tf32_is_used_where_torch_allows_it(channels_last):
    """Rounded to 10 bits, and not to fewer; and really rounded, for that is what makes it fast."""
    problem = next(p for p in CONVS if p.why == "several pixel tiles")
    x, w, dy = drawn(normals, problem, torch.float32, channels_last)
    exact = conv_passes(problem, x.double(), w.double(), dy.double())
    magnitudes = conv_magnitudes(problem, x, w, dy)
    results = {}
    for allow_tf32 in (False, True):
        with cudnn_flags(allow_tf32):
            assert allows_tf32() == allow_tf32
            results[allow_tf32] = passes("cuda:implicit_gemm", problem, x, w, dy, channels_last)
    for strict, tf32, e, magnitude in zip(*results.values(), exact, magnitudes):
        assert ((tf32.double() - e).abs() <= TF32_ERROR * magnitude).all()
        assert (strict.double() - e).abs().mean() < (tf32.double() - e).abs().mean() / 50


@pytest.mark.parametrize("backend", ["cuda:direct", "cuda:im2col", "cuda:implicit_gemm"])
def test_any_strides(backend):
    """Slices, offsets, expanded and transposed tensors are read where they lie."""
    problem = CONVS[4]
    for name, (x, w) in strided_views(DEVICE).items():
        y = torch.nn.functional.conv2d(x.double(), w.double(), None, *problem.geometry)
        dy = integers((*y.shape[:3], 2 * y.shape[3]), torch.float32).to(DEVICE)[..., ::2]
        expected = conv_passes(problem, x.double(), w.double(), dy.double())
        got = passes(backend, problem, x, w, dy, False)
        for what, a, e in zip(("y", "dx", "dw"), got, expected):
            assert_exact(a, e, f"{name} {what}")


@pytest.mark.parametrize("activation", ["none", "relu", "silu"])
@pytest.mark.parametrize("backend", ALGORITHMS)
def test_epilogue(backend, activation):
    wanted = "depthwise multiplier" if backend == "cuda:depthwise" else "odd C and K"
    problem = next(p for p in CONVS if p.why == wanted)
    for channels_last in LAYOUTS:
        x, w, dy = drawn(integers, problem, torch.float32, channels_last, 4)
        b = integers((problem.K,), torch.float32).to(DEVICE)
        y = BACKENDS[backend].conv2d_fprop(x, w, b, dy, *problem.geometry, activation)
        z = torch.nn.functional.conv2d(x.double(), w.double(), b.double(), *problem.geometry) + dy
        expected = {"none": z, "relu": z.relu(), "silu": torch.nn.functional.silu(z)}[activation]
        torch.testing.assert_close(y.double(), expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("backend", ALGORITHMS)
def test_outputs_are_written_whole_and_nothing_else(backend, monkeypatch):
    """Outputs lie inside a larger buffer of NaN: none is left inside, and none beside is lost."""
    buffers = []
    wanted = "depthwise multiplier" if backend == "cuda:depthwise" else "strided"
    problem = next(p for p in CONVS if p.why == wanted)
    for channels_last in LAYOUTS:
        x, w, dy = drawn(integers, problem, torch.float32, channels_last)
        with monkeypatch.context() as patch:
            patch.setattr("fastconv.backends.conv2d.empty", guarded_empty(buffers))
            passes(backend, problem, x, w, dy, channels_last)
    assert len(buffers) == 6
    assert_written_whole_and_nothing_else(buffers)


@pytest.mark.parametrize("backend", ALGORITHMS)
def test_bitwise_equal_twice(backend):
    for problem in CONVS[::3]:
        if why_not(backend, problem, torch.float32):
            continue
        x, w, dy = drawn(normals, problem, torch.float32, False)
        first, second = (passes(backend, problem, x, w, dy, False) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, second)), str(problem)


def test_empty_batch():
    x, w = (
        torch.zeros(EMPTY_BATCH.x_size, device=DEVICE),
        torch.ones(EMPTY_BATCH.w_size, device=DEVICE),
    )
    dy = torch.zeros(0, EMPTY_BATCH.K, 9, 9, device=DEVICE)
    y, dx, dw = passes("cuda", EMPTY_BATCH, x, w, dy, False)
    assert y.shape == dy.shape and dx.shape == x.shape
    assert torch.equal(dw, torch.zeros_like(w))
