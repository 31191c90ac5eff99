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


# 70 groups are 70 programs or more, of the kernels that take a group each.
MANY_PROGRAMS = ("depthwise strided",)


def in_turn(items, turn, exhaustive):
    """All of them, or the one whose turn it is: the interpreter, and compiling, take their time."""
    return items if exhaustive else [items[turn % len(items)]]


def cudnn_flags(allow_tf32):
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=allow_tf32)


def named(why):
    return next(problem for problem in CONVS if problem.why == why)


def suited(backend, usual):
    return named("depthwise multiplier" if backend == "triton:depthwise" else usual)


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("problem", CONVS, ids=str)
@pytest.mark.parametrize("backend", ALGORITHMS[:-1])
def test_integers_exactly(backend, problem, channels_last, exhaustive):
    if reason := why_not(backend, problem):
        pytest.skip(reason)
    if not exhaustive and problem.why in MANY_PROGRAMS and "depthwise" not in backend:
        pytest.skip("many programs: --exhaustive runs it")
    turn = CONVS.index(problem) + 2 * channels_last
    for dtype in in_turn(list(DTYPES), turn, exhaustive):
        x, w, dy = drawn(integers, problem, dtype, channels_last, 8)
        expected = conv_passes(problem, x.double(), w.double(), dy.double())
        with cudnn_flags(allow_tf32=bool(turn & 4)):
            got = passes(backend, problem, x, w, dy, channels_last)
        for name, a, e in zip(("y", "dx", "dw"), got, expected):
            # Sums stay below 2**24 and are exact in float32; 16-bit results round to nearest.
            assert_exact(a, e, f"{name} {dtype}")


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", list(DTYPES), ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("backend", ALGORITHMS)
def test_random_no_worse_than_torch(backend, dtype, channels_last, exhaustive):
    whys = ("depthwise multiplier",)
    if backend != "triton:depthwise":
        whys = ("dilated and strided", "grouped odd", "several pixel tiles", "long sums")
    for problem in CONVS if exhaustive else map(named, whys):
        if why_not(backend, problem):
            continue
        x, w, dy = drawn(normals, problem, dtype, channels_last)
        exact = conv_passes(problem, x.double(), w.double(), dy.double())
        magnitudes = conv_magnitudes(problem, x, w, dy)
        with cudnn_flags(allow_tf32=False):
            torchs = conv_passes(problem, x, w, dy)
            got = passes(backend, problem, x, w, dy, channels_last)
        for name, *tensors in zip(("y", "dx", "dw"), got, torchs, exact, magnitudes):
            assert_no_worse_than_torch(*tensors, f"{problem} {name}")


@pytest.mark.parametrize("backend", ["triton:direct", "triton:im2col", "triton:implicit_gemm"])
def test_any_strides(backend):
    """Slices, offsets, expanded and transposed tensors are read where they lie."""
    problem = named("strided")
    for name, (x, w) in strided_views(DEVICE).items():
        y = torch.nn.functional.conv2d(x.double(), w.double(), None, *problem.geometry)
        dy = integers((*y.shape[:3], 2 * y.shape[3]), torch.float32).to(DEVICE)[..., ::2]
        expected = conv_passes(problem, x.double(), w.double(), dy.double())
        got = passes(backend, problem, x, w, dy, False)
        for what, a, e in zip(("y", "dx", "dw"), got, expected):
            assert_exact(a, e, f"{name} {what}")


@pytest.mark.parametrize("activation", ["none", "relu", "relu6", "silu", "gelu", "hardswish"])
@pytest.mark.parametrize("backend", ALGORITHMS)
def test_epilogue(backend, activation):
    problem = suited(backend, "odd C and K")
    for dtype, tolerance in ((torch.float32, 1e-5), (torch.bfloat16, 1e-2)):
        for channels_last in LAYOUTS:
            x, w, residual = drawn(integers, problem, dtype, channels_last, 2)
            b = integers((problem.K,), dtype).to(DEVICE)
            y = BACKENDS[backend].conv2d_fprop(x, w, b, residual, *problem.geometry, activation)
            z = (
                torch.nn.functional.conv2d(x.double(), w.double(), b.double(), *problem.geometry)
                + residual.double()
            )
            if activation != "none":
                z = getattr(torch.nn.functional, activation)(z)
            torch.testing.assert_close(y.double(), z, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", ALGORITHMS)
def test_outputs_are_written_whole_and_nothing_else(backend, monkeypatch):
    """Outputs lie inside a larger buffer of NaN: none is left inside, and none beside is lost."""
    buffers = []
    problem = suited(backend, "strided")
    for channels_last in LAYOUTS:
        x, w, dy = drawn(integers, problem, torch.float32, channels_last)
        with monkeypatch.context() as patch:
            patch.setattr("fastconv.backends.conv2d.empty", guarded_empty(buffers))
            passes(backend, problem, x, w, dy, channels_last)
    assert len(buffers) == 6
    assert_written_whole_and_nothing_else(buffers)


@pytest.mark.parametrize("backend", ALGORITHMS)
def test_bitwise_equal_twice(backend):
    problem = suited(backend, "several pixel tiles")
    x, w, dy = drawn(normals, problem, torch.float32, False)
    first, second = (passes(backend, problem, x, w, dy, False) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.skipif(DEVICE != "cuda", reason="the interpreter multiplies without tensor cores")
@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
def test_tf32_is_used_where_torch_allows_it(channels_last):
    """Rounded to 10 bits, and not to fewer; and really rounded, for that is what makes it fast."""
    problem = named("several pixel tiles")
    x, w, dy = drawn(normals, problem, torch.float32, channels_last)
    exact = conv_passes(problem, x.double(), w.double(), dy.double())
    magnitudes = conv_magnitudes(problem, x, w, dy)
    results = {}
    for allow_tf32 in (False, True):
        with cudnn_flags(allow_tf32):
            results[allow_tf32] = passes("triton:implicit_gemm", problem, x, w, dy, channels_last)
    for strict, tf32, e, magnitude in zip(*results.values(), exact, magnitudes):
        # Tensor cores may cut each factor off at 10 bits instead of rounding it.
        assert ((tf32.double() - e).abs() <= 2 * 2.0**-10 * magnitude).all()
        assert (strict.double() - e).abs().mean() < (tf32.double() - e).abs().mean() / 50


def test_empty_batch():
    x, w = (
        torch.zeros(EMPTY_BATCH.x_size, device=DEVICE),
        torch.ones(EMPTY_BATCH.w_size, device=DEVICE),
    )
    dy = torch.zeros(0, EMPTY_BATCH.K, 9, 9, device=DEVICE)
    y, dx, dw = passes("triton", EMPTY_BATCH, x, w, dy, False)
    assert y.shape == dy.shape and dx.shape == x.shape
    assert torch.equal(dw, torch.zeros_like(w))
