"""Which CUDA kernel the plan chooses for a pool, and that every kernel is reached and runs so."""

import ctypes
import re
from typing import NamedTuple

import pytest
import torch

import fastconv
from fastconv._native import core, cuda, cuda_missing
from fastconv.backends.cuda.launch import DEVICE
from fastconv.problem import AdaptivePoolProblem, PoolProblem

PoolOp = core.PoolOp
KERNELS = {  # (algorithm, pass): the kernel that runs it
    ("reduce", "max_fwd"): "pool2d_reduce",
    ("reduce", "avg_fwd"): "pool2d_reduce",
    ("strip", "max_fwd"): "pool2d_max_fwd_strip",
    ("gather", "max_bwd"): "pool2d_max_bwd",
    ("gather", "avg_bwd"): "pool2d_avg_bwd",
    ("tile", "max_bwd"): "pool2d_max_bwd_tile",
    ("global", "avg_bwd"): "pool2d_avg_bwd_global",
}


class Call(NamedTuple):
    pool: str  # max or avg
    run: object
    fwd: str  # algorithms
    bwd: str
    bwd_of_vectors: str | None = None  # with channels_last, where it is another


CALLS = {
    "max 3x3": Call("max", lambda x: fastconv.max_pool2d(x, 3, 2, 1), "strip", "tile"),
    "max 2x2": Call("max", lambda x: fastconv.max_pool2d(x, 2), "strip", "tile"),
    "max 2x2 padded": Call("max", lambda x: fastconv.max_pool2d(x, 2, 2, 1), "strip", "gather"),
    "max dilated": Call("max", lambda x: fastconv.max_pool2d(x, 3, 2, 1, 2), "reduce", "gather"),
    "max stride 1": Call("max", lambda x: fastconv.max_pool2d(x, 3, 1, 1), "reduce", "gather"),
    "adaptive max": Call("max", lambda x: fastconv.adaptive_max_pool2d(x, 2), "reduce", "gather"),
    "avg": Call("avg", lambda x: fastconv.avg_pool2d(x, 2), "reduce", "gather"),
    "global avg": Call(
        "avg", lambda x: fastconv.adaptive_avg_pool2d(x, 1), "reduce", "global", "gather"
    ),
}


def take_launches():
    """Names of the kernels that the emulator started since the last call."""
    take = ctypes.CDLL(cuda.__file__).emulator_take_launches
    take.restype = ctypes.c_char_p
    return re.findall(r"(pool2d_\w+)<", take().decode())


@pytest.mark.skipif(cuda is None, reason=f"no CUDA kernels: {cuda_missing}")
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("name", CALLS)
def test_the_planned_kernel_runs_and_is_explained(name, channels_last, strict):
    call = CALLS[name]
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, 8, 6, 7, device=DEVICE).to(memory_format=layout).requires_grad_()
    bwd = (channels_last and call.bwd_of_vectors) or call.bwd
    with fastconv.backend("cuda"):
        (row,) = fastconv.explain(call.run, x).rows()
        assert row.algorithm == call.fwd and row.tile
        if not cuda.is_emulated:
            return
        take_launches()
        y = call.run(x)
        assert take_launches() == [KERNELS[call.fwd, f"{call.pool}_fwd"]]
        torch.autograd.grad(y.sum(), x)
        assert take_launches() == [KERNELS[bwd, f"{call.pool}_bwd"]]


def test_every_kernel_is_reached():
    reached = set()
    for call in CALLS.values():
        reached |= {(call.fwd, f"{call.pool}_fwd"), (call.bwd, f"{call.pool}_bwd")}
    assert reached == KERNELS.keys()
    assert {algorithm for algorithm, _ in reached} == set(core.CudaPoolAlgorithm.__members__)


ALIGNED = 1 << 8  # an address


def plan(op, size, window=None, dtype=core.DType.float16, nhwc=True, offsets=False, **changes):
    """The plan of a pass over dense tensors. window: kernel, stride, padding; None: the whole."""
    sizes = dict(zip("NCHW", size))
    if window is None:
        problem = AdaptivePoolProblem(**sizes, P=1, Q=1)
    else:
        kernel, stride, pad = window
        problem = PoolProblem(
            **sizes, R=kernel, S=kernel, stride_h=stride, stride_w=stride, pad_h=pad, pad_w=pad
        )

    def dense(size):
        _, C, H, W = size
        return (C * H * W, 1, W * C, C) if nhwc else (C * H * W, H * W, W, 1)

    y = dense(problem.out_size())
    tensors = {"x": ALIGNED, "x_strides": dense(size), "y": ALIGNED, "y_strides": y}
    tensors |= {"places": ALIGNED if op == PoolOp.max_bwd else 0, "places_strides": y}
    return core.plan_pool2d_cuda(op, problem, dtype, **tensors | changes, offsets=offsets)


def test_vectors_of_channels_need_aligned_pixels():
    size = (2, 16, 6, 6)
    assert plan(PoolOp.max_fwd, size, (2, 2, 0)).vectorised
    assert plan(PoolOp.max_bwd, size, (2, 2, 0)).vectorised
    assert not plan(PoolOp.max_fwd, (2, 12, 6, 6), (2, 2, 0)).vectorised
    assert not plan(PoolOp.max_fwd, size, (2, 2, 0), nhwc=False).vectorised
    assert not plan(PoolOp.max_fwd, size, (2, 2, 0), dtype=core.DType.float64).vectorised
    for moved in ("x", "y"):
        assert not plan(PoolOp.max_fwd, size, (2, 2, 0), **{moved: ALIGNED + 8}).vectorised
    strides = (16 * 36 + 2, 1, 6 * 16, 16)
    assert not plan(PoolOp.max_fwd, size, (2, 2, 0), x_strides=strides).vectorised
    # Eight offsets take eight bytes, eight indices are moved sixteen bytes at a time.
    off_by_8 = {"places": ALIGNED + 8}
    assert plan(PoolOp.max_bwd, size, (2, 2, 0), offsets=True, **off_by_8).vectorised
    assert not plan(PoolOp.max_bwd, size, (2, 2, 0), **off_by_8).vectorised


def test_tiles_of_dx():
    size, window = (2, 16, 6, 6), (3, 2, 1)
    vectors = plan(PoolOp.max_bwd, size, window, offsets=True)
    single = plan(PoolOp.max_bwd, size, window, offsets=True, nhwc=False)
    assert (vectors.rows, vectors.columns, vectors.paired) == (2, 2, False)
    assert (single.rows, single.columns, single.paired) == (4, 2, True)
    odd = plan(PoolOp.max_bwd, (2, 16, 6, 7), window, offsets=True, nhwc=False)
    assert odd.algorithm.name == "tile" and not odd.paired
    assert "indices" in plan(PoolOp.max_bwd, size, window).reason
    assert "float64" in plan(PoolOp.max_fwd, size, window, dtype=core.DType.float64).reason


def test_threads_share_windows_that_are_long_or_few():
    few = plan(PoolOp.avg_fwd, (1, 8, 32, 32))
    assert few.joined and (few.lanes_h, few.lanes_w) == (1, 128) and few.rows == 1
    many = plan(PoolOp.avg_fwd, (64, 512, 56, 56), (3, 1, 1))
    assert not many.joined and many.lanes_h * many.lanes_w == 1 and many.rows == 4
    # An offset is a row and a column of the window: its rows stay apart.
    whole = (8, 8, 0)
    assert plan(PoolOp.max_fwd, (1, 8, 8, 8), whole, places=ALIGNED).joined
    assert not plan(PoolOp.max_fwd, (1, 8, 8, 8), whole, places=ALIGNED, offsets=True).joined


def test_sizes_that_no_kernel_takes():
    with pytest.raises(ValueError, match="axis"):
        plan(PoolOp.avg_fwd, (1, 1, 1, 2**31), (1, 1, 0))
    with pytest.raises(ValueError, match="window"):
        plan(PoolOp.max_fwd, (1, 1, 2**16, 2**16))
    assert plan(PoolOp.max_fwd, (0, 8, 4, 4), (2, 2, 0)).reason == "no elements"
