"""The stand-alone epilogue's kernels: every layout and activation against torch, sums exact."""

import pytest
import torch
import torch.nn.functional as F
from activation_names import NAMES, exactly
from devices import CUDA, TRITON, device_of, in_turn, interpreted, skip_half

from fastconv._native import cuda
from fastconv.activations import native, saves_result
from fastconv.backends import BACKENDS
from fastconv.backends.cuda.conv2d import _locate
from fastconv.backends.cuda.launch import launch
from fastconv.backends.triton.launch import kernels as triton_kernels
from fastconv.problem import DTYPES

NAN = float("nan")
TOLERANCE = {
    torch.float64: 1e-12,
    torch.float32: 1e-5,
    torch.float16: 2e-3,
    torch.bfloat16: 2e-2,
}
# Whole vectors of channels, or of columns, or neither; more lanes, channels, slices than one block.
SIZES = [(2, 5, 3, 7), (3, 16, 4, 4), (2, 96, 3, 3), (2, 300, 2, 1), (1, 3, 80, 66), (2, 1, 1, 1)]
LAYOUTS = {
    "nchw": lambda x: x,
    "nhwc": lambda x: x.to(memory_format=torch.channels_last),
    "sliced": lambda x: x.new_full(
        (x.shape[0], x.shape[1] + 2, x.shape[2] + 1, 2 * x.shape[3] + 1), NAN
    )[:, 2:, 1:, 1::2].copy_(x),
    "expanded": lambda x: x[:, :1, :, :1].expand_as(x),
}


def integers(size, low, high, dtype):
    return torch.randint(low, high, size).to(dtype)


def sizes_in_turn(backend, turn, exhaustive):
    """(number, size) of all; in Triton's interpreter of a third, and of the single pixel."""
    *numbered, pixel = enumerate(SIZES)
    sampled = interpreted(backend) and not exhaustive
    return [*(numbered[turn % 3 :: 3] if sampled else numbered), pixel]


def derivatives(z, dy, activation):
    """(y, dz, db) in float64."""
    z = z.double().requires_grad_()
    y = exactly(activation, z)
    (dz,) = torch.autograd.grad(y, z, dy.double())
    return y.detach(), dz, dz.sum((0, 2, 3))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("backend", ["cpu", CUDA, TRITON])
def test_activation_forward_and_backward(backend, dtype, layout, exhaustive):
    kernels, device = BACKENDS[backend], device_of(backend)
    turn = list(TOLERANCE).index(dtype) + list(LAYOUTS).index(layout)
    for number, size in sizes_in_turn(backend, turn, exhaustive):
        z, dy = integers(size, -4, 9, dtype), integers(size, -3, 4, dtype)
        if layout == "expanded":
            z, dy = z[:, :1, :, :1].expand(size).clone(), dy[:, :1, :, :1].expand(size).clone()
        z_on, dy_on = (LAYOUTS[layout](t.to(device)) for t in (z, dy))
        for activation in in_turn(NAMES, backend, turn + number, exhaustive):
            y = kernels.activation_forward(z_on, activation)
            saved = y if saves_result(activation) else z_on
            dz, db = kernels.epilogue_backward(dy_on, saved, activation)
            for got, exact in zip((y, dz, db), derivatives(z, dy, activation), strict=True):
                assert got.dtype == dtype
                scale = 1 if got.dim() == 4 else exact.abs().max().item() + 1
                torch.testing.assert_close(
                    got.cpu().double(), exact, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype] * scale
                )


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("backend", ["cpu", CUDA, TRITON])
def test_sums_are_exact_and_the_same_every_time(backend, layout, exhaustive):
    turn = list(LAYOUTS).index(layout)
    for number, size in sizes_in_turn(backend, turn, exhaustive):
        for dtype in in_turn(list(TOLERANCE), backend, turn + number, exhaustive):
            dy = LAYOUTS[layout](integers(size, -1, 2, dtype).to(device_of(backend)))
            db = BACKENDS[backend].bias_grad(dy)
            assert torch.equal(db.cpu(), dy.cpu().double().sum((0, 2, 3)).to(dtype))
    dy = LAYOUTS[layout](torch.randn(2, 40, 9, 8, device=device_of(backend)))
    assert torch.equal(BACKENDS[backend].bias_grad(dy), BACKENDS[backend].bias_grad(dy))


def epilogue_forward(backend, z, b, residual, y):
    """y = relu(z + b + residual)."""
    if backend == "triton":
        return triton_kernels("epilogue").launch_epilogue(z, b, residual, "relu", y)
    return launch(
        cuda.epilogue_forward,
        z,
        tuple(z.shape),
        int(DTYPES[z.dtype]),
        *_locate(z),
        *_locate(y),
        b.data_ptr(),
        *_locate(residual),
        native("relu").numbers,
    )


@pytest.mark.parametrize("backend", [TRITON])
def test_sums_of_more_slices_than_are_read_at_once(backend, monkeypatch):
    epilogue = triton_kernels("epilogue")
    monkeypatch.setattr(epilogue, "_REDUCE", epilogue._REDUCE._replace(block_m=4))
    dy = integers((3, 2, 80, 66), -1, 2, torch.float32).to(device_of(backend))
    db = torch.full((2,), NAN, device=dy.device)
    for multiprocessors in range(1, 4):  # up to 16 slices
        epilogue.launch_backward(dy, None, "none", None, db, multiprocessors)
        assert torch.equal(db, dy.sum((0, 2, 3)))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("residual_layout", [None, *LAYOUTS])
@pytest.mark.parametrize("backend", [CUDA, TRITON])
def test_bias_and_residual(backend, residual_layout, layout, exhaustive):
    """What follows im2col's GEMM: into another tensor, and in place."""
    device = device_of(backend)
    turn = [None, *LAYOUTS].index(residual_layout) + list(LAYOUTS).index(layout)
    skip_half(backend, turn, exhaustive)
    for number, size in sizes_in_turn(backend, turn, exhaustive):
        for dtype in in_turn(list(TOLERANCE), backend, turn + number, exhaustive):
            z = LAYOUTS[layout](integers(size, -4, 5, dtype).to(device))
            b = integers(size[1:2], -4, 5, dtype).to(device)
            residual = None
            if residual_layout is not None:
                residual = LAYOUTS[residual_layout](integers(size, -4, 5, dtype).to(device))
            expected = (z + b.view(1, -1, 1, 1) + (0 if residual is None else residual)).relu()
            places = [torch.full_like(z, NAN, memory_format=torch.contiguous_format)]
            if layout != "expanded":
                places.append(z)
            for y in places:
                epilogue_forward(backend, z, b, residual, y)
                assert torch.equal(y, expected)


@pytest.mark.parametrize("axis", range(4), ids="nchw")
@pytest.mark.parametrize("backend", [CUDA, TRITON])
def test_strides_beyond_32_bits(backend, axis):
    device, size = device_of(backend), (2, 3, 2, 2)
    storage = torch.empty(2**31 + 4096, dtype=torch.float16, device=device)
    strides = [8, 16, 48, 96]
    strides[axis] = 2**31 // (size[axis] - 1) + 1
    values = integers(size, -3, 9, torch.float16).to(device)
    far = storage.as_strided(size, strides).copy_(values)
    y = BACKENDS[backend].activation_forward(far, "relu6")
    assert torch.equal(y, F.relu6(values))
    dz, db = BACKENDS[backend].epilogue_backward(far, far, "relu6")
    exact = values * ((values > 0) & (values < 6))
    assert torch.equal(dz, exact) and torch.equal(db, exact.sum((0, 2, 3)))
    epilogue_forward(backend, values, values[0, :, 0, 0].contiguous(), None, far)
    assert torch.equal(far, (values + values[:1, :, :1, :1]).relu())


@pytest.mark.parametrize("activation", ["relu", "relu6"])
@pytest.mark.parametrize("backend", ["cpu", CUDA, TRITON])
def test_an_infinite_gradient_ends_where_the_activation_is_flat(backend, activation):
    z = torch.tensor([-1.0, 2.0, 7.0, 0.0]).view(1, 1, 2, 2).requires_grad_()
    y = getattr(F, activation)(z)
    dy = torch.full_like(y, float("inf"))
    (expected,) = torch.autograd.grad(y, z, dy)
    device = device_of(backend)
    dz, _ = BACKENDS[backend].epilogue_backward(dy.to(device), y.detach().to(device), activation)
    assert torch.equal(dz.cpu(), expected)


@pytest.mark.parametrize("backend", ["cpu", CUDA, TRITON])
def test_nan_passes_through(backend):
    z = torch.tensor([NAN, -1.0, float("inf"), -float("inf")]).view(1, 1, 2, 2)
    z = z.to(device_of(backend))
    for activation in ("relu", "relu6", "silu"):
        y = BACKENDS[backend].activation_forward(z, activation)
        torch.testing.assert_close(y, getattr(F, activation)(z), equal_nan=True)
    dz, db = BACKENDS[backend].epilogue_backward(z, torch.ones_like(z), "relu")
    assert torch.equal(dz.isnan(), z.isnan()) and db.isnan()
