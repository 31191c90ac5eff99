"""What the named problems do not reach of Triton's direct and depthwise convolutions: slices of
wgrad's pixels, strides beyond 32 bits, residuals that lie otherwise than y, infinities."""

from dataclasses import replace

import pytest
import torch
from devices import TRITON_DEVICE as DEVICE
from devices import needs_triton
from oracles import assert_exact, assert_no_worse_than_torch, conv_magnitudes, conv_passes
from problems import Conv, drawn, integers, normals

from fastconv.backends.conv2d import NO_EPILOGUE, conv_problem
from fastconv.backends.triton.launch import kernels
from fastconv.problem import DTYPES, ConvOp

pytestmark = needs_triton
ALGORITHMS = ["direct", "depthwise"]
PASSES = ["fprop", "dgrad", "wgrad"]
LAYOUTS = [False, True]
DTYPE_IDS = [str(dtype).removeprefix("torch.") for dtype in DTYPES]
# From the first tap to the last as far as from the first row or column of x to the last.
FAR_TAPS = {"H": 4, "W": 5, "R": 2, "S": 2, "dilation": (3, 4), "pad": (1, 1)}
SMALL = {
    "direct": Conv("", C=4, K=6, groups=2, **FAR_TAPS),
    "depthwise": Conv("", C=3, K=6, groups=3, **FAR_TAPS),
}
# So many pixels that wgrad's slices have several steps.
LONG = {
    "direct": Conv("", N=3, C=4, K=4, H=9, W=17, R=2, S=3, pad=(1, 1), stride=(1, 2), groups=2),
    "depthwise": Conv("", N=5, C=5, K=5, H=13, W=19, pad=(1, 1), groups=5),
}
# Rows and columns of taps that are taken piece by piece, and a last piece that is not whole.
LARGE = Conv("", N=1, C=2, K=4, H=14, W=12, R=5, S=7, stride=(3, 2), dilation=(2, 1), groups=2)


def run(algorithm, name, problem, x, w, y, epilogue=NO_EPILOGUE, splits=1):
    """Overwrites what the pass results in, and returns it."""
    op = ConvOp.__members__[name]
    native = conv_problem(problem.x_size, problem.w_size, problem.geometry)
    kernel = kernels(kernels("plan")._KERNELS[algorithm, name])
    config = kernel.table_config(op, native, x.dtype, 2)
    x, w, y = (tensor.to(DEVICE) for tensor in (x, w, y))
    kernel.launch_conv2d(op, native, x, w, y, epilogue, config, "", splits)
    return {"fprop": y, "dgrad": x, "wgrad": w}[name].cpu()


def nan_like(tensor):
    return torch.full_like(tensor, float("nan"))


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", list(DTYPES), ids=DTYPE_IDS)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_slices_of_wgrad(algorithm, dtype, channels_last, exhaustive):
    """Also more slices than there are steps; each number of them twice the same bits."""
    turn = list(DTYPES).index(dtype) + channels_last
    if turn % 2 and DEVICE == "cpu" and not exhaustive:
        pytest.skip("each dtype runs in one layout; --exhaustive runs both")
    problem = LONG[algorithm]
    x, w, dy = drawn(normals, problem, dtype, channels_last)
    exact = conv_passes(problem, x.double(), w.double(), dy.double())[2]
    magnitude = conv_magnitudes(problem, x, w, dy)[2]
    torchs = conv_passes(problem, x, w, dy)[2]
    for splits in (2, 12):
        dw = run(algorithm, "wgrad", problem, x, nan_like(w), dy, splits=splits)
        assert_no_worse_than_torch(dw, torchs, exact, magnitude, f"{splits} slices")
    again = run(algorithm, "wgrad", problem, x, nan_like(w), dy, splits=splits)
    assert torch.equal(dw, again)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_slices_of_integers_add_up(algorithm):
    problem = LONG[algorithm]
    x, w, dy = drawn(integers, problem, torch.float32, True, 8)
    exact = conv_passes(problem, x.double(), w.double(), dy.double())[2]
    for splits in (1, 3):
        dw = run(algorithm, "wgrad", problem, x, nan_like(w), dy, splits=splits)
        assert_exact(dw, exact, f"{splits} slices")


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
def test_pieces_of_a_filter(channels_last):
    for dtype in DTYPES:
        x, w, dy = drawn(integers, LARGE, dtype, channels_last, 4)
        expected = conv_passes(LARGE, x.double(), w.double(), dy.double())
        for index, name in enumerate(PASSES):
            tensors = [x, w, dy]
            out = (2, 0, 1)[index]
            tensors[out] = nan_like(tensors[out])
            got = run("depthwise", name, LARGE, *tensors)
            assert_exact(got, expected[index], f"{name} {dtype}")


@pytest.mark.parametrize("last", [2**31 - 1, 2**31 + 2000], ids=["within", "beyond"])
@pytest.mark.parametrize("axis", range(4), ids="nchw")
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_strides_beyond_32_bits(algorithm, axis, last):
    """x, w and y are in turn stretched along one axis, until the last element's offset needs more
    than 32 bits, or just fits where that of a position in the padding does not."""
    problem = SMALL[algorithm]
    x, w, dy = drawn(integers, problem, torch.float16, False, 4)
    expected = conv_passes(problem, x.double(), w.double(), dy.double())
    storage = torch.empty(2**31 + 4096, dtype=torch.float16, device=DEVICE)

    def far(tensor):
        strides = [8 * stride for stride in tensor.stride()]
        strides[axis] = 0
        others = sum((size - 1) * stride for size, stride in zip(tensor.shape, strides))
        strides[axis] = (last - others) // (tensor.shape[axis] - 1)
        return storage.as_strided(tensor.shape, strides).copy_(tensor)

    for index, name in enumerate(PASSES):
        for which in range(3):
            if (x, w, dy)[which].shape[axis] == 1:
                continue
            tensors = [x, w, dy]
            out = (2, 0, 1)[index]
            tensors[out] = nan_like(tensors[out])
            tensors[which] = far(tensors[which])
            got = run(algorithm, name, problem, *tensors)
            assert_exact(got, expected[index], f"{name}, tensor {which}")


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_residuals_that_lie_otherwise(algorithm, channels_last):
    """Than y, which in turn lies otherwise than x."""
    problem = LONG[algorithm]
    for dtype in (torch.float32, torch.bfloat16):
        x, w, dy = drawn(integers, problem, dtype, channels_last, 2)
        b = integers((problem.K,), dtype)
        n, k, p, q = dy.shape
        z = torch.nn.functional.conv2d(x.double(), w.double(), b.double(), *problem.geometry)
        for residual in (
            integers((n, k, 2 * q, p), dtype)[:, :, ::2].transpose(2, 3),
            integers((1, k, 1, 1), dtype).expand(n, k, p, q),
        ):
            y = nan_like(drawn(integers, problem, dtype, not channels_last)[2])
            epilogue = (b.to(DEVICE), residual.to(DEVICE), "relu")
            y = run(algorithm, "fprop", problem, x, w, y, epilogue)
            assert_exact(y, (z + residual.double()).relu(), f"{dtype} {residual.stride()}")


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # numpy's, in lanes of no element
@pytest.mark.parametrize("channels_last", LAYOUTS, ids=["nchw", "nhwc"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_an_infinity_stays_where_it_belongs(algorithm, channels_last):
    """The last pixel of x, or of dy, is infinite: it meets no zero of a tile's empty lanes."""
    problem = replace(SMALL[algorithm], dilation=(1, 1), pad=(0, 0))  # padding is zeros, in torch
    x, w, dy = (tensor.abs() + 1 for tensor in drawn(integers, problem, torch.float32, False))
    if channels_last:
        x, w, dy = (t.contiguous(memory_format=torch.channels_last) for t in (x, w, dy))
    at = (-1, -1, -1, -1)
    for name, inputs, out in (("fprop", (0,), 2), ("dgrad", (2,), 0), ("wgrad", (0, 2), 1)):
        for which in inputs:
            tensors = [tensor.clone() for tensor in (x, w, dy)]
            tensors[which][at] = float("inf")
            expected = conv_passes(problem, *(tensor.double() for tensor in tensors))
            tensors[out] = nan_like(tensors[out])
            got = run(algorithm, name, problem, *tensors)
            assert_exact(got, expected[PASSES.index(name)], f"{name}, tensor {which}")
