"""Infinities, NaN and signed zeros: the same results on every backend and instruction set."""

import functools
import itertools

import pytest
import torch
import torch.nn.functional as F
from activation_names import NAMES
from conv_kernels import CPU_ALGORITHMS, CUDA_ALGORITHMS, TRITON_ALGORITHMS, passes
from devices import CUDA, TRITON, device_of, skip_half
from instruction_sets import check_under, once_for_each
from pool_problems import LAYOUTS, WINDOWS
from problems import drawn, integers, named, normals

import fastconv
from fastconv.activations import by_torch, saves_result
from fastconv.backends import BACKENDS
from fastconv.problem import DTYPES

INF, NAN = float("inf"), float("nan")
dtypes = pytest.mark.parametrize("dtype", list(DTYPES), ids=lambda d: str(d).split(".")[1])


# ---- convolution -----------------------------------------------------------------------------

PADDED = (
    *("padded", "strided", "grouped", "depthwise", "dilation shares a factor with stride"),
    *("padding beyond kernel", "depthwise strided", "depthwise multiplier", "large kernel"),
    "one channel",
)
# Emulated and interpreted kernels take their time.
FEW = {"cuda": ("strided", "grouped", "depthwise", "large kernel"), "triton": ("depthwise",)}


def where_padding_adds_nothing(problem, x, w, dy):
    """(y, dx, dw) of float64 tensors by plain loops, which look at no padding."""
    return passes("reference", problem, x, w, dy, False)


def where_padding_is_zeros(problem, x, w, dy):
    """(y, dx, dw) where zeros around x, and around dy for dx, are multiplied like elements."""
    reference = BACKENDS["reference"]
    stride, pad, dilation, _ = problem.geometry
    padded = F.pad(x, (pad[1], pad[1], pad[0], pad[0]))
    geometry = problem.geometry._replace(padding=(0, 0))
    y = reference.conv2d_fprop(padded, w, None, None, geometry, "none")
    dw = reference.conv2d_wgrad(dy, padded, w.shape, False, geometry)
    # As many positions of dy around as any tap can reach, and the rows of dx that belong to them.
    h, v = (
        ((kernel - 1) * dilation[i] + pad[i]) // stride[i] + 2
        for i, kernel in enumerate(w.shape[2:])
    )
    N, C, H, W = x.shape
    size = (N, C, H + 2 * h * stride[0], W + 2 * v * stride[1])
    dx = reference.conv2d_dgrad(F.pad(dy, (v, v, h, h)), w, size, False, problem.geometry)
    top, left = h * stride[0], v * stride[1]
    return y, dx[:, :, top : top + H, left : left + W], dw


RULES = (where_padding_adds_nothing, where_padding_is_zeros)


@functools.cache
def case(why, name):
    """x, w and dy, of which the named one has an infinity and a NaN; (y, dx, dw) by each rule."""
    torch.manual_seed(0)
    tensors = dict(zip(("x", "w", "dy"), drawn(integers, named(why), torch.float64, False)))
    tensors[name][0, 0, 0, 0], tensors[name][-1, -1, -1, -1] = INF, NAN
    return tuple(tensors.values()), [rule(named(why), *tensors.values()) for rule in RULES]


def results(backend, problem, x, w, dy, channels_last):
    """{what is computed: (from which tensors, how)}."""
    kernels, geometry = BACKENDS[backend], problem.geometry
    return {
        "y": (("x", "w"), lambda: kernels.conv2d_fprop(x, w, None, None, geometry, "none")),
        "dx": (("dy", "w"), lambda: kernels.conv2d_dgrad(dy, w, x.shape, channels_last, geometry)),
        "dw": (("dy", "x"), lambda: kernels.conv2d_wgrad(dy, x, w.shape, channels_last, geometry)),
    }


def agree(got, expected):
    expected = expected.to(got.dtype)
    return bool(((got == expected) | (got.isnan() & expected.isnan())).all())


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("backend", CPU_ALGORITHMS[1:] + CUDA_ALGORITHMS + TRITON_ALGORITHMS)
def test_padding_follows_one_rule(backend, channels_last, exhaustive):
    """An infinity or NaN reaches what reads it. Where it meets padding, either nothing happens or
    it is multiplied by zero: one of the two in a whole result."""
    skip_half(backend, channels_last + ("im2col" in backend), exhaustive)
    family, device = backend.split(":")[0], device_of(backend)
    kinds = [torch.float32] if family == "triton" else [torch.float32, torch.float16]
    for why, dtype, name in itertools.product(FEW.get(family, PADDED), kinds, ("x", "w", "dy")):
        problem = named(why)
        call = (problem.x_size, problem.w_size, problem.geometry)
        if BACKENDS[backend].supports("conv2d", call, dtype, device):
            continue
        tensors, rules = case(why, name)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        on_device = [t.to(device, dtype, memory_format=layout) for t in tensors]
        for i, (what, (sources, run)) in enumerate(
            results(backend, problem, *on_device, channels_last).items()
        ):
            if name not in sources:
                continue
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
                got = run().cpu()
            assert any(agree(got, rule[i]) for rule in rules), f"{problem} {dtype} {what}, {name}"


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("backend", [CUDA])
def test_three_tf32_products_of_what_is_not_finite_or_nearly_so(backend, channels_last):
    """What float32 gives: no Inf - Inf of the parts that a factor is split into."""
    problem = named("several pixel tiles")
    largest = torch.finfo(torch.float32).max
    for value, name in itertools.product((INF, -INF, NAN, largest), ("x", "w", "dy")):
        tensors = dict(zip(("x", "w", "dy"), drawn(normals, problem, torch.float32, channels_last)))
        for tensor in tensors.values():
            tensor.clamp_(-0.9, 0.9)  # times the largest number, and summed, they stay finite
        tensors[name][0, 1, 1, 1] = value
        rules = RULES[1](problem, *(t.double() for t in tensors.values()))
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            on_device = (t.to(device_of(backend)) for t in tensors.values())
            got = passes("cuda:implicit_gemm", problem, *on_device, channels_last)
        for what, actual, expected in zip(("y", "dx", "dw"), got, rules):
            torch.testing.assert_close(
                actual.cpu(),
                expected.float(),
                rtol=1e-5,
                atol=1e-5,
                equal_nan=True,
                msg=lambda message, case=f"{what}, {value} in {name}": f"{case}: {message}",
            )


# ---- activations -----------------------------------------------------------------------------

VALUES = (0.0, -0.0, INF, -INF, NAN, 1.0, -1.0, 3.0, -3.0, 6.0, -6.0, 1e4, -1e4)
GRADIENTS = (1.0, -2.0, INF, NAN)


def assert_same_with_signs(got, expected, what):
    precision = 8e-3 if got.dtype == torch.bfloat16 else 1e-3
    torch.testing.assert_close(
        got, expected, rtol=precision, atol=1e-7, equal_nan=True, msg=lambda m: f"{what}: {m}"
    )
    zeros = (got == 0) & (expected == 0)
    assert torch.equal(got[zeros].signbit(), expected[zeros].signbit()), what


@pytest.mark.parametrize("activation", NAMES)
@dtypes
@pytest.mark.parametrize("backend", ["cpu", "reference", CUDA, TRITON])
def test_activations_at_their_ends(backend, dtype, activation):
    """torch's scalars: its vectors lose the gradient of a NaN and gelu of infinity. 16-bit types in
    float32: torch reads some slopes off a rounded y."""
    kernels, device = BACKENDS[backend], device_of(backend)
    wide = torch.promote_types(dtype, torch.float32)
    z = [torch.tensor([v], dtype=dtype).to(wide).requires_grad_() for v in VALUES]
    y = [by_torch(activation, value) for value in z]

    def row(tensors):
        return torch.cat([t.detach() for t in tensors]).view(1, 1, 1, -1).to(dtype)

    got = kernels.activation_forward(row(z).to(device), activation)
    assert_same_with_signs(got.cpu(), row(y), "y")
    saved = row(y if saves_result(activation) else z).to(device)
    for gradient in GRADIENTS:
        dy = torch.full((1,), gradient, dtype=dtype)
        pairs = zip(y, z)
        expected = [torch.autograd.grad(*p, dy.to(wide), retain_graph=True)[0] for p in pairs]
        got, _ = kernels.epilogue_backward(dy.to(device).expand(saved.shape), saved, activation)
        assert_same_with_signs(got.cpu(), row(expected), f"dy {gradient}")


# ---- max pooling -----------------------------------------------------------------------------


def zeros_of_both_signs(dtype, channels):
    x = torch.tensor([-1.0, -0.0, 0.0])[torch.randint(3, (2, channels, 11, 40))]
    x[0, 1, 5, 7] = NAN
    x[0, 2] = x[0, 2].abs().neg()
    return x.to(dtype)


@pytest.mark.parametrize("layout", ["nchw", "nhwc", "transposed"])
@dtypes
@pytest.mark.parametrize("backend", ["cpu", "reference", CUDA, TRITON])
def test_a_maximum_is_the_first_of_equal_elements(backend, dtype, layout):
    """A zero's sign tells which of them it is."""
    names, sizes, channels = WINDOWS, (1, (3, 4), (11, 1)), 16
    if backend == "triton":
        if dtype != torch.float32 or layout == "transposed":
            pytest.skip("float32 tells: others are widened, or read by the same code")
        names, sizes, channels = ("resnet", "dilated"), (1,), 3
    x = zeros_of_both_signs(dtype, channels)
    on_device = LAYOUTS[layout](x).to(device_of(backend))

    def check(function, *arguments):
        name = function.__name__
        y, index = getattr(F, name)(x.float(), *arguments, return_indices=True)
        expected = x.flatten(2).gather(2, index.flatten(2)).view(y.shape)
        places = function(on_device, *arguments, return_indices=True, backend=backend)
        values = function(on_device, *arguments, backend=backend)
        assert torch.equal(places[1].cpu(), index), f"{name} {arguments}"
        for got in (places[0].cpu(), values.cpu()):
            assert torch.equal(got.isnan(), expected.isnan()), f"{name} {arguments}"
            number = ~expected.isnan()
            assert torch.equal(got[number], expected[number]), f"{name} {arguments}"
            same = got[number].signbit() == expected[number].signbit()
            assert same.all(), f"{name} {arguments}: {int((~same).sum())} signs"

    for window in names:
        check(fastconv.max_pool2d, *WINDOWS[window])
    for size in sizes:
        check(fastconv.adaptive_max_pool2d, size)


# ---- instruction sets ------------------------------------------------------------------------


@once_for_each
def test_every_instruction_set(instruction_set, tmp_path):
    check_under(instruction_set, tmp_path, __file__, "-k", "cpu")
