"""Every CPU convolution kernel on every named problem: exact on integers, no worse than torch on
random numbers, for every dtype, layout and pass."""

import pytest
import torch
from oracles import assert_exact, assert_no_worse_than_torch, conv_magnitudes, conv_passes
from problems import CONVS, EMPTY_BATCH, Conv, integers, normals

from fastconv.backends import BACKENDS
from fastconv.backends.memory import DTYPES

ALGORITHMS = ["reference", "cpu:direct", "cpu:implicit_gemm", "cpu:depthwise", "cpu:planes", "cpu"]
LAYOUTS = [False, True]


def passes(backend, problem, x, w, dy, channels_last):
    """(y, dx, dw) of a backend's kernels, called as autograd calls them."""
    stride, pad, dilation, groups = problem.geometry
    geometry = (stride, pad, dilation, groups)
    kernels = BACKENDS[backend]
    return (
        kernels.conv2d_fprop(x, w, None, None, *geometry, "none"),
        kernels.conv2d_dgrad(dy, w, x.shape, channels_last, *geometry),
        kernels.conv2d_wgrad(dy, x, w.shape, channels_last, *geometry),
    )


def why_not(backend, problem):
    call = (problem.x_size, problem.w_size, *problem.geometry)
    return BACKENDS[backend].supports("conv2d", call, torch.float32, "cpu")


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("problem", CONVS, ids=str)
@pytest.mark.parametrize("backend", ALGORITHMS)
def test_integers_exactly(backend, problem, channels_last):
    if reason := why_not(backend, problem):
        pytest.skip(reason)
    for dtype in DTYPES:
        x = integers(problem.x_size, dtype, 8, channels_last)
        w = integers(problem.w_size, dtype, 8, channels_last)
        y = torch.nn.functional.conv2d(x.double(), w.double(), None, *problem.geometry)
        dy = integers(y.shape, dtype, 8, channels_last)
        expected = conv_passes(problem, x.double(), w.double(), dy.double())
        got = passes(backend, problem, x, w, dy, channels_last)
        for name, a, e in zip(("y", "dx", "dw"), got, expected):
            # Sums stay below 2**24 and are exact in float32; 16-bit results round to nearest even.
            assert_exact(a, e, f"{name} {dtype}")


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", list(DTYPES), ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("backend", ALGORITHMS)
def test_random_no_worse_than_torch(backend, dtype, channels_last):
    for problem in CONVS:
        if why_not(backend, problem):
            continue
        x = normals(problem.x_size, dtype, channels_last)
        w = normals(problem.w_size, dtype, channels_last)
        y = torch.nn.functional.conv2d(x.double(), w.double(), None, *problem.geometry)
        dy = normals(y.shape, dtype, channels_last)
        exact = conv_passes(problem, x.double(), w.double(), dy.double())
        torchs = conv_passes(problem, x, w, dy)
        got = passes(backend, problem, x, w, dy, channels_last)
        magnitudes = conv_magnitudes(problem, x, w, dy)
        for name, *tensors in zip(("y", "dx", "dw"), got, torchs, exact, magnitudes):
            assert_no_worse_than_torch(*tensors, f"{problem} {name}")


def strided_views(device="cpu"):
    """{name: (x, w)} of CONVS[4]: slices, offsets, expanded and transposed tensors."""
    big_x = integers((4, 9, 11, 20), torch.float32).to(device)
    big_w = integers((8, 9, 4, 5), torch.float32).to(device)
    return {
        "slice": (big_x[1:3, 2:6, 1:10, 3:12], big_w[1:7, 1:5, 1:4, 1:4]),
        "step": (big_x[::2, 1:9:2, 2:11, ::2][..., :9], big_w[:6, :8:2, :3, ::2]),
        "expanded": (
            big_x[:1, :1, :9, :9].expand(2, 4, 9, 9),
            big_w[:1, :4, :3, :3].expand(6, 4, 3, 3),
        ),
        "transposed": (
            big_x[:2, :4, :9, :9].transpose(2, 3),
            big_w[:6, :4, :3, :3].transpose(2, 3),
        ),
    }


FAR = 2**62  # the stride of an axis of size 1, which nobody follows


@pytest.mark.parametrize("backend", ALGORITHMS)
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


GUARD = 64  # elements of NaN before and behind an output


def guarded_empty(buffers):
    """A stand-in for backends.memory.empty: outputs lie inside a larger buffer of NaN, which is
    added to `buffers` with the number of elements."""

    def empty(size, like, channels_last):
        count = torch.Size(size).numel()
        buffer = torch.full(
            (count + 2 * GUARD,), float("nan"), dtype=like.dtype, device=like.device
        )
        buffers.append((buffer, count))
        plain = buffer[GUARD : GUARD + count]
        if channels_last:
            n, c, h, w = size
            return plain.view(n, h, w, c).permute(0, 3, 1, 2)
        return plain.view(size)

    return empty


def assert_written_whole_and_nothing_else(buffers):
    for buffer, count in buffers:
        assert not buffer[GUARD : GUARD + count].isnan().any()
        assert buffer[:GUARD].isnan().all() and buffer[GUARD + count :].isnan().all()


@pytest.mark.parametrize("backend", [*ALGORITHMS[:3], "cpu:planes"])
def test_any_strides(backend):
    """Slices, offsets, expanded and transposed tensors are read where they lie."""
    problem = CONVS[4]
    stride, pad, dilation, groups = problem.geometry
    for name, (x, w) in strided_views().items():
        y = torch.nn.functional.conv2d(x.double(), w.double(), None, stride, pad, dilation, groups)
        dy = integers((*y.shape[:3], 2 * y.shape[3]), torch.float32)[..., ::2]
        expected = conv_passes(problem, x.double(), w.double(), dy.double())
        for what, a, e in zip(
            ("y", "dx", "dw"), passes(backend, problem, x, w, dy, False), expected
        ):
            assert_exact(a, e, f"{name} {what}")


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


@pytest.mark.parametrize("backend", ALGORITHMS)
def test_outputs_are_written_whole_and_nothing_else(backend, monkeypatch):
    """Outputs lie inside a larger buffer of NaN: none is left inside, and none beside is lost."""
    buffers = []
    problem = next(
        p
        for p in CONVS
        if p.why == ("depthwise multiplier" if "depthwise" in backend else "strided")
    )
    for channels_last in LAYOUTS:
        x, w = (
            integers(s, torch.float32, 2, channels_last) for s in (problem.x_size, problem.w_size)
        )
        dy = torch.nn.functional.conv2d(x, w, None, *problem.geometry)
        with monkeypatch.context() as patch:
            patch.setattr("fastconv.backends.conv2d.empty", guarded_empty(buffers))
            passes(backend, problem, x, w, dy, channels_last)
    assert len(buffers) == 6
    assert_written_whole_and_nothing_else(buffers)


@pytest.mark.parametrize("backend", ALGORITHMS)
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


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("backend", ALGORITHMS)
def test_an_infinity_reaches_only_what_reads_it(backend, channels_last):
    """What a kernel computes beside the problem's pixels and channels must not show."""
    for problem in CONVS:
        if why_not(backend, problem):
            continue
        x = integers(problem.x_size, torch.float32, 2, channels_last)
        w = integers(problem.w_size, torch.float32, 2, channels_last)
        y = torch.nn.functional.conv2d(x, w, None, *problem.geometry)
        dy = integers(y.shape, torch.float32, 2, channels_last)
        for infinite, names in ((x, "y dw"), (dy, "dx")):
            for corner in (0, -1):
                kept = infinite[corner, corner, corner, corner].item()
                infinite[corner, corner, corner, corner] = float("inf")
                got = passes(backend, problem, x, w, dy, channels_last)
                expected = passes("reference", problem, x, w, dy, channels_last)
                for name, a, e in zip(("y", "dx", "dw"), got, expected):
                    if name in names:
                        assert torch.equal(a.isfinite(), e.isfinite()), f"{name} {problem}"
                infinite[corner, corner, corner, corner] = kept


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
    y = BACKENDS["reference"].conv2d_fprop(x, w, None, None, *problem.geometry, "none")
    dy = integers(y.shape, torch.float64, 2)
    expected = passes("reference", problem, x, w, dy, False)
    for name, a, e in zip(("y", "dx", "dw"), passes("cpu", problem, x, w, dy, False), expected):
        assert_exact(a, e, name)


def test_empty_batch():
    x, w = torch.zeros(EMPTY_BATCH.x_size), torch.ones(EMPTY_BATCH.w_size)
    dy = torch.zeros(0, EMPTY_BATCH.K, 9, 9)
    y, dx, dw = passes("cpu", EMPTY_BATCH, x, w, dy, False)
    assert y.shape == dy.shape and dx.shape == x.shape
    assert torch.equal(dw, torch.zeros_like(w))


def test_implicit_gemm_stays_within_its_workspace_and_bounds_gemm_k():
    """A sum longer than the workspace holds is refused by name and planned as direct."""
    x, w = torch.ones(1, 2**18 + 8, 1, 1), torch.ones(3, 2**18 + 8, 1, 1)
    geometry = ((1, 1), (0, 0), (1, 1), 1)
    assert "gemm_k" in BACKENDS["cpu:implicit_gemm"].supports(
        "conv2d", (tuple(x.shape), tuple(w.shape), *geometry), x.dtype, "cpu"
    )
    y = BACKENDS["cpu"].conv2d_fprop(x, w, None, None, *geometry, "none")
    assert torch.equal(y, torch.full((1, 3, 1, 1), float(2**18 + 8)))
