"""The depthwise CUDA kernels on shapes of their own, emulated: every template in both layouts and
all dtypes and passes, odd planes and channel counts, and that every template can be reached."""

from itertools import product

import pytest
import torch
import torch.nn.functional as F
from activation_names import NAMES, exactly
from conv_kernels import assert_written_whole_and_nothing_else, guarded_empty
from oracles import (
    assert_exact,
    assert_no_worse_than_torch,
    conv_magnitudes,
    conv_passes,
)
from problems import Conv, integers, normals

from fastconv._native import core, cuda
from fastconv.backends import BACKENDS
from fastconv.backends.cuda.conv2d import dense_strides
from fastconv.problem import ConvOp

pytestmark = pytest.mark.skipif(cuda is None, reason="no CUDA kernels in this build")

DEVICE = "cpu" if cuda is not None and cuda.is_emulated else "cuda"
TEMPLATE_DTYPES = [torch.float32, torch.float16, torch.bfloat16]
LAYOUTS = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])


def depthwise(why, C, H, W, R, stride=1, pad=None, N=1, **others):
    pad = R // 2 if pad is None else pad
    sizes = {"K": C, "groups": C, "S": R} | others
    return Conv(why, N=N, C=C, H=H, W=W, R=R, stride=(stride, stride), pad=(pad, pad), **sizes)


PLANES = [
    *((H, W, pad) for H, W in ((1, 1), (7, 7), (13, 9)) for pad in ("half",)),
    (9, 20, "none"),
    (6, 11, "more"),
]


def on_device(tensor):
    return tensor.to(DEVICE)


def passes(problem, x, w, dy, channels_last, backend="cuda:depthwise"):
    """(y, dx, dw) of the kernels, on the CPU."""
    kernels = BACKENDS[backend]
    x, w, dy = (on_device(tensor) for tensor in (x, w, dy))
    results = (
        kernels.conv2d_fprop(x, w, None, None, problem.geometry, "none"),
        kernels.conv2d_dgrad(dy, w, x.shape, channels_last, problem.geometry),
        kernels.conv2d_wgrad(dy, x, w.shape, channels_last, problem.geometry),
    )
    return tuple(result.cpu() for result in results)


def assert_right(problem, dtype, channels_last, make=integers):
    """Integers exactly; normals no worse than torch."""
    x = make(problem.x_size, dtype, channels_last=channels_last)
    w = make(problem.w_size, dtype, channels_last=channels_last)
    y = F.conv2d(x.double(), w.double(), None, *problem.geometry)
    dy = make(y.shape, dtype, channels_last=channels_last)
    exact = conv_passes(problem, x.double(), w.double(), dy.double())
    got = passes(problem, x, w, dy, channels_last)
    if make is integers:
        for name, a, e in zip(("y", "dx", "dw"), got, exact):
            assert_exact(a, e, f"{problem} {name} {dtype}")
        return
    torchs, magnitudes = conv_passes(problem, x, w, dy), conv_magnitudes(problem, x, w, dy)
    for name, *tensors in zip(("y", "dx", "dw"), got, torchs, exact, magnitudes):
        assert_no_worse_than_torch(*tensors, f"{problem} {name} {dtype}")


@LAYOUTS
@pytest.mark.parametrize("dtype", TEMPLATE_DTYPES, ids=lambda d: str(d).removeprefix("torch."))
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("R", [3, 5, 7])
def test_templates(R, stride, dtype, channels_last):
    """With channels that fill vectors, and with others."""
    for (H, W, kind), C in product(PLANES, (5, 8)):
        pad = {"none": 0, "half": R // 2, "more": R // 2 + 2}[kind]
        if kind != "none" or min(H, W) >= R:
            problem = depthwise(f"{kind} padded", C, H, W, R, stride, pad)
            assert_right(problem, dtype, channels_last)


ODD = [
    depthwise("no whole vector", 20, 8, 10, 3),
    depthwise("odd channels", 70, 3, 9, 5),
    depthwise("three channels", 3, 6, 9, 7, stride=2),
    depthwise("two tiles of channels and columns", 72, 2, 70, 3),
    depthwise("vectors beyond a block", 300, 6, 9, 3, stride=2),
    depthwise("rows of 56 begin inside vectors", 2, 5, 56, 5),
    depthwise("two tiles of columns along rows", 2, 3, 130, 3),
    depthwise("two tiles of columns along rows, strided", 2, 7, 258, 3, stride=2),
    depthwise("many rows", 2, 150, 7, 3, N=2),
    depthwise("1x1", 5, 4, 4, 1),
    depthwise("even filter", 4, 6, 6, 4, pad=1),
    depthwise("31x31", 3, 12, 20, 31),
    depthwise("27x27 strided", 2, 16, 18, 27, stride=2),
    depthwise("longer than a piece", 2, 3, 50, 3, S=37, pad=2),
    depthwise("dilated", 6, 9, 11, 3, pad=2, dilation=(2, 3)),
    depthwise("stride 3", 5, 10, 13, 3, stride=3),
    depthwise("multiplier", 3, 7, 9, 3, K=6, N=2),
    depthwise("multiplier strided", 4, 7, 9, 5, stride=2, K=12),
    depthwise("one channel", 1, 9, 9, 3),
]


@LAYOUTS
@pytest.mark.parametrize("problem", ODD, ids=str)
def test_odd_shapes(problem, channels_last):
    for dtype in (*TEMPLATE_DTYPES, torch.float64):
        if problem.R < 20 or dtype != torch.float16:
            assert_right(problem, dtype, channels_last)


@LAYOUTS
def test_random_no_worse_than_torch(channels_last):
    for problem in (
        depthwise("3x3", 9, 9, 15, 3, N=3),
        depthwise("7x7 strided", 4, 9, 15, 7, stride=2, N=2),
        depthwise("generic", 3, 9, 12, 11, N=2),
    ):
        for dtype in (*TEMPLATE_DTYPES, torch.float64):
            assert_right(problem, dtype, channels_last, normals)


@LAYOUTS
@pytest.mark.parametrize("R", [3, 4])
def test_epilogue(R, channels_last):
    problem = depthwise("epilogue", 12, 7, 10, R, pad=1, N=2)
    for dtype in (torch.float32, torch.bfloat16):
        x = normals(problem.x_size, dtype, channels_last)
        w = normals(problem.w_size, dtype)
        b = normals((problem.K,), dtype)
        z = F.conv2d(x.double(), w.double(), b.double(), *problem.geometry)
        residual = normals(z.shape, dtype, channels_last)
        z = z + residual.double()
        for activation in ("none", *NAMES):
            y = BACKENDS["cuda:depthwise"].conv2d_fprop(
                *map(on_device, (x, w, b, residual)), problem.geometry, activation
            )
            tolerance = 8 * torch.finfo(dtype).eps
            torch.testing.assert_close(
                y.cpu().double(),
                exactly(activation, z),
                rtol=tolerance,
                atol=tolerance,
            )


@pytest.mark.parametrize("R", [3, 4])
def test_any_strides(R):
    """Slices, steps, expanded and transposed tensors, and addresses that no vector fits."""
    problem = depthwise("strides", 8, 8, 16, R, pad=1, N=2)
    big = integers((4, 24, 24, 40), torch.bfloat16)
    y_size = F.conv2d(
        torch.empty(problem.x_size), torch.empty(problem.w_size), None, *problem.geometry
    ).shape
    w = integers((16, 1, 9, 9), torch.bfloat16)[::2, :, 1 : 1 + 2 * R : 2, 1 : 1 + R]
    last = big.permute(0, 3, 1, 2)
    for name, x, dy in (
        ("slice", big[1:3, 2:10, 1:9, 1:17], big[:2, 8:16, 3 : 3 + y_size[2], 7 : 7 + y_size[3]]),
        (
            "step",
            big[::2, 1:17:2, ::2, ::2][:, :, :8, :16],
            big[:2, ::2][:, :8, ::2, ::2][:, :, : y_size[2], : y_size[3]],
        ),
        ("expanded", big[:1, :1, :8, :16].expand(2, 8, 8, 16), big[:1, :1, :1, :1].expand(y_size)),
        (
            "transposed",
            big.transpose(2, 3)[:2, :8, :8, :16],
            big.transpose(2, 3)[:2, :8, : y_size[2], : y_size[3]],
        ),
        ("channels sliced", last[:2, 3:11, :8, :16], last[:2, 8:16, : y_size[2], : y_size[3]]),
    ):
        exact = conv_passes(problem, x.double(), w.double(), dy.double())
        for channels_last in (False, True):
            got = passes(problem, x, w, dy, channels_last)
            for what, a, e in zip(("y", "dx", "dw"), got, exact):
                assert_exact(a, e, f"{name} {what}")


@LAYOUTS
@pytest.mark.parametrize("R", [5, 6])
def test_outputs_are_written_whole_and_nothing_else(R, channels_last, monkeypatch):
    """Outputs lie inside a larger buffer of NaN: none is left inside, and none beside is lost."""
    buffers = []
    monkeypatch.setattr("fastconv.backends.conv2d.empty", guarded_empty(buffers))
    for stride in (1, 2):
        problem = depthwise("guarded", 20, 9, 16, R, stride, N=2)
        x = integers(problem.x_size, torch.float16, channels_last=channels_last)
        w = integers(problem.w_size, torch.float16)
        passes(problem, x, w, F.conv2d(x, w, None, *problem.geometry), channels_last)
    assert len(buffers) == 6
    assert_written_whole_and_nothing_else(buffers)


@LAYOUTS
def test_nan_and_inf_stay_where_their_windows_are(channels_last):
    for (R, stride), C in product(((3, 1), (3, 2), (4, 1)), (9, 12)):
        problem = depthwise("nan", C, 9, 11, R, stride, pad=1)
        x, w = normals(problem.x_size, torch.float32, channels_last), torch.ones(problem.w_size)
        x[0, 3, 4, 5], x[0, 7, 0, 0], x[0, 8, 8, 10] = float("nan"), float("inf"), float("-inf")
        y = F.conv2d(x, w, None, *problem.geometry)
        dy = torch.randn_like(y)
        dy[0, 2, 1, 2] = float("nan")
        exact = conv_passes(problem, x, w, dy)
        for name, a, e in zip(("y", "dx", "dw"), passes(problem, x, w, dy, channels_last), exact):
            assert torch.equal(a.isnan(), e.isnan()) and torch.equal(a.isinf(), e.isinf()), name


def plan(op, problem, dtype, channels_last, aligned=True, sm_count=132):
    conv = core.ConvProblem(**problem_sizes(problem))
    return core.plan_conv2d_cuda(
        core.CudaAlgorithm.depthwise,
        core.CudaConvCall(
            op,
            conv,
            dtype,
            False,
            *dense_strides(conv, channels_last),
            aligned,
            sm_count,
            227 << 10,
            50 << 20,
        ),
        "",
    )


def problem_sizes(problem):
    names = ("stride", "pad", "dilation")
    return {
        **{letter: getattr(problem, letter) for letter in "NCHWKRS"},
        **{f"{n}_{axis}": v for n in names for axis, v in zip("hw", getattr(problem, n))},
        "groups": problem.groups,
    }


@LAYOUTS
def test_wgrad_slices(channels_last):
    """As many slices as the device can use, none of them empty, and the same bits every time."""
    for R, H in ((3, 40), (6, 12)):
        problem = depthwise("slices", 6, H, 9, R, pad=1, N=4)
        assert plan(ConvOp.wgrad, problem, core.DType.float32, channels_last).splits > 1
        x, w = (
            normals(problem.x_size, torch.float32, channels_last),
            normals(problem.w_size, torch.float32),
        )
        dy = torch.randn_like(F.conv2d(x, w, None, *problem.geometry))
        results = [passes(problem, x, w, dy, channels_last) for _ in range(2)]
        assert all(torch.equal(a, b) for a, b in zip(*results))
        assert_right(problem, torch.float32, channels_last)


# Kernels by number: those for any layout, then those whose threads own vectors of channels.
ANY_LAYOUT = {(R, stride): 1 + i for i, (R, stride) in enumerate(product((3, 5, 7), (1, 2)))}
VECTORS = {(R, stride): 7 + i for i, (R, stride) in enumerate(product((3, 5, 7), (1, 2)))}


def kernel_of(op, problem, dtype, channels_last):
    """(number, whether its accesses are wide) of the kernel that should run a layer."""
    R, stride, element = problem.R, problem.stride[0], element_size(dtype)
    if dtype == core.DType.float64 or (R, stride) not in ANY_LAYOUT:
        return 0, False
    vector = 2 if R == 7 or (op == ConvOp.wgrad and R == 5) else 8 // element
    too_many_sums = R == 7 and (op == ConvOp.wgrad or (op == ConvOp.dgrad and stride == 2))
    if channels_last and problem.C % vector == 0 and not too_many_sums:
        return VECTORS[R, stride], True
    copied = problem.C if channels_last else gathered_width(op, problem.W, stride)
    return ANY_LAYOUT[R, stride], copied * element % 16 == 0


def test_every_template_is_planned_and_its_block_fits():
    """The plan reaches each configuration, from layers as networks have them."""
    seen = set()
    for R, stride, dtype in product((3, 5, 7, 9), (1, 2), core.DType.__members__.values()):
        for size, C in ((7, 960), (14, 672), (56, 144), (112, 96), (112, 4), (513, 3)):
            problem = depthwise("layer", C, size, size, R, stride, N=32)
            for op, channels_last in product(ConvOp.__members__.values(), (False, True)):
                p = plan(op, problem, dtype, channels_last)
                seen.add(p.kernel)
                expected = kernel_of(op, problem, dtype, channels_last)
                assert (p.kernel, p.vectorised) == expected, p.tile_name
    assert seen == {0, *ANY_LAYOUT.values(), *VECTORS.values()}


@pytest.mark.parametrize("infinite", [False, True], ids=["finite", "infinite"])
@pytest.mark.parametrize(("R", "stride"), VECTORS)
def test_vectors_need_addresses_and_strides_that_allow_them(R, stride, infinite):
    """Without them the kernel for any layout runs, and gives the same bits, also where an infinite
    filter meets padding."""
    problem = depthwise("vectors", 8, 11, 10, R, stride, N=2)
    bf16 = core.DType.bfloat16
    assert plan(ConvOp.fprop, problem, bf16, True).kernel == VECTORS[R, stride]
    assert plan(ConvOp.fprop, problem, bf16, True, aligned=False).kernel == ANY_LAYOUT[R, stride]
    x = normals(problem.x_size, torch.bfloat16, channels_last=True)
    w, bias = normals(problem.w_size, torch.bfloat16), normals((8,), torch.bfloat16)
    if infinite:
        w[3, 0, 0, 0], w[6, 0, -1, 0] = float("inf"), float("nan")
    dy = normals(F.conv2d(x, w, None, *problem.geometry).shape, torch.bfloat16, channels_last=True)
    kernels = BACKENDS["cuda:depthwise"]

    def apart(tensor):
        """The same values in nine channels, of which the last is not theirs."""
        N, C, H, W = tensor.shape
        return tensor.new_zeros(N, H, W, C + 1).permute(0, 3, 1, 2)[:, :C].copy_(tensor)

    def fprop(x, residual):
        tensors = map(on_device, (x, w, bias, residual))
        return kernels.conv2d_fprop(*tensors, problem.geometry, "relu").cpu()

    def dgrad(dy):
        args = on_device(dy), on_device(w), x.shape, True, problem.geometry
        return kernels.conv2d_dgrad(*args).cpu()

    for vectors, any_layout in (
        (fprop(x, dy), fprop(apart(x), dy)),
        (fprop(x, dy), fprop(x, dy.contiguous())),
        (dgrad(dy), dgrad(apart(dy))),
    ):
        torch.testing.assert_close(vectors, any_layout, rtol=0, atol=0, equal_nan=True)
        assert bool(vectors.isnan().any()) == infinite


def test_blocks_have_no_more_threads_than_their_kernel():
    """The plan refuses to make such a block; it needs to for no width, channel count or layout."""
    for R in (3, 5, 7):
        for stride in (1, 2):
            for dtype in (core.DType.float32, core.DType.bfloat16):
                for size in range(7, 130):
                    for C in (3, 12, 19, 96, 384):
                        problem = depthwise("width", C, 9, size, R, stride, N=32)
                        for op in ConvOp.__members__.values():
                            for channels_last in (False, True):
                                plan(op, problem, dtype, channels_last)


def gathered_width(op, size, stride):
    return (size - 1) // stride + 1 if op == ConvOp.dgrad else size


def element_size(dtype):
    return {core.DType.float64: 8, core.DType.float32: 4}.get(dtype, 2)
