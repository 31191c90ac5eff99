"""Transposed convolutions: every backend exactly on integers, derivatives of every order and mode,
memory formats, autocast, torch's errors."""

import pytest
import torch
import torch.nn.functional as F
from activation_names import NAMES, exactly
from conv_kernels import ALGORITHMS, CPU_ALGORITHMS, LAYOUT_IDS, LAYOUTS, why_not
from devices import device_of, in_turn, interpreted
from oracles import assert_exact
from problems import integers, named, normals

import fastconv
from fastconv.backends import BACKENDS
from fastconv.geometry import ConvTranspose2dGeometry
from fastconv.problem import DTYPES

# Named by the convolutions whose dgrad they are.
PROBLEMS = [
    *("strided", "kernel is stride", "dilated and strided", "grouped odd"),
    *("depthwise strided", "depthwise multiplier", "padding beyond kernel"),
]


def transposed(problem):
    """The geometry of the transposed convolution from y to x of a problem, and the size of y."""
    P, Q = problem.geometry.out_plane(problem.x_size, problem.w_size)
    geometry = ConvTranspose2dGeometry(*problem.geometry, (0, 0))
    y_size = (problem.N, problem.K, P, Q)
    least = geometry.out_size(y_size, problem.w_size)[-2:]
    output_padding = tuple(a - b for a, b in zip(problem.x_size[-2:], least))
    return geometry._replace(output_padding=output_padding), y_size


def exact(x, w, b, residual, geometry, activation):
    stride, padding, dilation, groups, output_padding = geometry
    x, w, b, residual = (None if t is None else t.double() for t in (x, w, b, residual))
    y = F.conv_transpose2d(x, w, b, stride, padding, output_padding, groups, dilation)
    return exactly(activation, y if residual is None else y + residual)


@pytest.mark.parametrize("why", PROBLEMS)
@pytest.mark.parametrize("backend", ALGORITHMS)
def test_integers_exactly(backend, why, exhaustive):
    problem, device = named(why), device_of(backend)
    if reason := why_not(backend, problem):
        pytest.skip(reason)
    if interpreted(backend) and "gemm" in backend and problem.groups == 70 and not exhaustive:
        pytest.skip("a program for each of many groups: --exhaustive runs it")
    geometry, x_size = transposed(problem)
    cases = [
        (dtype, channels_last, terms)
        for terms in ("bias", "both", "none")
        for channels_last in LAYOUTS
        for dtype in DTYPES
        if not why_not(backend, problem, dtype)
    ]
    for dtype, channels_last, terms in in_turn(cases, backend, PROBLEMS.index(why), exhaustive):
        b = residual = None
        x, w = (
            integers(size, dtype, channels_last=channels_last).to(device)
            for size in (x_size, problem.w_size)
        )
        if terms != "none":
            b = integers((problem.C,), dtype).to(device)
        if terms == "both":
            residual = integers(problem.x_size, dtype, channels_last=channels_last).to(device)
        activation = "none" if terms == "none" else "relu"
        got = BACKENDS[backend].conv_transpose2d(x, w, b, residual, geometry, activation)
        expected = exact(
            *(None if t is None else t.cpu() for t in (x, w, b, residual)), geometry, activation
        )
        assert_exact(got.cpu(), expected, f"{dtype} channels_last {channels_last} {terms}")


@pytest.mark.parametrize("channels_last", LAYOUTS, ids=LAYOUT_IDS)
@pytest.mark.parametrize("backend", ["cpu", *CPU_ALGORITHMS])
def test_every_activation_after_every_dgrad(backend, channels_last):
    problem = named("depthwise strided")
    geometry, x_size = transposed(problem)
    x, w, residual = (
        normals(size, torch.float32, channels_last)
        for size in (x_size, problem.w_size, problem.x_size)
    )
    b = normals((problem.C,), torch.float32)
    for activation in NAMES:
        got = BACKENDS[backend].conv_transpose2d(x, w, b, residual, geometry, activation)
        expected = exact(x, w, b, residual, geometry, activation)
        torch.testing.assert_close(got.double(), expected, rtol=1e-5, atol=1e-5)


# (input, weight, arguments after the bias): output_padding below stride, and only below dilation.
CALLS = [
    ((2, 4, 3, 2), (4, 1, 3, 2), dict(stride=(2, 3), padding=1, output_padding=(1, 2), groups=2)),
    ((1, 2, 3, 2), (2, 3, 2, 2), dict(stride=1, output_padding=(2, 1), dilation=(3, 2))),
]


@pytest.mark.gradcheck
@pytest.mark.parametrize("activation", [None, "relu", "silu"])
@pytest.mark.parametrize("x_size, w_size, kwargs", CALLS)
def test_gradcheck(x_size, w_size, kwargs, activation):
    x, w = (normals(size, torch.float64).requires_grad_() for size in (x_size, w_size))
    b = normals((w_size[1] * kwargs.get("groups", 1),), torch.float64).requires_grad_()
    residual = normals(F.conv_transpose2d(x, w, b, **kwargs).shape, torch.float64).requires_grad_()

    def conv(x, w, b, residual):
        epilogue = dict(activation=activation, residual=residual)
        return fastconv.conv_transpose2d(x, w, b, **kwargs, **epilogue)

    modes = dict(fast_mode=True, check_forward_ad=True, check_batched_grad=True)
    inputs = (x, w, b, residual)
    assert torch.autograd.gradcheck(conv, inputs, check_batched_forward_grad=True, **modes)
    modes = dict(fast_mode=True, check_fwd_over_rev=True, check_rev_over_rev=True)
    assert torch.autograd.gradgradcheck(conv, inputs, **modes)


@pytest.mark.parametrize("in_dims", [(0, None, None), (None, 0, None), (1, 2, 0)])
def test_vmap(in_dims):
    sizes = [(2, 4, 5, 3), (4, 3, 3, 2), (6,)]
    args = [
        normals(size if dim is None else (*size[:dim], 3, *size[dim:]), torch.float64)
        for size, dim in zip(sizes, in_dims)
    ]
    kwargs = dict(stride=2, padding=1, output_padding=1, groups=2)

    def ours(x, w, b):
        return fastconv.conv_transpose2d(x, w, b, activation="relu", **kwargs)

    def torchs(x, w, b):
        return F.relu(F.conv_transpose2d(x, w, b, **kwargs))

    for transform in (
        lambda f: f,
        lambda f: torch.func.grad(lambda *a: f(*a).pow(2).sum(), (0, 1, 2)),
    ):
        got = torch.vmap(transform(ours), in_dims)(*args)
        expected = torch.vmap(transform(torchs), in_dims)(*args)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dy_last", [False, True])
@pytest.mark.parametrize("x_last", [False, True])
@pytest.mark.parametrize("w_last", [False, True])
def test_memory_formats_follow_torch(x_last, w_last, dy_last):
    x, w = (
        normals((2, 4, 5, 6), torch.float32, x_last),
        normals((4, 3, 3, 3), torch.float32, w_last),
    )
    x.requires_grad_(), w.requires_grad_()
    dy = normals((2, 3, 11, 13), torch.float32, dy_last)
    results = []
    for function in (fastconv.conv_transpose2d, F.conv_transpose2d):
        y = function(x, w, stride=2)
        results.append((y, *torch.autograd.grad(y, (x, w), dy)))
    for a, e in zip(*results):
        assert a.stride() == e.stride()
        torch.testing.assert_close(a, e)


@pytest.mark.parametrize("axes", [1, 2])
def test_autocast(axes):
    ours, torchs = (getattr(m, f"conv_transpose{axes}d") for m in (fastconv, F))
    x, w = (torch.randn(s[: axes + 2], requires_grad=True) for s in ((1, 2, 5, 5), (2, 3, 3, 3)))
    for dtype in (torch.bfloat16, torch.float16):
        with torch.autocast("cpu", dtype):
            y = ours(x, w)
            assert y.dtype == torchs(x, w).dtype == dtype
            assert ours(x.double(), w.double()).dtype == torch.float64
        y.sum().backward()
        assert x.grad.dtype == w.grad.dtype == torch.float32


def test_compile_and_export(strict):
    layer = fastconv.ConvTranspose2d(4, 3, 3, 2, 1, 1)
    x = torch.randn(2, 4, 5, 6, requires_grad=True)
    expected = torch.autograd.grad(layer(x).sin().sum(), (x, *layer.parameters()))
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    got = torch.autograd.grad(compiled(x).sin().sum(), (x, *layer.parameters()))
    torch.testing.assert_close(got, expected)

    sizes = {"input": {0: torch.export.Dim.AUTO, 2: torch.export.Dim.AUTO}}
    program = torch.export.export(layer, (x,), dynamic_shapes=sizes)
    other = torch.randn(3, 4, 7, 6)
    torch.testing.assert_close(program.module()(other), layer(other))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(BACKENDS["cpu"], "conv_transpose2d", None)
        decomposed = program.run_decompositions(fastconv.export_decompositions()).module()
        result = decomposed(other)
    torch.testing.assert_close(result, layer(other))


X, W = torch.randn(2, 4, 5, 6), torch.randn(4, 6, 3, 3)
ERRORS = {  # (arguments, keywords): a part of torch's message, or None where torch's is oneDNN's
    "output_padding": ((X, W), dict(output_padding=1), "output padding must be smaller than"),
    "negative output_padding": ((X, W), dict(output_padding=-1), "negative output_padding is not"),
    "stride": ((X, W), dict(stride=0), "non-positive stride is not supported"),
    "dilation": ((X, W), dict(dilation=0), None),
    "padding": ((X, W), dict(padding=-1), "negative padding is not supported"),
    "padding by name": ((X, W), dict(padding="same"), "padding"),
    "groups": ((X, W), dict(groups=3), "expected weight to be divisible by 3 at dimension 0"),
    "many groups": ((X, W), dict(groups=8), "expected weight to be at least 8 at dimension 0"),
    "channels": ((X[:, :3], W), {}, "to have 4 channels, but got 3 channels instead"),
    "bias": ((X, W, torch.ones(4)), {}, "expected bias to be 1-dimensional with 6 elements"),
    "bias of groups": ((X, W, torch.ones(6)), dict(groups=2), "1-dimensional with 12 elements"),
    "input": ((X[0, 0], W), {}, r"Expected .D .* input to conv_transpose.d"),
    "no pixels": ((X[..., :0], W), {}, "Only zero batch or zero channel inputs are supported"),
    "too small": ((X.double(), W.double()), dict(padding=5), "Output size is too small"),
    "dtype": ((X, W, torch.ones(6).double()), {}, "should be the same"),
    "pairs": ((X, W), dict(padding=(1, 1, 1)), "expected padding to be a single integer value"),
}


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_torchs(case, axes):
    args, kwargs, message = ERRORS[case]
    if axes == 1:  # one row of the images and of the kernels
        args = [t[..., 0, :] if t.dim() > 1 else t for t in args]
    function = f"conv_transpose{axes}d"
    with pytest.raises((RuntimeError, TypeError), match=message) as torchs:
        getattr(F, function)(*args, **kwargs)
    with pytest.raises(torchs.type, match=message):
        getattr(fastconv, function)(*args, **kwargs)


def test_a_residual_of_another_size_is_refused():
    with pytest.raises(RuntimeError, match=r"expected residual of size \[2, 6, 7, 8\]"):
        fastconv.conv_transpose2d(X, W, residual=torch.ones(2, 6, 7, 7))
