"""What the named problems do not reach of Triton's wgrad on tensor cores: each configuration,
slices of gemm_k, vectors of channels and of pixels, strides beyond 32 bits."""

import pytest
import torch
from devices import TRITON_DEVICE as DEVICE
from devices import needs_triton
from oracles import assert_exact, assert_no_worse_than_torch, conv_magnitudes, conv_passes
from problems import Conv, drawn, integers, normals

from fastconv.backends.conv2d import NO_EPILOGUE, conv_problem
from fastconv.backends.triton.launch import kernels, missing_reason
from fastconv.problem import DTYPES, ConvOp

pytestmark = needs_triton
CONFIGURATIONS = range(6)
# Vectors of 8, 4 and 1 channels; of 8, 4 and 1 pixels, where a pixel reads x at its own position.
PROBLEMS = [
    Conv("vectors", C=16, K=40, H=6, W=8, S=2, pad=(1, 0)),
    Conv("half vectors", N=3, C=12, K=8, H=6, W=6, pad=(1, 1), groups=2, stride=(2, 1)),
    Conv("pixel vectors", C=20, K=9, H=8, W=9, R=1, S=1),
    Conv("half pixel vectors", C=33, K=70, H=2, W=10, R=1, S=1),
    Conv("no vectors", C=5, K=33, H=5, W=7, R=2, dilation=(2, 1)),
]
if not missing_reason():
    import triton
    import triton.language as tl

    from fastconv.triton_kernels.device.fast_divmod import divider, quotient
    from fastconv.triton_kernels.device.vectors import channel_vector, pixel_vector
    from fastconv.triton_kernels.launch import Config, launch

    @triton.jit(do_not_specialize=["multiplier", "shift"])
    def divide(numbers, multiplier, shift, BLOCK: tl.constexpr):
        index = tl.arange(0, BLOCK)
        tl.store(numbers + index, quotient(tl.load(numbers + index), multiplier, shift))


def native(problem):
    return conv_problem(problem.x_size, problem.w_size, problem.geometry)


def wgrad(problem, x, dy, dw, config, splits, tf32=False):
    kernel, plan = kernels("conv2d_wgrad_implicit_gemm"), kernels("plan")
    x, dy, dw = (tensor.to(DEVICE) for tensor in (x, dy, dw))
    kernel.launch_conv2d(
        ConvOp.wgrad,
        native(problem),
        x,
        dw,
        dy,
        NO_EPILOGUE,
        config,
        plan.math_of(x.dtype, tf32),
        splits,
    )
    return dw.cpu()


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("number", CONFIGURATIONS)
def test_each_configuration_and_number_of_slices(number, channels_last, exhaustive):
    """Also more slices than there are steps."""
    config = kernels("conv2d_wgrad_implicit_gemm").CONFIGS[number]
    dtypes = [torch.float64] if number == 5 else list(DTYPES)[1:]
    for turn, problem in enumerate(PROBLEMS):
        if (turn + channels_last) % 2 and DEVICE == "cpu" and not exhaustive:
            continue  # it runs in the other layout
        dtype = dtypes[(turn + number) % len(dtypes)]
        x, w, dy = drawn(integers, problem, dtype, channels_last, 4)
        exact = conv_passes(problem, x.double(), w.double(), dy.double())[2]
        for splits in (1, 7) if number == 5 else (1, 2, 7):
            nothing = torch.full_like(w, float("nan"))
            dw = wgrad(problem, x, dy, nothing, config, splits, tf32=bool(turn & 1))
            assert_exact(dw, exact, f"{problem} {dtype} {config} {splits} slices")


@pytest.mark.parametrize("dtype", list(DTYPES), ids=lambda d: str(d).removeprefix("torch."))
def test_random_no_worse_than_torch(dtype):
    kernel = kernels("conv2d_wgrad_implicit_gemm")
    rows = 5 if dtype == torch.float64 else 30  # the interpreter's steps are of few pixels
    problem = Conv("long", N=2, C=6, K=9, H=rows, W=31, pad=(1, 1))
    x, w, dy = drawn(normals, problem, dtype, True)
    exact = conv_passes(problem, x.double(), w.double(), dy.double())[2]
    magnitude = conv_magnitudes(problem, x, w, dy)[2]
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        torchs = conv_passes(problem, *(t.to(DEVICE) for t in (x, w, dy)))[2].cpu()
    for splits in (1, 7):
        config = kernel.table_config(ConvOp.wgrad, native(problem), dtype, 2)
        dw = wgrad(problem, x, dy, torch.empty_like(w), config, splits)
        assert_no_worse_than_torch(dw, torchs, exact, magnitude, f"{splits} slices")
        assert torch.equal(dw, wgrad(problem, x, dy, torch.empty_like(w), config, splits))


@pytest.mark.parametrize("axis", range(4), ids="nchw")
def test_strides_beyond_32_bits(axis):
    """x, dy and dw have such a stride in turn, along one axis."""
    problem = Conv("", C=2, K=3, H=3, W=4, R=2, S=2)
    x, w, dy = drawn(integers, problem, torch.float16, False, 4)
    exact = conv_passes(problem, x.double(), w.double(), dy.double())[2]
    storage = torch.empty(2**31 + 4096, dtype=torch.float16, device=DEVICE)

    def far(tensor):
        strides = [8 * stride for stride in tensor.stride()]
        strides[axis] = 2**31 // (tensor.shape[axis] - 1) + 1
        return storage.as_strided(tensor.shape, strides).copy_(tensor)

    config = kernels("conv2d_wgrad_implicit_gemm").CONFIGS[3]
    for which in range(3):
        tensors = [x, dy, w]
        tensors[which] = far(tensors[which])
        assert_exact(wgrad(problem, *tensors, config, 1), exact, f"tensor {which}")


def test_quotients():
    for divisor in (1, 2, 3, 7, 56, 3136, 2**15 + 1, 2**29 - 1, 2**29 + 1, 2**30 - 1):
        most = (2**30 - 1) // divisor
        around = torch.tensor([0, 1, 2, most // 3, most // 2, most - 1, most]).clamp(0, most)
        exact = torch.cat([around, around])
        numbers = torch.cat([around * divisor, around * divisor + divisor - 1])
        numbers = torch.cat([numbers.clamp(max=2**30 - 1), torch.tensor([0, 2**30 - 1])])
        exact = torch.cat([exact, torch.tensor([0, most])]).int()
        got = numbers.int().to(DEVICE)
        launch(divide, (1,), Config(1, 1, 1, 1), got, got, *divider(divisor), BLOCK=16)
        assert torch.equal(got.cpu(), exact), divisor


def test_vectors_are_told_from_sizes_and_strides():
    x = torch.empty(2, 24, 6, 6, dtype=torch.float16)
    last = x.to(memory_format=torch.channels_last)
    assert channel_vector(last, 24) == 8 and channel_vector(last, 12) == 4
    assert channel_vector(last.float(), 24) == 4 and channel_vector(last.double(), 24) == 2
    assert channel_vector(last[:, ::2], 12) == 1 and channel_vector(x, 24) == 1
    assert channel_vector(last[:, :20], 20) == 4 and channel_vector(last[:, :, ::2], 24) == 8
    assert pixel_vector(x) == 4 and pixel_vector(x[:, :, :4]) == 4 and pixel_vector(last) == 1
    assert pixel_vector(x[..., 1:]) == 1 and pixel_vector(x[:, :, 1:5]) == 4
    assert pixel_vector(x[..., :4, :]) == 4 and pixel_vector(x[:1, :1, :1, :]) == 2


def test_slices_keep_two_programs_on_each_multiprocessor():
    kernel, plan = kernels("conv2d_wgrad_implicit_gemm"), kernels("plan")
    for C, H, K, R in ((64, 56, 64, 3), (256, 56, 64, 1), (128, 28, 128, 3), (512, 7, 512, 3)):
        problem = native(Conv("", 32, C, H, H, K, R, R, pad=(R // 2, R // 2)))
        for dtype in (torch.float16, torch.float32):
            config = kernel.table_config(ConvOp.wgrad, problem, dtype, 132)
            gemm_m, gemm_n, _ = problem.gemm_shape(ConvOp.wgrad)
            tiles = -(-gemm_m // config.block_m) * -(-gemm_n // config.block_n)
            splits = kernel.slices(ConvOp.wgrad, problem, dtype, config, 132)
            assert 132 <= tiles * splits <= 264 or splits == 1, (C, H, K, R, dtype)
    long = native(Conv("", 1, 1, 1, 2**30, 1, 1, 3, stride=(1, 2**20)))
    assert "32 bits" in plan.unsupported_reason("implicit_gemm", ConvOp.wgrad, long, torch.float32)
