"""The direct convolutions on CUDA: every kernel that the plan can choose, and what the
problems of test_conv2d_kernels.py are too small or too plain for."""

import pytest
import torch
import torch.nn.functional as F
from activation_names import NAMES
from oracles import assert_exact, conv_passes
from problems import CONVS, Conv, integers

from fastconv._native import core, cuda, cuda_missing
from fastconv.activations import native as native_activation
from fastconv.backends import BACKENDS
from fastconv.backends.conv2d import conv_problem
from fastconv.backends.cuda.launch import DEVICE, launch, workspace
from fastconv.backends.memory import location, readable
from fastconv.problem import DTYPES, ConvOp

pytestmark = pytest.mark.skipif(cuda is None, reason=f"no CUDA kernels: {cuda_missing}")

NO_EPILOGUE = (None, None, "none")
H100 = (132, 227 << 10, 50 << 20)
WIDE, NARROW, STEM, STEM_FEW_FILTERS = range(4)  # DirectKernel of csrc/plan/cuda_plan.h


def native_problem(problem):
    return conv_problem(problem.x_size, problem.w_size, problem.geometry)


def drawn(problem, dtype, channels_last=False, limit=8):
    """x, w, dy and the exact (y, dx, dw), of integers."""
    x, w = (
        integers(size, dtype, limit, channels_last).to(DEVICE)
        for size in (problem.x_size, problem.w_size)
    )
    y = F.conv2d(x.double(), w.double(), None, *problem.geometry)
    dy = integers(y.shape, dtype, limit, channels_last).to(DEVICE)
    return x, w, dy, conv_passes(problem, x.double(), w.double(), dy.double())


def plan(op, problem, x, w, y):
    aligned = all(tensor.data_ptr() % 16 == 0 for tensor in (x, w, y))
    strides = (tensor.stride() for tensor in (x, w, y))
    call = core.CudaConvCall(op, problem, DTYPES[x.dtype], False, *strides, aligned, *H100)
    assert core.unsupported_reason(core.CudaAlgorithm.direct, call) == ""
    return core.plan_conv2d_cuda(core.CudaAlgorithm.direct, call, "")


def run(op, problem, x, w, y, tile=None, vectorised=None, splits=None, epilogue=NO_EPILOGUE):
    """A direct pass by the plan, with parts of it replaced. Returns (tile, vectorised, splits)."""
    native = native_problem(problem)
    algorithm, *chosen = plan(op, native, x, w, y).numbers
    # packed_w, math, blocks and packed_source stay
    replaced = [tile, vectorised, None, None, splits, None, None]
    numbers = [c if r is None else int(r) for c, r in zip(chosen, replaced)]
    memory = workspace(numbers[4] * w.numel() * 8, x)
    bias, residual, activation = epilogue
    launch(
        cuda.conv2d,
        x,
        int(op),
        native.sizes,
        int(DTYPES[x.dtype]),
        (algorithm, *numbers),
        *(part for tensor in (x, w, y) for part in location(readable(tensor), DEVICE)),
        0 if bias is None else bias.data_ptr(),
        *location(residual, DEVICE),
        native_activation(activation).numbers,
        memory.data_ptr(),
    )
    return numbers[0], bool(numbers[1]), numbers[4]


def run_exactly(problem, dtype, channels_last, **replaced):
    """All three passes, compared. Returns {op: (tile, vectorised, splits)}."""
    x, w, dy, exact = drawn(problem, dtype, channels_last)
    ran = {}
    for op, name, expected in zip(ConvOp.__members__.values(), ("y", "dx", "dw"), exact):
        tensors = {"dx": x, "dw": w, "y": dy}
        out = torch.full_like(tensors[name], float("nan"))
        tensors[name] = out
        ran[op] = run(op, problem, tensors["dx"], tensors["dw"], tensors["y"], **replaced)
        assert_exact(out, expected, f"{name} {dtype} {ran[op]}")
    return ran


# Filters above and below the narrow tile's, channels in and out of vectors, more pixels and more
# (tap, channel) than a tile, both with tails.
TILED = [
    Conv("wide", N=1, C=40, H=13, W=11, K=72, pad=(1, 1)),
    Conv("wide strided", N=1, C=36, H=14, W=12, K=35, stride=(2, 2), pad=(1, 1)),
    Conv("narrow", N=2, C=16, H=9, W=11, K=24, pad=(1, 1), dilation=(1, 2)),
    Conv("narrow grouped", N=1, C=32, H=12, W=13, K=16, groups=2, R=2, S=3, stride=(1, 2)),
    Conv("one pixel a phase", N=1, C=8, H=5, W=5, K=8, stride=(5, 7), R=1, S=1),
]
STEMS = [
    Conv("C 1", N=2, C=1, H=33, W=40, K=9, R=5, S=5, pad=(2, 2)),
    Conv("C 2", N=1, C=2, H=17, W=35, K=8, pad=(1, 1), dilation=(2, 1)),
    Conv("C 3 stem", N=2, C=3, H=27, W=70, K=65, R=7, S=7, stride=(2, 2), pad=(3, 3)),
    Conv("C 3 patches", N=1, C=3, H=16, W=140, K=40, R=4, S=4, stride=(4, 4)),
    Conv("C 4", N=1, C=4, H=20, W=13, K=24, R=3, S=2, stride=(3, 1)),
    Conv(
        "stride beyond kernel", N=1, C=3, H=20, W=70, K=16, R=1, S=2, stride=(2, 5), dilation=(1, 3)
    ),
    Conv("few filters C 1", N=1, C=2, H=70, W=34, K=4, groups=2, pad=(1, 1)),
    Conv("few filters C 3", N=1, C=3, H=9, W=14, K=2, pad=(1, 1)),
    Conv("few filters grouped", N=1, C=12, H=9, W=33, K=12, groups=3, pad=(1, 1), stride=(1, 2)),
    Conv("no pixel of x", N=1, C=3, H=2, W=2, K=9, R=2, S=2, pad=(4, 9), stride=(2, 1)),
]
# Enough to reach every kernel of the stem in float64 too.
FLOAT64_STEMS = ("C 1", "C 3 stem", "C 4", "few filters C 1", "few filters C 3")


def test_every_tile_of_every_dtype_is_chosen_and_exact():
    chosen = {}
    for dtype in DTYPES:
        for problem in TILED:
            for channels_last in (False, True):
                for op, (tile, vectorised, _) in run_exactly(problem, dtype, channels_last).items():
                    chosen.setdefault((dtype, op), set()).add((tile, vectorised))
    gathers = {(tile, vectorised) for tile in (WIDE, NARROW) for vectorised in (False, True)}
    for (dtype, op), tiles in chosen.items():
        assert tiles == gathers, (dtype, op)


@pytest.mark.parametrize("problem", STEMS, ids=str)
def test_stem(problem):
    fprop = ConvOp.fprop
    for dtype in DTYPES:
        for channels_last in (False, True):
            x, w, dy, (exact, _, _) = drawn(problem, dtype, channels_last)
            for y_last in (False, True):
                layout = torch.channels_last if y_last else torch.contiguous_format
                y = torch.full_like(dy, float("nan"), memory_format=layout)
                tile, _, _ = run(fprop, problem, x, w, y)
                few = problem.K // problem.groups <= 4
                # Some halos fit into shared memory in float32, but not in float64.
                if dtype != torch.float64 or problem.why in FLOAT64_STEMS:
                    assert tile == (STEM_FEW_FILTERS if few else STEM)
                assert_exact(y, exact, f"{dtype} {channels_last} {y_last}")


def test_stem_takes_several_tiles_of_pixels_a_block():
    problem = Conv("many rows", N=9, C=1, H=1030, W=12, K=33, R=1, S=2, stride=(1, 1), pad=(0, 1))
    x, w, dy, (exact, _, _) = drawn(problem, torch.float32)
    y = torch.full_like(dy, float("nan"))
    assert run(ConvOp.fprop, problem, x, w, y)[0] == STEM
    assert_exact(y, exact, "y")


@pytest.mark.parametrize("splits", [1, 2, 7, 40])
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_wgrad_in_slices(splits, channels_last):
    """More slices than slabs too; twice the same bits."""
    for problem in (TILED[0], TILED[2], CONVS[18]):
        for dtype in (torch.float32, torch.bfloat16):
            x, w, dy, (_, _, exact) = drawn(problem, dtype, channels_last)
            dw = torch.full_like(w, float("nan"))
            run(ConvOp.wgrad, problem, x, dw, dy, splits=splits)
            assert_exact(dw, exact, f"{problem} {dtype}")
        x, dy = torch.randn_like(x, dtype=torch.float32), torch.randn_like(dy, dtype=torch.float32)
        first, second = (torch.empty_like(w, dtype=torch.float32) for _ in range(2))
        run(ConvOp.wgrad, problem, x, first, dy, splits=splits)
        run(ConvOp.wgrad, problem, x, second, dy, splits=splits)
        assert torch.equal(first, second)


def test_wgrad_plan_slices_long_sums_within_a_constant_workspace():
    for problem in (
        Conv("stem", N=32, C=3, H=224, W=224, K=64, R=7, S=7, stride=(2, 2)),
        Conv("many weights", N=8, C=2048, H=33, W=33, K=2048, pad=(1, 1)),
    ):
        x, w = (torch.empty(size, device="meta") for size in (problem.x_size, problem.w_size))
        dy = F.conv2d(x, w, None, *problem.geometry)
        strides = [tensor.stride() for tensor in (x, w, dy)]
        call = core.CudaConvCall(
            ConvOp.wgrad, native_problem(problem), core.DType.float32, False, *strides, True, *H100
        )
        chosen = core.plan_conv2d_cuda(core.CudaAlgorithm.direct, call, "")
        assert chosen.workspace_bytes <= 64 << 20
        assert (chosen.splits > 100) == (problem.why == "stem")


@pytest.mark.parametrize("activation", ["none", *NAMES])
def test_epilogue_of_every_tile(activation):
    reference = BACKENDS["reference"]
    wide, narrow = Conv("", 1, 5, 6, 7, 35, pad=(1, 1)), Conv("", 1, 5, 6, 7, 9)
    for problem in (wide, narrow, STEMS[4], STEMS[7]):
        for dtype in (torch.float32, torch.float16):
            for channels_last in (False, True):
                x, w, dy, (exact, _, _) = drawn(problem, dtype, channels_last, limit=2)
                b = torch.randn(problem.K, device=DEVICE, dtype=dtype)
                residual = torch.randn_like(torch.cat((dy, dy), 3))[..., ::2]
                z = exact + b.double()[:, None, None] + residual.double()
                expected = reference.activation_forward(z.cpu(), activation).to(DEVICE)
                y = torch.full_like(dy, float("nan"))
                run(ConvOp.fprop, problem, x, w, y, epilogue=(b, residual, activation))
                rounding = torch.finfo(dtype).eps
                torch.testing.assert_close(
                    y.double(), expected, rtol=2 * rounding, atol=8 * rounding
                )


def far_apart(tensor, stride):
    """A copy whose rows lie `stride` elements apart, in memory of which few pages are touched."""
    n, c, h, w = tensor.shape
    pieces = n * c * h
    storage = torch.empty(((pieces - 1) * stride + w,), dtype=tensor.dtype, device=DEVICE)
    return storage.as_strided((n, c, h, w), (c * h * stride, h * stride, stride, 1)).copy_(tensor)


@pytest.mark.parametrize("problem", [TILED[0], STEMS[4]], ids=str)
def test_offsets_beyond_32_bits(problem):
    """Element offsets beyond 2^31 in the tensor read and the tensor written."""
    small = Conv("", 1, problem.C, 4, 14, problem.K, pad=(1, 1))
    x, w, dy, exact = drawn(small, torch.float16)
    far = (1 << 31) // (x.shape[1] * 4) + 1001
    far_y = (1 << 31) // (dy.shape[1] * 4) + 1001
    x_far, dy_far = far_apart(x, far), far_apart(dy, far_y)
    y, dx = far_apart(torch.full_like(dy, float("nan")), far_y), far_apart(x, far)
    dw = torch.full_like(w, float("nan"))
    run(ConvOp.fprop, small, x_far, w, y)
    run(ConvOp.dgrad, small, dx, w, dy_far)
    run(ConvOp.wgrad, small, x_far, dw, dy_far)
    for name, actual, expected in zip(("y", "dx", "dw"), (y, dx, dw), exact):
        assert_exact(actual, expected, name)


def test_an_axis_beyond_32_bits():
    problem = Conv("", 1, 1, 1, (1 << 31) + 900, 5, 1, 3, (1, 1 << 28), (0, 7), (1, 1 << 28))
    row = torch.empty(problem.W, dtype=torch.bfloat16, device=DEVICE)
    places = torch.arange(9, device=DEVICE) * problem.stride[1] - problem.pad[1]
    touched = row[places[1:]] = integers((8,), row.dtype).to(DEVICE)
    x, w = row.view(1, 1, 1, -1), integers(problem.w_size, row.dtype).to(DEVICE)
    taps = torch.cat((touched.new_zeros(1), touched)).double()
    windows = taps.unfold(0, 3, 1)  # (Q, S): stride and dilation are alike
    y = torch.empty((1, 5, 1, 7), dtype=row.dtype, device=DEVICE)
    run(ConvOp.fprop, problem, x, w, y)
    assert_exact(y[0, :, 0], w[:, 0, 0].double() @ windows.T, "y")
    dw = torch.empty_like(w)
    run(ConvOp.wgrad, problem, x, dw, y)
    assert_exact(dw[:, 0, 0], y[0, :, 0].double() @ windows, "dw")
