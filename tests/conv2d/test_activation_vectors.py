"""The CPU's activations and their slopes, elementwise: against more digits over every exponent, and
the same bits wherever in a row an element lies, under every instruction set of the machine."""

import mpmath  # torch depends on it
import pytest
import torch
from activation_names import NAMES
from instruction_sets import check_under, once_for_each

from fastconv.activations import by_torch, parse, saves_result
from fastconv.backends import BACKENDS
from fastconv.problem import DTYPES

CPU = BACKENDS["cpu"]
CPUS = {name: backend for name, backend in BACKENDS.items() if name.startswith("cpu:")}
REFERENCE = BACKENDS["reference"]
INF, NAN = float("inf"), float("nan")
LONGEST = 70  # of a row: four of the widest vectors and a part
BITS = {8: torch.int64, 4: torch.int32, 2: torch.int16}
IDS = {"ids": lambda value: str(value).removeprefix("torch.")}
dtypes = pytest.mark.parametrize("dtype", list(DTYPES), **IDS)
activations = pytest.mark.parametrize("activation", NAMES)


def bits(x):
    return x.contiguous().view(BITS[x.element_size()])


def inputs(dtype):
    """All finite numbers of 16 bits; of the wider types, some of each exponent, and more where the
    activations bend or end. mpmath judges those of float64: fewer."""
    integer = BITS[dtype.itemsize]
    if dtype.itemsize == 2:
        x = torch.arange(-(2**15), 2**15).to(integer).view(dtype)
        return x[x.isfinite()]
    count = 200_001 if dtype == torch.float32 else 2_001
    ends = torch.tensor([88, 88.8, 104, 111, 709.8, 745.2, 753], dtype=dtype)
    kinks = torch.tensor([-3, 0, 3, 6], dtype=dtype)
    kinks = [kinks, *(kinks.nextafter(torch.tensor(to, dtype=dtype)) for to in (-INF, INF))]
    largest = torch.tensor(torch.finfo(dtype).max, dtype=dtype).view(integer).item()
    exponents = (torch.arange(count) * (largest // count)).to(integer).view(dtype)
    dense = [torch.linspace(-end, end, count, dtype=dtype) for end in (9, 120, 760)]
    return torch.cat([ends, -ends, *kinks, exponents, -exponents, *dense])


def forward(x, activation, kernels=CPU):
    return kernels.activation_forward(x.view(1, 1, 1, -1), activation).view(-1)


def slope(x, activation, kernels=CPU):
    x = x.view(1, 1, 1, -1)
    saved = kernels.activation_forward(x, activation) if saves_result(activation) else x
    return kernels.epilogue_backward(torch.ones_like(x), saved, activation)[0].view(-1)


def mp_activate(z, activation):
    """(activation, slope, size of the slope's roundings) of an mpmath number."""
    found, parameter = parse(activation)
    s = 1 / (1 + mpmath.exp(-z))
    bounded = max(-2000, min(z, 2000))  # far beyond float64; mpmath has a limit as well
    if activation == "silu":
        return z * s, s * (1 + z * (1 - s)), s * (1 + abs(min(z, 40)))
    if activation == "mish":
        t = mpmath.tanh(mpmath.log1p(mpmath.exp(bounded)))
        return z * t, t + z * s * (1 - t * t), t + s * abs(min(z, 40))
    if activation == "sigmoid":
        return s, s * (1 - s), s
    if activation == "tanh":
        e = mpmath.exp(-2 * abs(bounded))
        slope = 4 * e / (1 + e) ** 2
        return mpmath.tanh(bounded), slope, slope if abs(z) < 32 else 1
    if found.name == "leaky_relu":
        return (z, 1, 1) if z > 0 else (z * parameter[0], parameter[0], abs(parameter[0]))
    if found.name == "elu":
        (alpha,) = parameter
        exp = alpha * mpmath.exp(bounded)
        return (z, 1, 1) if z > 0 else (alpha * mpmath.expm1(bounded), exp, exp)
    if activation == "hardsigmoid":
        return min(max(z + 3, 0), 6) / 6, mpmath.mpf(-3 < z < 3) / 6, 1
    if activation == "gelu":
        bounded = max(-100, min(z, 100))
        cdf, pdf = mpmath.erfc(-bounded / mpmath.sqrt(2)) / 2, mpmath.npdf(bounded)
        return z * cdf, cdf + z * pdf, cdf + abs(z) * pdf
    if activation == "hardswish":
        inside = -3 < z < 3
        line = z / 3 + mpmath.mpf(1) / 2
        return z * (min(z + 3, 6) if z > -3 else 0) / 6, line if inside else int(z > 0), abs(z) + 1
    top = 6 if activation == "relu6" else mpmath.inf
    return min(max(z, 0), top), int(0 < z < top), 1


def torch_activate(z, activation):
    """mp_activate() of the elements of a float64 tensor, as three tensors."""
    found, parameter = parse(activation)
    inside = (-3 < z) & (z < 3)
    s = z.sigmoid()
    if activation == "silu":
        return z * s, s * (1 + z * (1 - s)), s * (1 + z.clamp(max=40).abs())
    if activation == "gelu":
        cdf = torch.special.erfc(-z * 0.5**0.5) / 2
        pdf = (-z * z / 2).exp() / (2 * torch.pi) ** 0.5
        return z * cdf, cdf + z * pdf, cdf + z.abs() * pdf
    if activation == "mish":
        t = torch.tanh(torch.log1p(z.exp()))
        return z * t, t + z * s * (1 - t * t), t + s * z.clamp(max=40).abs()
    if activation == "sigmoid":
        return s, s * (1 - s), s
    if activation == "tanh":
        slopes = 4 * (-2 * z.abs()).exp() / (1 + (-2 * z.abs()).exp()) ** 2
        return z.tanh(), slopes, torch.where(z.abs() < 32, slopes, 1)
    if found.name == "leaky_relu":
        slopes = torch.where(z > 0, 1, parameter[0]).double()
        return z * slopes, slopes, slopes.abs()
    if found.name == "elu":
        slopes = torch.where(z > 0, 1, parameter[0] * z.exp())
        return by_torch(activation, z), slopes, slopes
    if activation == "hardsigmoid":
        return (z + 3).clamp(0, 6) / 6, inside.double() / 6, torch.ones_like(z)
    if activation == "hardswish":
        line = torch.where(inside, z / 3 + 0.5, (z > 0).double())
        return torch.where(inside, z * (z + 3) / 6, z.relu()), line, z.abs() + 1
    y = by_torch(activation, z)
    top = 6 if activation == "relu6" else INF
    return y, ((z > 0) & (z < top)).double(), torch.ones_like(z)


def exact(x, activation):
    """What torch_activate gives, for float64 rounded from more digits."""
    z = x.double()
    if x.dtype != torch.float64:
        return torch_activate(z, activation)
    with mpmath.workdps(40):
        values = [mp_activate(mpmath.mpf(v), activation) for v in z.tolist()]
    return [torch.tensor([float(v[i]) for v in values], dtype=torch.float64) for i in range(3)]


def assert_within(got, expected, allowed, x):
    wrong = ~((got.double() - expected).abs() <= allowed)
    assert not wrong.any(), (
        f"{int(wrong.sum())} of {x.numel()} elements, first at {x[wrong][0].item()!r}: "
        f"{got[wrong][0].item()!r}, not {expected[wrong][0].item()!r}"
    )


@activations
@dtypes
def test_against_more_digits(dtype, activation):
    """Most to 1.5 eps, as torch's silu is; tanh and mish, of more steps, to 2 and 2.5; gelu is
    ill-conditioned: exp(-z * z / 2) magnifies the rounding of z * z. Subnormals to 1.5 grains."""
    x = inputs(dtype)
    y, slopes, terms = exact(x, activation)
    accumulator = torch.promote_types(dtype, torch.float32)
    info, z = torch.finfo(dtype), x.double()
    factors = {"relu": 0, "relu6": 0, "gelu": 3 + z.clamp(-40, 40) ** 2, "tanh": 2, "mish": 2.5}
    eps = factors.get(activation, 1.5) * torch.finfo(accumulator).eps
    narrowing = 0 if dtype == accumulator else info.eps / 2
    grain = 1.5 * info.smallest_normal * info.eps
    grains = grain * (1 + z.abs().clamp(max=800))  # of a factor of z
    grain = {"relu": 0, "relu6": 0, "gelu": grains}.get(activation, grain)
    assert_within(forward(x, activation), y, (eps + narrowing) * y.abs() + grain, x)
    assert_within(slope(x, activation), slopes, (2 * eps + narrowing) * terms + grains, x)
    if dtype in (torch.float32, torch.float64):  # the oracle's formulas are of up to five roundings
        eps = eps if activation in ("relu", "relu6", "gelu") else 2.5 * info.eps
        assert_within(forward(x, activation, REFERENCE), y, eps * y.abs() + grains, x)
        assert_within(slope(x, activation, REFERENCE), slopes, 2 * eps * terms + grains, x)


@activations
@dtypes
def test_infinities_and_nan(dtype, activation):
    x = torch.tensor([INF, -INF, NAN], dtype=dtype)
    tops = {"relu6": 6, "sigmoid": 1, "tanh": 1, "hardsigmoid": 1}
    ends = {"tanh": -1, "leaky_relu": -INF, "leaky_relu(-0.5)": INF, "elu": -1, "elu(0.5)": -0.5}
    ends |= dict.fromkeys(("relu", "relu6", "sigmoid", "hardsigmoid"), 0)
    # torch's too
    expected = torch.tensor([tops.get(activation, INF), ends.get(activation, NAN), NAN])
    expected = expected.to(dtype)
    torch.testing.assert_close(forward(x, activation), expected, rtol=0, atol=0, equal_nan=True)
    assert slope(x, activation)[2].isnan() == (
        activation in ("silu", "gelu", "mish", "sigmoid", "tanh")
    )


def row(dtype):
    x = torch.randn(LONGEST).mul(4).to(dtype)
    x[::9] = -95
    return x


def alone(function, *rows):
    elements = zip(*(r.split(1) for r in rows), strict=True)
    return torch.cat([function(*(e.view(1, 1, 1, 1) for e in one)) for one in elements])


def assert_same_bits(got, expected, what):
    differ = (bits(got) != bits(expected)).nonzero().tolist()
    assert not differ, f"{what}: elements {differ}"


@activations
@dtypes
def test_the_same_bits_wherever_in_a_row(dtype, activation):
    x, dy = row(dtype), row(dtype)
    x[5], x[6] = -INF, NAN

    def activate(x):
        return CPU.activation_forward(x, activation).view(-1)

    def gradient(dy, x):
        return CPU.epilogue_backward(dy, x, activation)[0].view(-1)

    y, dz = alone(activate, x), alone(gradient, dy, x)
    layouts = {
        "pixels": lambda t: t.view(1, 1, 1, -1),
        "pixels apart": lambda t: torch.stack([t, t], 1).view(1, 1, 1, -1)[..., ::2],
        "channels": lambda t: t.view(1, -1, 1, 1),
    }
    for n in range(1, LONGEST + 1):
        for layout, place in layouts.items():
            assert_same_bits(activate(place(x[:n])), y[:n], f"{n} {layout}")
            assert_same_bits(gradient(place(dy[:n]), place(x[:n])), dz[:n], f"dz of {n} {layout}")


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("algorithm", CPUS)
@pytest.mark.parametrize("activation", ["silu", "elu(0.5)"])
def test_the_same_bits_after_a_convolution(activation, algorithm, channels_last):
    """The identity, and the identity plus a residual: their sums are exact."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    geometry = (1, 1), (0, 0), (1, 1)
    for dtype in DTYPES:
        x = row(dtype)
        y, y_of_twice = (forward(z, activation) for z in (x, 2 * x))
        for n in range(1, LONGEST + 1, 3):  # with vectors that are whole
            for size in ((1, n, 1, 3), (2, 3, 2, n)):
                place = (1, -1, 1, 1) if size[1] == n else (1, 1, 1, -1)
                z = x[:n].view(place).expand(size).contiguous(memory_format=layout)
                groups = size[1] if algorithm == "cpu:depthwise" else 1
                w = torch.eye(size[1]) if groups == 1 else torch.ones(groups, 1)
                w = w.to(dtype)[..., None, None]
                for residual, expected in ((None, y), (z, y_of_twice)):
                    got = CPUS[algorithm].conv2d_fprop(
                        z, w, None, residual, (*geometry, groups), activation
                    )
                    what = f"{dtype} {size}, {'no' if residual is None else 'a'} residual"
                    assert_same_bits(got, expected[:n].view(place).expand(size), what)


@once_for_each
def test_every_instruction_set(instruction_set, tmp_path, exhaustive):
    # float32 is what the other types but float64 are computed in.
    how = ["--exhaustive"] if exhaustive else ["-k", "float32"]
    check_under(instruction_set, tmp_path, __file__, *how)
