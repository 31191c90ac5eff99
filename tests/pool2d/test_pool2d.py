"""Pooling against torch: NaN, ties, divisors and windows; layouts, dtypes, derivatives."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from devices import CUDA, TRITON, TRITON_DEVICE, device_of, in_turn, skip_half, triton_missing
from pool_problems import LAYOUTS, WINDOWS

import fastconv
from fastconv._native import cuda
from fastconv.backends.pool2d import Pool2dBackend

INF, NAN = float("inf"), float("nan")
BACKENDS = ["cpu", "reference", CUDA, TRITON]
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
ADAPTIVE = (1, (1, 4), (7, 1), (3, 4), (11, 13), (23, 30), (None, 5))


def image(dtype=torch.float32, channels=5):
    return torch.randn(2, channels, 11, 13).to(dtype)


def channel_counts(layout, backend="cpu"):
    """70 is more than a block of vector lanes, and no multiple of one; 16 are whole vectors."""
    if layout != "nhwc":
        return (5,)
    return {"cuda": (5, 16), "triton": (16,)}.get(backend, (5, 70))


def turn(*names):
    """A number for in_turn from the names of a test's parameters."""
    return sum(list(of).index(name) for of, name in names)


def integers(size, low, high, dtype):
    return torch.randint(low, high, size).to(dtype)


def passes(function, x, dy=None, *args, **kwargs):
    """(y, dx) or (y, indices, dx)."""
    x = x.detach().requires_grad_()
    y = function(x, *args, **kwargs)
    outputs = y if isinstance(y, tuple) else (y,)
    dy = torch.ones_like(outputs[0]) if dy is None else dy.to(x.device)
    return *(o.detach() for o in outputs), torch.autograd.grad(outputs[0], x, dy)[0]


def assert_same(got, expected):
    for a, e in zip(got, expected, strict=True):
        torch.testing.assert_close(a.cpu(), e, rtol=0, atol=0, equal_nan=True)


def assert_close(got, expected, rtol, atol):
    got = [a.cpu() for a in got]
    torch.testing.assert_close(got, list(expected), rtol=rtol, atol=atol)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_max_pool_is_exactly_torchs(name, layout, backend, exhaustive):
    windows = WINDOWS[name]
    # Without indices backward may know the places of the maxima in another form.
    cases = list(itertools.product((True, False), DTYPES))
    number = turn((WINDOWS, name), (LAYOUTS, layout))
    if layout not in ("nchw", "nhwc"):  # these two meet every dtype
        skip_half(backend, number, exhaustive)
    for indices, dtype in in_turn(cases, backend, number, exhaustive):
        for channels in channel_counts(layout, backend):
            # Small integers: many ties, and sums of gradients that every dtype holds exactly.
            image = integers((2, channels, 11, 13), -2, 3, dtype)
            x = LAYOUTS[layout](image)
            expected = F.max_pool2d(x, *windows, return_indices=True)
            dy = integers(expected[0].shape, 0, 3, dtype)
            expected_dx = passes(F.max_pool2d, x, dy, *windows)[1]
            x = LAYOUTS[layout](image.to(device_of(backend)))
            *got, dx = passes(fastconv.max_pool2d, x, dy, *windows, indices, backend=backend)
            assert_same([*got, dx], [*expected[: 1 + indices], expected_dx])
            if not indices:
                got = [fastconv.max_pool2d(x, *windows, backend=backend)]
                assert_same(got, expected[:1])
            for a, e in zip(got, expected):
                assert a.stride() == e.stride()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("name", WINDOWS)
@pytest.mark.parametrize("backend", BACKENDS)
def test_nan_and_infinity_follow_torchs_rule(name, layout, backend, exhaustive):
    windows = WINDOWS[name]
    cases = ((0.1, torch.float32), (0.7, torch.float32), (0.3, torch.bfloat16))
    number = turn((WINDOWS, name), (LAYOUTS, layout))
    skip_half(backend, number, exhaustive)
    for share, dtype in in_turn(cases, backend, number // 2, exhaustive):
        x = image(channels=20 if backend in ("cpu", "reference") else 16)
        x[torch.rand_like(x) < share] = -INF
        x[torch.rand_like(x) < share / 2] = NAN
        x[torch.rand_like(x) < 0.05] = INF
        x[0, 0] = -INF  # windows of nothing else have their first element's index
        x = LAYOUTS[layout](x.to(dtype))
        on_device = x.to(device_of(backend))
        expected = F.max_pool2d(x, *windows, return_indices=True)
        with fastconv.backend(backend):
            assert_same(fastconv.max_pool2d(on_device, *windows, return_indices=True), expected)
            assert_same([fastconv.max_pool2d(on_device, *windows)], expected[:1])
            whole = fastconv.adaptive_max_pool2d(on_device, 1, True)
        assert_same(whole, F.adaptive_max_pool2d(x, 1, True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", [name for name, w in WINDOWS.items() if w[3] == 1])
@pytest.mark.parametrize("backend", BACKENDS)
def test_avg_pool_divides_as_torch(name, layout, backend, exhaustive):
    kernel, stride, padding, _, ceil = WINDOWS[name]
    rules = ((True, None), (False, None), (True, 4), (False, -2))
    number = turn((WINDOWS, name), (LAYOUTS, layout))
    skip_half(backend, number, exhaustive)
    for rule in in_turn(rules, backend, number // 2, exhaustive):
        for channels in channel_counts(layout, backend):
            image = integers((2, channels, 11, 13), -8, 9, torch.float32)
            x = LAYOUTS[layout](image)
            y = F.avg_pool2d(x, kernel, stride, padding, ceil, *rule)
            dy = torch.randn_like(y)
            args = (kernel, stride, padding, ceil, *rule)
            expected = passes(F.avg_pool2d, x, dy, *args)
            x = LAYOUTS[layout](image.to(device_of(backend)))
            got = passes(fastconv.avg_pool2d, x, dy, *args, backend=backend)
            assert_same(got[:1], expected[:1])  # integer sums are exact: so is what is divided
            assert_close(got[1:], expected[1:], 1e-5, 1e-6)
            assert got[0].stride() == y.stride()


@pytest.mark.parametrize("backend", BACKENDS)
def test_divisor_is_clipped_to_the_padding(backend):
    ones = torch.ones(1, 1, 1, 6, device=device_of(backend))
    windows = ((1, 3), (1, 2), (0, 1), True)
    y, dx = passes(fastconv.avg_pool2d, ones, None, *windows, backend=backend)
    assert y.flatten().tolist() == pytest.approx([2 / 3, 1, 1, 1 / 2])
    assert dx.flatten().tolist() == pytest.approx([1 / 3, 2 / 3, 1 / 3, 2 / 3, 1 / 3, 5 / 6])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", ADAPTIVE)
@pytest.mark.parametrize("backend", BACKENDS)
def test_adaptive_pools(size, layout, backend, exhaustive):
    dtypes = torch.float64, torch.float32
    number = turn((ADAPTIVE, size), (LAYOUTS, layout))
    skip_half(backend, number, exhaustive)
    for dtype in in_turn(dtypes, backend, number // 2, exhaustive):
        for channels in channel_counts(layout, backend):
            image = integers((2, channels, 11, 13), -3, 4, dtype)
            x, on_device = (LAYOUTS[layout](t) for t in (image, image.to(device_of(backend))))
            indices = fastconv.adaptive_max_pool2d(on_device, size, True, backend=backend)
            assert_same(indices, F.adaptive_max_pool2d(x, size, True))
            for name in ("adaptive_max_pool2d", "adaptive_avg_pool2d"):
                dy = torch.randn_like(getattr(F, name)(x, size))
                got = passes(getattr(fastconv, name), on_device, dy, size, backend=backend)
                expected = passes(getattr(F, name), x, dy, size)
                assert_close(got, expected, 1e-5, 1e-5)
                assert got[0].stride() == expected[0].stride()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["cpu", CUDA, TRITON])
def test_16_bit_averages_are_rounded_once(dtype, backend):
    rounding = torch.finfo(dtype).eps
    for layout in ("nchw", "nhwc"):
        x = LAYOUTS[layout](image(dtype, 70 if backend == "cpu" else 16))
        on_device = x.to(device_of(backend))
        with fastconv.backend(backend):
            got = (
                fastconv.avg_pool2d(on_device, 3, 2, 1),
                fastconv.adaptive_avg_pool2d(on_device, 1),
            )
        exact = F.avg_pool2d(x.float(), 3, 2, 1), F.adaptive_avg_pool2d(x.float(), 1)
        assert_close(got, [t.to(dtype) for t in exact], 0, rounding)


CALLS = {
    "max": lambda x: fastconv.max_pool2d(x, 3, 2, 1),
    "max_dilated": lambda x: fastconv.max_pool2d(x, 2, 1, 1, 2),
    "avg": lambda x: fastconv.avg_pool2d(x, 3, 2, 1, True, False),
    "avg_divisor": lambda x: fastconv.avg_pool2d(x, (2, 3), 1, divisor_override=-5),
    "adaptive_max": lambda x: fastconv.adaptive_max_pool2d(x, (3, 7)),
    "adaptive_avg": lambda x: fastconv.adaptive_avg_pool2d(x, (2, 6)),
}


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("backend", ["cpu", CUDA, TRITON])
def test_derivatives_of_every_mode(name, backend, strict, exhaustive):
    skip_half(backend, list(CALLS).index(name), exhaustive)
    call = CALLS[name]
    with fastconv.backend(backend):
        check_derivatives(call, device_of(backend), backend != "cpu")


def check_derivatives(call, device, fast=False):
    # Distinct values far apart: finite differences never change a maximum.
    x = torch.randperm(2 * 2 * 5 * 4, device=device).view(2, 2, 5, 4).double()
    x = (x[:1] if fast else x).requires_grad_()
    assert torch.autograd.gradcheck(
        call,
        x,
        check_forward_ad=True,
        check_batched_grad=not fast,
        check_batched_forward_grad=not fast,
        fast_mode=fast,
    )
    assert torch.autograd.gradgradcheck(
        call, x, check_fwd_over_rev=not fast, check_rev_over_rev=True, fast_mode=fast
    )
    torch.testing.assert_close(
        torch.func.vmap(call, 1, 1)(x), torch.stack([call(x[:, i]) for i in range(2)], 1)
    )
    hessian = torch.func.hessian(lambda t: call(t).square().sum())(x.detach()[:1, :1])
    assert hessian.abs().sum() > 0


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
def test_threads_change_no_bit(call, layout, threads):
    x = LAYOUTS[layout](torch.randn(3, 40, 30, 34)).requires_grad_()
    results = []
    for n in (1, 2, 5):
        threads(n)
        y = call(x)
        results.append([y, *torch.autograd.grad(y, x, torch.full_like(y, 0.3))])
    for other in results[1:]:
        assert_same(other, results[0])


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_unbatched_and_empty_batches(call, strict):
    x = image()
    assert_same([call(x[0])], [call(x)[0]])
    empty = x[:0].requires_grad_()
    y = call(empty)
    assert y.shape == (0, *call(x).shape[1:])
    assert torch.autograd.grad(y.sum(), empty)[0].shape == empty.shape


def test_stride_defaults_to_the_kernel():
    x = image()
    for stride in (None, [], ()):
        assert_same([fastconv.max_pool2d(x, 3, stride)], [fastconv.max_pool2d(x, 3, 3)])
        assert_same([fastconv.avg_pool2d(x, 3, stride)], [fastconv.avg_pool2d(x, 3, 3)])


@pytest.mark.parametrize(
    "backend, saved",
    [
        ("cpu", torch.int64),
        pytest.param("cuda", torch.int8, marks=CUDA.marks),
        pytest.param("triton", torch.int8, marks=TRITON.marks),
    ],
)
def test_places_are_computed_only_where_they_are_wanted(backend, saved, monkeypatch):
    wanted = []
    kernel = Pool2dBackend.max_pool2d_fwd
    monkeypatch.setattr(
        Pool2dBackend,
        "max_pool2d_fwd",
        lambda self, x, windows, dtype: (
            wanted.append(dtype),
            kernel(self, x, windows, dtype),
        )[1],
    )
    x = image().to(device_of(backend))
    with fastconv.backend(backend):
        fastconv.max_pool2d(x, 3)
        with torch.no_grad():
            fastconv.max_pool2d(x.requires_grad_(), 3)
        assert wanted == [None, None]
        fastconv.max_pool2d(x, 3)
        fastconv.max_pool2d(x.detach(), 3, return_indices=True)
        fastconv.max_pool2d(x, (11, 13))
        fastconv.adaptive_max_pool2d(x, 3)
    assert wanted[2:] == [saved, torch.int64, torch.int64, torch.int64]


def test_sizes_beyond_32_bits_are_errors_as_in_torch():
    x = torch.randn(1, 1, 4, 4)
    for kwargs in (
        {"padding": 4 * 10**18, "dilation": 8 * 10**18},
        {"stride": 2**31},
        {"padding": 2**62 - 1, "dilation": 2**63 - 3},
    ):
        with pytest.raises(RuntimeError, match="32-bit"):
            fastconv.max_pool2d(x, 2, **kwargs)


def test_average_pooling_has_no_dilation_even_as_a_raw_op():
    windows = ([2, 2], [2, 2], [0, 0], [2, 2], False, [])
    with pytest.raises(RuntimeError, match="dilation"):
        torch.ops.fastconv.pool2d_avg_bwd(
            torch.randn(1, 1, 2, 2), [1, 1, 5, 5], False, *windows, True, 0, "cpu"
        )


@pytest.mark.parametrize(
    "size, kernel, padding", [((1, 5), (2, 1), (1, 0)), ((5, 1), (1, 2), (0, 1))]
)
def test_windows_without_elements_have_an_index_in_the_plane(size, kernel, padding):
    """Dilation can put every tap into the padding, here -1 and 1 of one row; torch's index leaves
    the plane then."""
    x = torch.randn(1, 2, *size)
    names = ["cpu", "reference"] + ["cuda"] * (cuda is not None and cuda.is_emulated)
    names += ["triton"] * (not triton_missing and TRITON_DEVICE == "cpu")
    results = [
        fastconv.max_pool2d(x, kernel, 1, padding, 2, return_indices=True, backend=name)
        for name in names
    ]
    for y, indices in results:
        assert y.isneginf().all() and y.numel() == 10
        assert ((indices >= 0) & (indices < 5)).all()
    assert all(torch.equal(results[0][1], indices) for _, indices in results)


@pytest.mark.parametrize("backend", [CUDA, TRITON])
def test_the_offset_of_a_window_without_elements(backend):
    x = torch.randn(1, 2, 1, 5, device=device_of(backend))
    windows = ([2, 1], [1, 1], [1, 0], [2, 1], False, [])  # rows -1 and 1 of one row
    y, places = torch.ops.fastconv.pool2d_max_fwd(x, *windows, True, backend)
    assert places.dtype == torch.int8 and (places == -1).all() and y.isneginf().all()
    dx = torch.ops.fastconv.pool2d_max_bwd(y, places, list(x.shape), False, *windows, backend)
    assert (dx == 0).all()
