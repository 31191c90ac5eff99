"""Every convolution kernel of every backend on the named problems: exact on integers, no worse than
torch on random numbers, in every dtype, layout and pass.

The CUDA and Triton kernels run on a GPU, or emulated and interpreted. In Triton's interpreter
dtypes and layouts take turns from problem to problem; --exhaustive tries all of them on each."""

import pytest
import torch
import torch.nn.functional as F
from activation_names import exactly
from conv_kernels import (
    ALGORITHMS,
    CPU_ALGORITHMS,
    CUDA_ALGORITHMS,
    LAYOUT_IDS,
    LAYOUTS,
    TRITON_ALGORITHMS,
    assert_written_whole_and_nothing_else,
    guarded_empty,
    passes,
    strided_views,
    tf32,
    why_not,
    without,
)
from devices import CUDA, TRITON, TRITON_DEVICE, device_of, in_turn, interpreted, skip_half
from oracles import assert_exact, assert_no_worse_than_torch, conv_magnitudes, conv_passes
from problems import CONVS, EMPTY_BATCH, drawn, integers, named, normals

from fastconv.backends import BACKENDS
from fastconv.problem import DTYPES, allows_tf32

NAMES = ("y", "dx", "dw")
# Kernels treat some of them apart, and hand on a parameter; test_epilogue_kernels.py has all.
ACTIVATIONS = ["none", "relu", "relu6", "silu", "gelu", "hardswish", "elu(0.5)"]
NAMED = [one if isinstance(one, str) else one.values[0] for one in ALGORITHMS]
# Each factor of a product is rounded to TF32's 10 bits.
TF32_ERROR = 2.0**-10
# Problems of many programs or steps, each of which costs the interpreter milliseconds.
MANY_STEPS = (
    *("depthwise strided", "channels beyond a tile", "large kernel", "many filters"),
    *("stem", "many pixels"),
)
# One for each way to sum: taps that step, filters of groups, several tiles, one long sum.
RANDOM = ("dilated and strided", "grouped odd", "several pixel tiles", "long sums")


def suited(backend, usual):
    return named("depthwise multiplier" if "depthwise" in backend else usual)


def every_fourth(backend, turn, exhaustive):
    """Every fourth of the named problems; all with --exhaustive, but for Triton's interpreter, in
    which only the integers of all problems are tried."""
    step = 1 if exhaustive and not interpreted(backend) else 4
    return CONVS[turn % step :: step]


@pytest.mark.parametrize("problem", CONVS, ids=str)
@pytest.mark.parametrize("backend", ALGORITHMS)
def test_integers_exactly(backend, problem, exhaustive):
    dtypes = [dtype for dtype in DTYPES if not why_not(backend, problem, dtype)]
    if not dtypes:
        pytest.skip(why_not(backend, problem))
    if problem.why in MANY_STEPS and interpreted(backend) and not exhaustive:
        pytest.skip("many steps: --exhaustive runs it")
    skip_half(backend, CONVS.index(problem) + NAMED.index(backend), exhaustive)
    has_tf32 = backend not in CPU_ALGORITHMS
    cases = [
        (dtype, channels_last, allowed)
        for channels_last in LAYOUTS
        for dtype in dtypes
        for allowed in ([False, True] if has_tf32 and dtype == torch.float32 else [False])
    ]
    turn = CONVS.index(problem)
    if interpreted(backend):
        turn //= 2
    for dtype, channels_last, allowed in in_turn(cases, backend, turn, exhaustive):
        x, w, dy = drawn(integers, problem, dtype, channels_last, 8, device=device_of(backend))
        expected = conv_passes(problem, x.double(), w.double(), dy.double())
        with tf32(allowed):
            got = passes(backend, problem, x, w, dy, channels_last)
        for name, a, e in zip(NAMES, got, expected):
            # Sums stay below 2**24 and are exact in float32; 16-bit results round to nearest even.
            assert_exact(a, e, f"{name} {dtype} channels_last {channels_last} tf32 {allowed}")


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=LAYOUT_IDS)
@pytest.mark.parametrize("dtype", list(DTYPES), ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("backend", ALGORITHMS)
def test_random_no_worse_than_torch(backend, dtype, channels_last, exhaustive):
    turn = list(DTYPES).index(dtype) + 2 * channels_last
    if interpreted(backend) and not exhaustive:
        problems = in_turn([suited(backend, why) for why in RANDOM], backend, turn)
    else:
        problems = every_fourth(backend, turn, exhaustive)
    for problem in problems:
        if why_not(backend, problem, dtype):
            continue
        x, w, dy = drawn(normals, problem, dtype, channels_last, device=device_of(backend))
        exact = conv_passes(problem, x.double(), w.double(), dy.double())
        magnitudes = conv_magnitudes(problem, x, w, dy)
        with tf32(False):
            torchs = conv_passes(problem, x, w, dy)
            got = passes(backend, problem, x, w, dy, channels_last)
        for name, *tensors in zip(NAMES, got, torchs, exact, magnitudes):
            assert_no_worse_than_torch(*tensors, f"{problem} {name}")


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=LAYOUT_IDS)
@pytest.mark.parametrize("backend", [CUDA, TRITON])
def test_tf32_is_used_where_torch_allows_it(backend, channels_last):
    """Rounded to 10 bits, and not to fewer; and really rounded, for that is what makes it fast."""
    if backend == "triton" and TRITON_DEVICE == "cpu":
        pytest.skip("the interpreter multiplies without tensor cores")
    problem = named("several pixel tiles")
    device = device_of(backend)
    x, w, dy = drawn(normals, problem, torch.float32, channels_last, device=device)
    exact = conv_passes(problem, x.double(), w.double(), dy.double())
    magnitudes = conv_magnitudes(problem, x, w, dy)
    results = {}
    for allowed in (False, True):
        with tf32(allowed):
            assert allows_tf32() == allowed
            algorithm = f"{backend}:implicit_gemm"
            results[allowed] = passes(algorithm, problem, x, w, dy, channels_last)
    # Triton's tensor cores may cut each factor off at 10 bits instead of rounding it.
    limit = 2 * TF32_ERROR if backend == "triton" else TF32_ERROR
    for strict, rounded, e, magnitude in zip(*results.values(), exact, magnitudes):
        assert ((rounded.double() - e).abs() <= limit * magnitude).all()
        assert (strict.double() - e).abs().mean() < (rounded.double() - e).abs().mean() / 50


@pytest.mark.parametrize("backend", without(ALGORITHMS, "depthwise"))
def test_any_strides(backend):
    """Slices, offsets, expanded and transposed tensors are read where they lie."""
    problem = named("strided")
    for name, (x, w) in strided_views(device_of(backend)).items():
        y = F.conv2d(x.double(), w.double(), None, *problem.geometry)
        dy = integers((*y.shape[:3], 2 * y.shape[3]), torch.float32).to(x.device)[..., ::2]
        expected = conv_passes(problem, x.double(), w.double(), dy.double())
        for what, a, e in zip(NAMES, passes(backend, problem, x, w, dy, False), expected):
            assert_exact(a, e, f"{name} {what}")


@pytest.mark.parametrize("backend", [*CUDA_ALGORITHMS, *TRITON_ALGORITHMS])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_epilogue(backend, activation, exhaustive):
    """The CPU's kernels take theirs in test_conv2d_autograd.py and test_activation_vectors.py."""
    problem = suited(backend, "odd C and K")
    tolerances = (torch.float32, 1e-5), (torch.bfloat16, 1e-2)
    cases = [(*pair, channels_last) for pair in tolerances for channels_last in LAYOUTS]
    turn = ACTIVATIONS.index(activation)
    for dtype, tolerance, channels_last in in_turn(cases, backend, turn, exhaustive):
        device = device_of(backend)
        x, w, residual = drawn(integers, problem, dtype, channels_last, 2, device=device)
        b = integers((problem.K,), dtype).to(device)
        y = BACKENDS[backend].conv2d_fprop(x, w, b, residual, problem.geometry, activation)
        z = F.conv2d(x.double(), w.double(), b.double(), *problem.geometry) + residual.double()
        exact = exactly(activation, z)
        torch.testing.assert_close(y.double(), exact, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("backend", ALGORITHMS)
def test_outputs_are_written_whole_and_nothing_else(backend, monkeypatch):
    """Outputs lie inside a larger buffer of NaN: none is left inside, and none beside is lost."""
    buffers = []
    problem = suited(backend, "strided")
    for channels_last in LAYOUTS:
        x, w, dy = drawn(integers, problem, torch.float32, channels_last, device=device_of(backend))
        with monkeypatch.context() as patch:
            patch.setattr("fastconv.backends.conv2d.empty", guarded_empty(buffers))
            passes(backend, problem, x, w, dy, channels_last)
    assert len(buffers) == 6
    assert_written_whole_and_nothing_else(buffers)


@pytest.mark.parametrize("backend", [*CUDA_ALGORITHMS, *TRITON_ALGORITHMS])
def test_bitwise_equal_twice(backend):
    problem = suited(backend, "several pixel tiles")
    x, w, dy = drawn(normals, problem, torch.float32, False, device=device_of(backend))
    first, second = (passes(backend, problem, x, w, dy, False) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second))


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=LAYOUT_IDS)
@pytest.mark.parametrize("backend", ALGORITHMS)
def test_an_infinity_reaches_only_what_reads_it(backend, channels_last, exhaustive):
    """What a kernel computes beside the problem's pixels and channels must not show."""
    problems, corners = [suited(backend, "grouped odd")], (0, -1)
    if interpreted(backend) and not exhaustive:
        skip_half(backend, channels_last + NAMED.index(backend), exhaustive)
        corners = (-1,)
    if exhaustive:
        problems = every_fourth(backend, channels_last, exhaustive)
    elif backend in CPU_ALGORITHMS:
        problems = CONVS[channels_last::2]
    for problem in problems:
        if why_not(backend, problem):
            continue
        x, w, dy = drawn(integers, problem, torch.float32, channels_last)
        for infinite, names in ((x, "y dw"), (dy, "dx")):
            for corner in corners:
                kept = infinite[corner, corner, corner, corner].item()
                infinite[corner, corner, corner, corner] = float("inf")
                operands = [tensor.to(device_of(backend)) for tensor in (x, w, dy)]
                got = passes(backend, problem, *operands, channels_last)
                expected = passes("reference", problem, x, w, dy, channels_last)
                for name, a, e in zip(NAMES, got, expected):
                    if name in names:
                        assert torch.equal(a.isfinite().cpu(), e.isfinite()), f"{name} {problem}"
                infinite[corner, corner, corner, corner] = kept


@pytest.mark.parametrize("backend", ["cpu", CUDA, TRITON])
def test_empty_batch(backend):
    device = device_of(backend)
    x = torch.zeros(EMPTY_BATCH.x_size, device=device)
    w = torch.ones(EMPTY_BATCH.w_size, device=device)
    dy = torch.zeros(0, EMPTY_BATCH.K, 9, 9, device=device)
    y, dx, dw = passes(backend, EMPTY_BATCH, x, w, dy, False)
    assert y.shape == dy.shape and dx.shape == x.shape
    assert torch.equal(dw, torch.zeros_like(w))
