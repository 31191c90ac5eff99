"""The CPU's convolution kernels: what the problems of test_conv2d_kernels.py are too small or too
plain for, and what only they promise."""

import pytest
import torch
from conv_kernels import (
    CPU_ALGORITHMS,
    LAYOUTS,
    assert_written_whole_and_nothing_else,
    guarded_empty,
    passes,
    why_not,
)
from oracles import assert_exact, conv_passes
from problems import CONVS, Conv, integers, normals

from fastconv.backends import BACKENDS

FAR = 2**62  # the stride of an axis of size 1, which nobody follows


@pytest.mark.parametrize("backend", CPU_ALGORITHMS)
def test_strides_of_axes_of_size_1_are_not_followed(backend):
    """Padding lies beside such an axis: positions times stride may be beyond 64 bits there."""
    for problem in (
        Conv("row", N=1, C=20, H=1, K=20, groups=20, pad=(1, 1)),
        Conv("column", N=1, C=20, W=1, K=20, groups=20, R=5, S=5, pad=(2, 2)),
        Conv("one filter", N=1, C=1, K=1, H=1, W=1, R=5, S=5, pad=(9, 9), stride=(2, 2)),
    ):
        for channels_last in LAYOUTS:
            x = integers(problem.x_size, torch.float32, 4, channels_last)
            w = integers(problem.w_size, torch.float32, 4, channels_last)
            y = torch.nn.functional.conv2d(x.double(), w.double(), None, *problem.geometry)
            dy = integers(y.shape, torch.float32, 4, channels_last)
            expected = conv_passes(problem, x.double(), w.double(), dy.double())
            far = [
                t.as_strided(t.shape, [FAR if n == 1 else s for n, s in zip(t.shape, t.stride())])
                for t in (x, w, dy)
            ]
            got = passes(backend, problem, *far, channels_last)
            for name, a, e in zip(("y", "dx", "dw"), got, expected):
                assert_exact(a, e, f"{problem} {name}")


# Images that do not fit into one tile of the algorithm.
IN_TILES = [
    ("cpu:depthwise", Conv("3x3", N=1, C=33, K=33, groups=33, H=61, W=70, pad=(1, 1))),
    ("cpu:depthwise", Conv("5x5", N=2, C=33, K=33, groups=33, H=61, W=70, R=5, S=5, pad=(2, 2))),
    ("cpu:depthwise", Conv("7x7", N=1, C=33, K=33, groups=33, H=61, W=70, R=7, S=7, pad=(3, 3))),
    (
        "cpu:depthwise",
        Conv("strided", N=1, C=33, K=33, groups=33, H=121, W=133, stride=(2, 2), pad=(1, 1)),
    ),
    (
        "cpu:planes",
        Conv("stem", N=1, C=3, K=64, H=101, W=100, R=7, S=7, stride=(2, 2), pad=(3, 3)),
    ),
    ("cpu:planes", Conv("grouped", N=1, C=32, K=32, groups=8, H=90, W=91, pad=(1, 1))),
    ("cpu:implicit_gemm", Conv("dense", N=1, C=40, K=33, H=61, W=40, pad=(1, 1))),
]


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("backend, problem", IN_TILES, ids=lambda v: str(v).replace("cpu:", ""))
def test_images_of_many_tiles_exactly(backend, problem, channels_last, monkeypatch):
    buffers = []
    monkeypatch.setattr("fastconv.backends.conv2d.empty", guarded_empty(buffers))
    x = integers(problem.x_size, torch.float32, 4, channels_last)
    w = integers(problem.w_size, torch.float32, 4, channels_last)
    y = torch.nn.functional.conv2d(x.double(), w.double(), None, *problem.geometry)
    dy = integers(y.shape, torch.float32, 4, channels_last)
    expected = conv_passes(problem, x.double(), w.double(), dy.double())
    for name, a, e in zip(
        ("y", "dx", "dw"), passes(backend, problem, x, w, dy, channels_last), expected
    ):
        assert_exact(a, e, name)
    assert_written_whole_and_nothing_else(buffers)


@pytest.mark.parametrize("backend", CPU_ALGORITHMS)
def test_bitwise_equal_over_threads_and_runs(backend, threads):
    for problem in CONVS:
        if why_not(backend, problem):
            continue
        x, w = normals(problem.x_size, torch.float32), normals(problem.w_size, torch.float32)
        dy = torch.randn_like(torch.nn.functional.conv2d(x, w, None, *problem.geometry))
        results = []
        for count in (1, 2, 2, 5):
            threads(count)
            results.append(passes(backend, problem, x, w, dy, False))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other)), str(problem)


@pytest.mark.parametrize(
    "problem",
    [
        Conv("last tile of one column", N=1, C=3, H=1, W=49731, K=8, R=1, stride=(1, 4)),
        Conv("last channels have a larger pitch", N=1, C=135, H=40, W=40, K=8, R=35, S=35),
        Conv("one row in the padding", N=1, C=16, H=4, W=8, K=16, R=1, S=1,
             stride=(2**62, 1), pad=(2**60 + 2, 0)),
        Conv("phases overflow", N=1, C=4, H=1, W=1, K=4, R=2, S=1, groups=2,
             stride=(2**61, 1), pad=(2**62 - 1, 0), dilation=(2**62, 1)),
    ],
    ids=lambda p: p.why.replace(" ", "_"),
)  # fmt: skip
def test_sizes_at_the_edges_of_tiles_and_integers(problem):
    x, w = (integers(size, torch.float64, 2) for size in (problem.x_size, problem.w_size))
    y = BACKENDS["reference"].conv2d_fprop(x, w, None, None, problem.geometry, "none")
    dy = integers(y.shape, torch.float64, 2)
    expected = passes("reference", problem, x, w, dy, False)
    for name, a, e in zip(("y", "dx", "dw"), passes("cpu", problem, x, w, dy, False), expected):
        assert_exact(a, e, name)


def test_implicit_gemm_stays_within_its_workspace_and_bounds_gemm_k():
    """A sum longer than the workspace holds is refused by name and planned as direct."""
    x, w = torch.ones(1, 2**18 + 8, 1, 1), torch.ones(3, 2**18 + 8, 1, 1)
    geometry = ((1, 1), (0, 0), (1, 1), 1)
    assert "gemm_k" in BACKENDS["cpu:implicit_gemm"].supports(
        "conv2d", (tuple(x.shape), tuple(w.shape), geometry), x.dtype, "cpu"
    )
    y = BACKENDS["cpu"].conv2d_fprop(x, w, None, None, geometry, "none")
    assert torch.equal(y, torch.full((1, 3, 1, 1), float(2**18 + 8)))
