"""Random problems (hypothesis): convolutions of integers come out exactly, with every algorithm;
pools as torch's."""

import torch
import torch.nn.functional as F
from conv_kernels import CPU_ALGORITHMS, passes, why_not
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from oracles import assert_exact, conv_passes
from problems import Conv, integers

import fastconv

SIZES = st.integers(1, 12)
SMALL = st.integers(1, 4)
PAIRS = st.tuples(st.integers(1, 4), st.integers(1, 4))


@st.composite
def problems(draw):
    groups = draw(st.integers(1, 4))
    problem = Conv(
        "random",
        draw(st.integers(1, 3)),
        groups * draw(SMALL),
        draw(SIZES),
        draw(st.integers(1, 40)),
        groups * draw(st.integers(1, 14)),
        draw(SMALL),
        draw(SMALL),
        draw(PAIRS),
        draw(st.tuples(st.integers(0, 5), st.integers(0, 5))),
        draw(PAIRS),
        groups,
    )
    for size, kernel, pad, dilation in (
        (problem.H, problem.R, problem.pad[0], problem.dilation[0]),
        (problem.W, problem.S, problem.pad[1], problem.dilation[1]),
    ):
        assume(size + 2 * pad >= dilation * (kernel - 1) + 1)
    return problem


def check(problem, x_last, w_last, dy_last, seed):
    torch.manual_seed(seed)
    x = integers(problem.x_size, torch.float32, 2, x_last)
    w = integers(problem.w_size, torch.float32, 2, w_last)
    y = F.conv2d(x.double(), w.double(), None, *problem.geometry)
    dy = integers(y.shape, torch.float32, 2, dy_last)
    expected = conv_passes(problem, x.double(), w.double(), dy.double())
    for backend in CPU_ALGORITHMS:
        if why_not(backend, problem):
            continue
        for name, a, e in zip(
            ("y", "dx", "dw"), passes(backend, problem, x, w, dy, x_last), expected
        ):
            assert_exact(a, e, f"{backend} {problem} {name}")


BOOL = st.booleans()


def run(check, exhaustive, *strategies):
    given(*strategies)(
        settings(
            max_examples=5000 if exhaustive else 100,
            deadline=None,
            derandomize=not exhaustive,
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
        )(check)
    )()


def test_random_convolutions(exhaustive):
    run(check, exhaustive, problems(), BOOL, BOOL, BOOL, st.integers(0, 1000))


def pooled(pool, x, *args, **kwargs):
    """[y, indices if any, dx] of a pooling function; dy is made of integers."""
    x = x.detach().requires_grad_()
    results = pool(x, *args, **kwargs)
    results = list(results) if isinstance(results, tuple) else [results]
    torch.manual_seed(1)
    return [*results, *torch.autograd.grad(results[0], x, integers(results[0].shape, x.dtype))]


@st.composite
def pool_arguments(draw):
    kernel = draw(PAIRS)
    padding = tuple(draw(st.integers(0, k // 2)) for k in kernel)
    return kernel, draw(PAIRS), padding, draw(st.booleans())


def check_pools(size, arguments, dilation, include_pad, output_size, last, seed):
    torch.manual_seed(seed)
    x = integers(size, torch.float64, 4, last)
    kernel, stride, padding, ceil_mode = arguments
    assume(
        all(s + 2 * p >= d * (k - 1) + 1 for s, k, p, d in zip(size[2:], kernel, padding, dilation))
    )
    # A window whose taps all lie in the padding has an index outside of the plane in torch.
    assume(dilation == (1, 1) or padding == (0, 0))
    for ours, torchs, args in (
        (fastconv.max_pool2d, F.max_pool2d, (kernel, stride, padding, dilation, ceil_mode, True)),
        (fastconv.avg_pool2d, F.avg_pool2d, (kernel, stride, padding, ceil_mode, include_pad)),
        (fastconv.adaptive_max_pool2d, F.adaptive_max_pool2d, (output_size, True)),
        (fastconv.adaptive_avg_pool2d, F.adaptive_avg_pool2d, (output_size,)),
    ):
        expected = pooled(torchs, x, *args)
        for backend in ("cpu", "reference"):
            got = pooled(ours, x, *args, backend=backend)
            torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


def test_random_pools(exhaustive):
    size = st.tuples(st.integers(1, 2), SMALL, st.integers(1, 20), st.integers(1, 40))
    run(
        check_pools,
        exhaustive,
        size,
        pool_arguments(),
        PAIRS,
        BOOL,
        st.tuples(SIZES, SIZES),
        BOOL,
        st.integers(0, 1000),
    )
