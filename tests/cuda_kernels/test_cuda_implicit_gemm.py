"""The implicit GEMM's kernels one by one: every tile, way to gather, way to store and split, for
every math mode, exact on integers; and that the plan reaches each of them."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from conv_kernels import passes, tf32
from oracles import assert_exact, conv_passes
from problems import Conv, drawn, integers

from fastconv._native import core, cuda, cuda_missing
from fastconv.backends import BACKENDS
from fastconv.backends.conv2d import conv_problem
from fastconv.backends.cuda.conv2d import CudaBackend, dense_strides
from fastconv.backends.cuda.launch import DEVICE
from fastconv.bench.cases.shapes import load_layers
from fastconv.problem import ConvOp, ConvProblem

pytestmark = pytest.mark.skipif(cuda is None, reason=f"no CUDA kernels: {cuda_missing}")

IMPLICIT_GEMM = int(core.CudaAlgorithm.implicit_gemm)
DTYPE_OF = {"fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}
DTYPE_OF["tf32x3"] = torch.float32
# GemmKernel of csrc/plan/cuda_plan.h.
LARGE, WIDE, SQUARE, NARROW, SMALL_WARPS, TALL, FEW_FILTERS, STEM, STEM_FEW_FILTERS = range(9)
GROUPED = {4: 9, 8: 10, 16: 11}
BLOCKS = 6  # of CudaPlanNumbers


def tiles(math, vectorised, wgrad):
    """The tiles that have a kernel."""
    if math == "tf32x3":
        return {SQUARE} if wgrad else {SQUARE, NARROW}
    if not vectorised:
        return {SMALL_WARPS, SQUARE} if wgrad else {SMALL_WARPS, SQUARE, NARROW}
    return {LARGE, FEW_FILTERS, SQUARE} if wgrad else {LARGE, TALL, WIDE, SQUARE, NARROW}


KERNELS = [
    (math, vectorised, wgrad, tile)
    for math in DTYPE_OF
    for vectorised in (False, True)
    for wgrad in (False, True)
    for tile in sorted(tiles(math, vectorised, wgrad))
]
# More than one tile of the largest along gemm_m and gemm_n, tails in every direction; slabs of less
# than a tap, of a tap and more, and of several rows of taps.
PROBLEMS = [
    Conv("s1", N=1, C=16, H=13, W=12, K=136, pad=(1, 1)),
    Conv("s2", N=3, C=24, H=11, W=9, K=40, stride=(2, 2), pad=(1, 1)),
    Conv(
        "s3d2 grouped", N=2, C=32, H=12, W=13, K=64, R=2, stride=(3, 2), dilation=(2, 1), groups=4
    ),
]


@pytest.fixture
def planned(monkeypatch):
    """planned(math, vectorised, wgrad, tile, splits) fixes the plan of wgrad, or of the other two
    passes."""

    usual = CudaBackend._make_plan

    def fix(math, vectorised, wgrad, tile, splits, packed_source=0):
        def plan(self, op, *args):
            if (op == ConvOp.wgrad) != wgrad:
                return usual(self, op, *args)
            made = usual(self, op, *args)
            numbers = (
                IMPLICIT_GEMM,
                tile,
                int(vectorised),
                int(made.packed_w),
                int(getattr(core.CudaMath, math)),
                splits,
                0,  # blocks
                packed_source,
            )
            return SimpleNamespace(
                algorithm=made.algorithm, numbers=numbers, workspace_bytes=32 << 20
            )

        backend = CudaBackend("cuda:implicit_gemm", core.CudaAlgorithm.implicit_gemm)
        monkeypatch.setattr(CudaBackend, "_make_plan", plan)
        backend._plan = backend._make_plan
        monkeypatch.setitem(BACKENDS, "cuda:implicit_gemm", backend)

    return fix


def one_of(items, turn, exhaustive):
    return items if exhaustive else [items[turn % len(items)]]


@pytest.mark.parametrize("kernel", KERNELS, ids=lambda k: f"{k[0]}-v{k[1]:d}-w{k[2]:d}-t{k[3]}")
def test_every_kernel(kernel, planned, exhaustive):
    math, vectorised, wgrad, tile = kernel
    turn = KERNELS.index(kernel)
    for number, problem in enumerate(PROBLEMS):
        layouts = [True] if vectorised else [False, True]
        for channels_last in one_of(layouts, turn + number, exhaustive):
            x, w, dy = drawn(integers, problem, DTYPE_OF[math], channels_last, 4, device=DEVICE)
            expected = conv_passes(problem, x.double(), w.double(), dy.double())
            slices = [1, 3] if number else [2, 1, 200]  # 200: most slices are empty
            for splits in one_of(slices, turn + number, exhaustive):
                planned(math, vectorised, wgrad, tile, splits)
                with tf32(math == "tf32"):
                    got = passes("cuda:implicit_gemm", problem, x, w, dy, channels_last)
                for name, a, e in zip(("y", "dx", "dw"), got, expected):
                    assert_exact(a, e, f"{problem} {name} splits {splits}")


STEMS = [
    Conv("resnet", N=2, C=3, H=21, W=37, K=72, R=7, S=7, stride=(2, 2), pad=(3, 3)),
    Conv("mobilenet", N=3, C=3, H=9, W=18, K=32, stride=(1, 1), pad=(1, 1)),
    Conv("dilated", N=2, C=1, H=20, W=40, R=2, S=5, stride=(1, 3), pad=(1, 4), dilation=(3, 2)),
    Conv("alexnet", N=1, C=4, H=40, W=75, K=40, R=11, S=11, stride=(4, 4), pad=(2, 2)),
]


@pytest.fixture
def small_device(monkeypatch):
    """Plans are those of one multiprocessor, whose blocks must take several tiles each."""
    backend = BACKENDS["cuda:implicit_gemm"].planned_for(1)
    monkeypatch.setitem(BACKENDS, "cuda:implicit_gemm", backend)


def fprop_plan(problem, dtype):
    """The plan of fprop, and how many tiles of 8 x 16 pixels its output has."""
    core_problem = conv_problem(problem.x_size, problem.w_size, problem.geometry)
    strides = dense_strides(core_problem, True)
    backend = BACKENDS["cuda:implicit_gemm"]
    plan = backend._make_plan(ConvOp.fprop, core_problem, dtype, False, *strides, True, None)
    N, _, P, Q = core_problem.out_size()
    return plan, N * -(-P // 8) * -(-Q // 16)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("problem", STEMS, ids=str)
def test_stem(problem, dtype, small_device):
    """Several tiles of pixels for each block, tails everywhere; and nothing of a pixel beside a
    window gets into its sum, which an infinite one would show."""
    plan, tiles = fprop_plan(problem, dtype)
    assert plan.kernel == (STEM_FEW_FILTERS if problem.K <= 32 else STEM)
    assert plan.numbers[BLOCKS] < tiles
    for channels_last in (False, True):
        x, w, _ = drawn(integers, problem, dtype, channels_last, 2, device=DEVICE)
        backend = BACKENDS["cuda:implicit_gemm"]
        for infinite in (False, True):
            if infinite:
                x[..., ::5, ::7] = float("inf")
                w = w.abs() + 1  # so that no product of a window is NaN
            y = backend.conv2d_fprop(x, w, None, None, problem.geometry, "none")
            expected = F.conv2d(x.double(), w.double(), None, *problem.geometry)
            assert_exact(y, expected, f"{problem} infinite {infinite}")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("group", GROUPED)
def test_groups_of_few_channels(group, dtype, small_device):
    """Two blocks of channels, the second not full; several tiles of pixels, tails of them. An
    infinite element stays within its group and its windows."""
    C = 32 + (16 if group == 16 else 8)
    sizes = dict(C=C, K=C, groups=C // group)
    for problem in (
        Conv("resnext", N=2, H=11, W=19, pad=(1, 1), **sizes),
        Conv("strided", N=1, H=20, W=39, S=5, stride=(2, 2), pad=(0, 2), dilation=(2, 1), **sizes),
        Conv("wide pad", N=1, H=5, W=4, R=2, S=1, pad=(3, 2), **sizes),
    ):
        x, w, dy = drawn(integers, problem, dtype, True, 2, device=DEVICE)
        exact_passes(problem, x, w, dy)
        native = conv_problem(problem.x_size, problem.w_size, problem.geometry)
        strides = (x.stride(), w.stride(), dy.stride())
        for op in (ConvOp.fprop, ConvOp.wgrad):
            plan = BACKENDS["cuda:implicit_gemm"]._make_plan(
                op, native, dtype, False, *strides, True, None
            )
            assert plan.kernel == GROUPED[group]
        plan, tiles = fprop_plan(problem, dtype)
        assert plan.numbers[BLOCKS] < tiles
        x[0, 1::5, ::3, ::4] = float("inf")
        w = w.abs() + 1
        y = BACKENDS["cuda:implicit_gemm"].conv2d_fprop(x, w, None, None, problem.geometry, "none")
        assert_exact(y, F.conv2d(x.double(), w.double(), None, *problem.geometry), str(problem))


@pytest.mark.parametrize(
    "problem",
    [
        Conv("no filters", C=3, K=0),
        # More blocks along channels than a grid takes.
        Conv("many filters", N=1, C=3, H=1, W=1, K=2**22, R=1, S=1),
        Conv("many groups", N=1, C=2**21, H=1, W=1, K=2**21, R=1, S=1, groups=2**18),
        # Bytes of x in a tile that would be few if 64 bits overflowed.
        Conv("stem", C=3, R=1, S=1, stride=(153391689, 286331152), dilation=(1, 5)),
        Conv("groups", C=32, K=32, R=1, S=1, stride=(153391689, 286331153), groups=4),
    ],
    ids=str,
)
def test_pixel_tiles_that_no_launch_takes(problem):
    plan, _ = fprop_plan(problem, torch.float16)
    assert problem.K == 0 or plan.kernel < STEM


@pytest.mark.parametrize("group", GROUPED)
def test_wgrad_of_groups_counts_no_pixels_past_the_last_column(group):
    """A tile's last column is past y's: there tap 0 would meet the infinite elements of x."""
    problem = Conv("15 columns", N=1, C=4 * group, H=3, W=19, K=4 * group, R=1, S=5, groups=4)
    x, w, dy = drawn(integers, problem, torch.float16, True, 2, device=DEVICE)
    x[..., 15:] = float("inf")
    dy = dy.abs() + 1
    dw = passes("cuda:implicit_gemm", problem, x, w, dy, True)[2]
    assert dw[..., 0].isfinite().all() and dw[..., 1:].isinf().all()


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "unaligned"])
def test_stores(layout):
    """Residual and bias in each way to store; NHWC that does not begin at 16 bytes included."""
    problem = Conv("store", N=2, C=16, H=7, W=9, K=24, pad=(1, 1))
    x, w, dy = drawn(integers, problem, torch.float16, layout != "nchw", 2, device=DEVICE)
    if layout == "unaligned":
        shifted = torch.empty(dy.numel() + 1, dtype=dy.dtype, device=DEVICE)[1:]
        dy = shifted.as_strided(dy.shape, dy.stride()).copy_(dy)
    b = integers((problem.K,), torch.float16).to(DEVICE)
    y = BACKENDS["cuda:implicit_gemm"].conv2d_fprop(x, w, b, dy, problem.geometry, "relu")
    z = F.conv2d(x.double(), w.double(), b.double(), *problem.geometry) + dy
    assert_exact(y, z.relu(), layout)


def plan_of(shape, op, dtype, tf32, channels_last):
    backend = BACKENDS["cuda:implicit_gemm"]
    problem = shape.core()
    strides = dense_strides(problem, channels_last)
    return backend._make_plan(op, problem, dtype, tf32, *strides, True, None)


def test_the_plan_reaches_every_kernel_and_no_other():
    reached = set()
    for shape in load_layers():
        for op in ConvOp.__members__.values():
            for math, dtype in DTYPE_OF.items():
                for channels_last in (False, True):
                    plan = plan_of(shape, op, dtype, math == "tf32", channels_last)
                    assert plan.math.name == math
                    reached.add((math, plan.vectorised, op == ConvOp.wgrad, plan.kernel))
    stems = {(m, False, False, tile) for m in ("fp16", "bf16") for tile in (STEM, STEM_FEW_FILTERS)}
    grouped = {(m, True, wgrad, GROUPED[4]) for m in ("fp16", "bf16") for wgrad in (False, True)}
    assert reached == set(KERNELS) | stems | grouped


@pytest.mark.parametrize("math", ["fp16", "tf32x3"])
def test_sources_that_are_copied_to_channels_last(math, planned):
    """Tiles of the copy with tails along pixels and channels; images in turn."""
    problem = Conv("copied", N=3, C=72, H=9, W=11, K=80, pad=(1, 1))
    x, w, dy = drawn(integers, problem, DTYPE_OF[math], False, 1, device=DEVICE)
    for wgrad in (False, True):
        planned(math, True, wgrad, SQUARE, 2, packed_source=1)
        exact_passes(problem, x, w, dy, False)


def test_the_plan_copies_large_sources_that_have_no_vectors():
    for op in ConvOp.__members__.values():
        for C, packed in ((64, True), (60, False)):
            sizes = ConvProblem(N=32, C=C, H=56, W=56, K=C, R=3, S=3, pad_h=1, pad_w=1)
            strides = dense_strides(sizes, False)
            backend = BACKENDS["cuda:implicit_gemm"]
            plan = backend._make_plan(op, sizes, torch.float16, False, *strides, True, None)
            assert plan.packed_source == plan.vectorised == packed


def test_the_plan_copies_no_expanded_source_whose_copy_is_out_of_reach():
    for size, packed in ((2048, True), (8192, False)):
        sizes = ConvProblem(N=1, C=64, H=size, W=size, K=64, R=3, S=3, pad_h=1, pad_w=1)
        _, w, y = dense_strides(sizes, False)
        plan = BACKENDS["cuda:implicit_gemm"]._make_plan(
            ConvOp.fprop, sizes, torch.float16, False, (0, 0, 0, 0), w, y, True, None
        )
        assert plan.packed_source == packed


def exact_passes(problem, x, w, dy, channels_last=True):
    got = passes("cuda:implicit_gemm", problem, x, w, dy, channels_last)
    expected = conv_passes(problem, x.double(), w.double(), dy.double())
    for name, a, e in zip(("y", "dx", "dw"), got, expected):
        assert_exact(a, e, name)


def test_more_taps_than_a_mask_has_bits():
    problem = Conv("31 taps", N=1, C=8, H=2, W=40, K=8, R=1, S=31, pad=(0, 15))
    x, w, dy = drawn(integers, problem, torch.float16, True, 2, device=DEVICE)
    exact_passes(problem, x, w, dy)
    backend = BACKENDS["cuda:implicit_gemm"]
    for taps, vectorised in ((30, True), (31, False)):
        sizes = ConvProblem(N=1, C=8, H=2, W=40, K=8, R=1, S=taps)
        strides = dense_strides(sizes, True)
        plan = backend._make_plan(ConvOp.fprop, sizes, torch.float16, False, *strides, True, None)
        assert plan.vectorised == vectorised


def test_pixels_of_dy_that_are_not_equally_spaced():
    """dy is every second row of a larger tensor: wgrad reads it element by element."""
    problem = Conv("spaced", N=2, C=16, H=6, W=5, K=16, pad=(1, 1))
    x, w, dy = drawn(integers, problem, torch.float16, True, 2, device=DEVICE)
    rows = torch.zeros(2, 16, 12, 5, dtype=dy.dtype, device=DEVICE)
    rows = rows.contiguous(memory_format=torch.channels_last)[:, :, ::2]
    exact_passes(problem, x, w, rows.copy_(dy))


def test_dgrad_of_too_many_phases_is_direct():
    problem = ConvProblem(N=1, C=8, H=40, W=40, K=8, R=3, S=3, stride_h=5, stride_w=4)
    backend = BACKENDS["cuda:implicit_gemm"]
    assert "phases, more than" in backend._unsupported_reason(problem, torch.float32)
    strides = dense_strides(problem, False)
    plan = BACKENDS["cuda"]._make_plan(
        ConvOp.dgrad, problem, torch.float32, False, *strides, True, None
    )
    assert plan.algorithm == core.CudaAlgorithm.direct and "phases, more than" in plan.reason


def test_offsets_of_taps_in_the_padding_fit_32_bits_too():
    problem = ConvProblem(
        N=1, C=8, H=1, W=2**20, K=8, R=2, S=1, stride_h=2048, pad_h=2048, dilation_h=2048
    )
    assert "spans" in BACKENDS["cuda:implicit_gemm"]._unsupported_reason(problem, torch.float16)


def test_addresses_beside_one_pixel_are_aligned():
    """They are not read, but PTX wants even those of 16 bytes to be multiples of 16."""
    problem = Conv("one pixel", N=1, C=16, H=1, W=1, K=8, pad=(1, 1))
    x, w, dy = drawn(integers, problem, torch.float16, False, 2, device=DEVICE)
    assert x.stride()[2:] == dy.stride()[2:] == (1, 1)
    x, dy = (t.as_strided(t.shape, (1, *t.stride()[1:])) for t in (x, dy))
    exact_passes(problem, x, w, dy)


def test_one_pixel_is_vectorised_in_either_layout():
    """The strides of axes of one position say nothing: torch's say (C, 1, 1, 1) or (C, 1, C, C)."""
    problem = ConvProblem(N=4, C=64, H=1, W=1, K=32, R=1, S=1)
    for strides in ((64, 1, 1, 1), (64, 1, 64, 64)):
        plan = BACKENDS["cuda:implicit_gemm"]._make_plan(
            ConvOp.fprop, problem, torch.float16, False, strides, (64, 1, 1, 1), strides, True, None
        )
        assert plan.vectorised
