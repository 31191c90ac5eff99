"""Derivatives: gradcheck of every order and mode, vmap, masks, memory formats, autocast."""

import pytest
import torch
import torch.nn.functional as F
from activation_names import KINKED, NAMES, exactly
from problems import CONVS, normals

import fastconv
from fastconv.autograd import conv2d as functions

ACTIVATIONS = [None, *NAMES]
SMALL = [p for p in CONVS if p.N * p.C * p.H * p.W * p.K * p.R * p.S < 60_000]


def gradients(function, *inputs):
    inputs = [t.detach().requires_grad_() for t in inputs]
    y = function(*inputs)
    torch.manual_seed(1)
    dy = torch.randn(y.shape, dtype=torch.float64).to(y.dtype)
    return (y, *torch.autograd.grad(y, inputs, dy))


@pytest.mark.gradcheck
@pytest.mark.parametrize("problem", SMALL[::3], ids=str)
def test_gradcheck_every_mode(problem):
    x, w = (normals(s, torch.float64).requires_grad_() for s in (problem.x_size, problem.w_size))
    b = normals((problem.K,), torch.float64).requires_grad_()

    def conv(x, w, b):
        return fastconv.conv2d(x, w, b, *problem.geometry)

    modes = dict(fast_mode=True, check_forward_ad=True, check_batched_grad=True)
    assert torch.autograd.gradcheck(conv, (x, w, b), check_batched_forward_grad=True, **modes)
    modes = dict(fast_mode=True, check_fwd_over_rev=True, check_rev_over_rev=True)
    assert torch.autograd.gradgradcheck(conv, (x, w, b), **modes)


@pytest.mark.gradcheck
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_gradcheck_epilogue(activation):
    sizes = (2, 1, 2, 3), (2, 1, 3, 3), (2,), (2, 2, 2, 3)
    x, w, b, r = (normals(size, torch.float64).requires_grad_() for size in sizes)

    def conv(x, w, b, r):
        return fastconv.conv2d(x, w, b, padding=1, activation=activation, residual=r)

    z = F.conv2d(x, w, b, padding=1) + r
    torch.testing.assert_close(conv(x, w, b, r), exactly(activation, z))
    assert torch.autograd.gradcheck(
        conv, (x, w, b, r), check_forward_ad=True, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(conv, (x, w, b, r), check_fwd_over_rev=True)


NHWC = torch.channels_last
RESIDUALS = {  # of the values of a channels_last tensor
    "nchw": lambda y: y.contiguous(),
    "nhwc": lambda y: y,
    "channels of more": lambda y: torch.cat([y + 1, y], 1).contiguous(memory_format=NHWC)[
        :, y.shape[1] :
    ],
    "rows of more": lambda y: torch.cat([y, y + 1], 2).contiguous(memory_format=NHWC)[:, :, :7],
    "one pixel": lambda y: y[:, :, :1, :1].expand_as(y),
}


@pytest.mark.parametrize("name", RESIDUALS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("taps, filters", [(1, 48), (3, 48), (1, 41)])
def test_a_residual_of_any_strides(taps, filters, dtype, name):
    """Exactly, for whole vectors of filters on every instruction set and for parts of them."""
    x, w, y = (
        torch.randint(-3, 4, s).to(dtype).contiguous(memory_format=NHWC)
        for s in ((3, 8, 7, 6), (filters, 8, taps, taps), (3, filters, 7, 6))
    )
    residual = RESIDUALS[name](y)
    expected = F.relu(F.conv2d(x.double(), w.double(), padding=taps // 2) + residual.double())
    got = fastconv.conv2d(x, w, padding=taps // 2, activation="relu", residual=residual)
    assert torch.equal(got, expected.to(dtype))


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_epilogue_values_and_gradients(activation, dtype, channels_last):
    """The fused call against torch's three calls in float64, forward with and without grad."""
    x, w, r = (
        normals(s, dtype, channels_last) for s in ((2, 5, 7, 6), (18, 5, 3, 3), (2, 18, 7, 6))
    )
    b = normals((18,), dtype)

    def torchs(x, w, b, r):
        z = F.conv2d(x, w, b, padding=1) + r
        return exactly(activation, z)

    def ours(x, w, b, r):
        return fastconv.conv2d(x, w, b, padding=1, activation=activation, residual=r)

    exact = gradients(torchs, x.double(), w.double(), b.double(), r.double())
    # Where an activation has a kink, rounding may put z on its other side: keep away from it.
    tolerance = {
        torch.float64: 1e-11,
        torch.float32: 2e-5,
        torch.float16: 2e-2,
        torch.bfloat16: 0.15,
    }
    got = gradients(ours, x, w, b, r)
    with torch.no_grad():
        inference = ours(x, w, b, r)
    torch.testing.assert_close(
        inference.double(), exact[0], rtol=tolerance[dtype], atol=tolerance[dtype]
    )
    for a, e in zip(got, exact):
        assert a.dtype == dtype
        near = (a.double() - e).abs() <= tolerance[dtype] * (1 + e.abs().max())
        assert near.double().mean() > 0.99 if activation in KINKED else near.all()


def test_only_wanted_gradients_are_computed(monkeypatch):
    calls = []
    for name in ("dgrad", "wgrad", "bias_grad"):
        original = getattr(functions, name)
        monkeypatch.setattr(
            functions,
            name,
            lambda *a, name=name, original=original: calls.append(name) or original(*a),
        )
    x, w, b = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3), torch.randn(3)
    for wanted, names in (
        ((x,), ["dgrad"]),
        ((w,), ["wgrad"]),
        ((b,), ["bias_grad"]),
        ((x, w, b), ["bias_grad", "dgrad", "wgrad"]),
    ):
        calls.clear()
        for tensor in (x, w, b):
            tensor.requires_grad_(any(tensor is t for t in wanted))
        fastconv.conv2d(x, w, b).sum().backward()
        assert sorted(calls) == names


def test_saved_tensors_are_hooked_and_checkpointable():
    x, w = torch.randn(1, 2, 5, 5, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    packed = []
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: packed.append(t.shape) or t, lambda t: t
    ):
        fastconv.conv2d(x, w, activation="relu").sum().backward()
    assert sorted(map(tuple, packed)) == [(1, 2, 5, 5), (1, 3, 3, 3), (3, 2, 3, 3)]
    direct = x.grad.clone()
    x.grad = None
    torch.utils.checkpoint.checkpoint(
        lambda x: fastconv.conv2d(x, w, activation="relu"), x, use_reentrant=False
    ).sum().backward()
    assert torch.equal(x.grad, direct)


@pytest.mark.parametrize(
    "in_dims",
    [(0, None, None), (None, 0, None), (None, None, 0), (0, 0, 0), (1, 2, None), (0, 0, None)],
)
@pytest.mark.parametrize("groups", [1, 2])
def test_vmap(in_dims, groups):
    sizes = [(2, 4, 5, 6), (6, 4 // groups, 3, 3), (6,)]
    args = [
        normals(size if dim is None else (*size[:dim], 3, *size[dim:]), torch.float64)
        for size, dim in zip(sizes, in_dims)
    ]

    def ours(x, w, b):
        return fastconv.conv2d(x, w, b, padding=1, groups=groups, activation="relu")

    def torchs(x, w, b):
        return F.relu(F.conv2d(x, w, b, padding=1, groups=groups))

    for transform in (
        lambda f: f,
        lambda f: torch.func.grad(lambda *a: f(*a).pow(2).sum(), (0, 1, 2)),
    ):
        got = torch.vmap(transform(ours), in_dims)(*args)
        expected = torch.vmap(transform(torchs), in_dims)(*args)
        torch.testing.assert_close(got, expected)


def test_func_transforms():
    x, w = normals((2, 2, 5, 5), torch.float64), normals((3, 2, 3, 3), torch.float64)

    def corner(w, conv):
        return conv(x, w)[:, :, 0, 0]

    def scalar(w, conv):
        return conv(x, w).sin().sum()

    for transform, function in (
        (torch.func.jacrev, corner),
        (torch.func.jacfwd, corner),
        (torch.func.hessian, scalar),
    ):
        ours, torchs = (transform(function)(w, conv) for conv in (fastconv.conv2d, F.conv2d))
        torch.testing.assert_close(ours, torchs)


@pytest.mark.parametrize("x_last", [False, True])
@pytest.mark.parametrize("w_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_memory_formats_follow_torch(x_last, w_last, dtype):
    x, w = normals((2, 4, 5, 6), dtype, x_last), normals((3, 4, 3, 3), dtype, w_last)
    got, expected = gradients(fastconv.conv2d, x, w), gradients(F.conv2d, x, w)
    for a, e in zip(got, expected):
        assert a.stride() == e.stride()


def test_autocast_lowers_convolution_and_keeps_float64():
    x, w = torch.randn(1, 2, 5, 5, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            y = fastconv.conv2d(x, w)
            assert y.dtype == F.conv2d(x, w).dtype == dtype
            assert fastconv.conv2d(x.double(), w.double()).dtype == torch.float64
            assert fastconv.max_pool2d(x, 2).dtype == torch.float32
        y.sum().backward()
        assert x.grad.dtype == w.grad.dtype == torch.float32


def test_negative_views_of_gradients_live_until_they_are_read():
    x, w = torch.randn(4, 3, 32, 32), torch.randn(64, 3, 3, 3)
    b, dy = torch.zeros(64, requires_grad=True), torch.randn(4, 64, 30, 30)
    for activation in (None, "relu", "silu"):
        grads = []
        for g in (torch._neg_view(dy), dy.neg()):
            y = fastconv.conv2d(x, w, b, activation=activation)
            grads += torch.autograd.grad(y, b, g)
        assert torch.equal(*grads)


def test_functionalize():
    x, w = torch.randn(1, 2, 5, 5), torch.randn(3, 2, 3, 3)
    f = torch.func.functionalize(lambda x: fastconv.max_pool2d(fastconv.conv2d(x, w), 2))
    torch.testing.assert_close(f(x), F.max_pool2d(F.conv2d(x, w), 2))


def test_zero_and_negative_views_are_read_right():
    x = torch.complex(torch.randn(1, 2, 5, 5), torch.randn(1, 2, 5, 5)).conj().imag
    assert x.is_neg()
    w = torch.randn(3, 2, 3, 3)
    torch.testing.assert_close(fastconv.conv2d(x, w), F.conv2d(x, w))
