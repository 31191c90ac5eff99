"""Random convolution problems (hypothesis): integers come out exactly, with every algorithm."""

import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from oracles import assert_exact, conv_passes
from problems import Conv, integers
from test_conv2d_kernels import ALGORITHMS, passes

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
    y = torch.nn.functional.conv2d(x.double(), w.double(), None, *problem.geometry)
    dy = integers(y.shape, torch.float32, 2, dy_last)
    expected = conv_passes(problem, x.double(), w.double(), dy.double())
    for backend in ALGORITHMS:
        if backend == "cpu:depthwise" and problem.groups != problem.C:
            continue
        for name, a, e in zip(
            ("y", "dx", "dw"), passes(backend, problem, x, w, dy, x_last), expected
        ):
            assert_exact(a, e, f"{backend} {problem} {name}")


BOOL = st.booleans()


def test_random_problems(exhaustive):
    given(problems(), BOOL, BOOL, BOOL, st.integers(0, 1000))(
        settings(
            max_examples=5000 if exhaustive else 300,
            deadline=None,
            derandomize=not exhaustive,
            suppress_health_check=[HealthCheck.filter_too_much, HealthCheck.too_slow],
        )(check)
    )()
