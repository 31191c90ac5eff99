"""Pooling against torch: NaN, ties, divisors and windows; layouts, dtypes, derivatives."""

import pytest
import torch
import torch.nn.functional as F

import fastconv
from fastconv.backends.cpu_pool2d import CpuPool2d

INF, NAN = float("inf"), float("nan")
DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
# (kernel_size, stride, padding, dilation, ceil_mode) and the reason to try it.
WINDOWS = {
    "resnet": (3, 2, 1, 1, False),
    "vgg": (2, 2, 0, 1, False),
    "overlapping": (3, 1, 1, 1, False),
    "gaps_between_windows": (2, (3, 4), 0, 1, False),
    "ceil": (3, 2, 1, 1, True),
    "ceil_last_window_dropped": (2, 5, 1, 1, True),
    "kernel_beyond_input": ((21, 3), 2, (10, 1), 1, False),
    "one_window_for_the_plane": ((11, 13), 1, 0, 1, False),
    "dilated": ((2, 3), (2, 1), 1, (3, 2), False),
    "rectangular": ((1, 5), (2, 3), (0, 2), 1, True),
}
LAYOUTS = {
    "nchw": lambda x: x,
    "nhwc": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "sliced": lambda x: x.new_full((2, 9, 13, 27), NAN)[:, 2 : 2 + x.shape[1], 1:12, 1::2].copy_(x),
    "expanded": lambda x: x[:, :1, :, :1].expand_as(x),
    "offset": lambda x: torch.cat([x.flatten(), x.flatten()])[3:][: x.numel()].view(x.shape),
}


def image(dtype=torch.float32, channels=5):
    return torch.randn(2, channels, 11, 13).to(dtype)


def channel_counts(layout):
    """70 is more than a block of vector lanes, and no multiple of one."""
    return (5, 70) if layout == "nhwc" else (5,)


def integers(size, low, high, dtype):
    return torch.randint(low, high, size).to(dtype)


def passes(function, x, dy=None, *args, **kwargs):
    """(y, dx) or (y, indices, dx)."""
    x = x.detach().requires_grad_()
    y = function(x, *args, **kwargs)
    outputs = y if isinstance(y, tuple) else (y,)
    dy = torch.ones_like(outputs[0]) if dy is None else dy
    return *(o.detach() for o in outputs), torch.autograd.grad(outputs[0], x, dy)[0]


def assert_same(got, expected):
    for a, e in zip(got, expected, strict=True):
        torch.testing.assert_close(a, e, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_max_pool_is_exactly_torchs(windows, layout, backend):
    for dtype in DTYPES:
        for channels in channel_counts(layout):
            # Small integers: many ties, and sums of gradients that every dtype holds exactly.
            x = LAYOUTS[layout](integers((2, channels, 11, 13), -2, 3, dtype))
            expected_y, expected_indices = F.max_pool2d(x, *windows, return_indices=True)
            dy = integers(expected_y.shape, 0, 3, dtype)
            got = passes(fastconv.max_pool2d, x, dy, *windows, True, backend=backend)
            expected = passes(F.max_pool2d, x, dy, *windows, True)
            assert_same(got, expected)
            assert_same([fastconv.max_pool2d(x, *windows, backend=backend)], [expected_y])
            assert got[0].stride() == expected_y.stride()
            assert got[1].stride() == expected_indices.stride()


@pytest.mark.parametrize("layout", ["nchw", "nhwc"])
@pytest.mark.parametrize("windows", WINDOWS.values(), ids=WINDOWS)
def test_nan_and_infinity_follow_torchs_rule(windows, layout):
    for share in (0.1, 0.7):
        x = image(channels=20)
        x[torch.rand_like(x) < share] = -INF
        x[torch.rand_like(x) < share / 2] = NAN
        x[torch.rand_like(x) < 0.05] = INF
        x[0, 0] = -INF  # windows of nothing else have their first element's index
        x = LAYOUTS[layout](x)
        got, expected = (
            f(x, *windows, return_indices=True) for f in (fastconv.max_pool2d, F.max_pool2d)
        )
        assert_same(got, expected)
        assert_same([fastconv.max_pool2d(x, *windows)], expected[:1])
        assert_same(fastconv.adaptive_max_pool2d(x, 1, True), F.adaptive_max_pool2d(x, 1, True))


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "windows",
    [w for w in WINDOWS.values() if w[3] == 1],
    ids=[name for name, w in WINDOWS.items() if w[3] == 1],
)
@pytest.mark.parametrize("backend", ["cpu", "reference"])
def test_avg_pool_divides_as_torch(windows, layout, backend):
    kernel, stride, padding, _, ceil = windows
    for rule in ((True, None), (False, None), (True, 4), (False, -2)):
        for channels in channel_counts(layout):
            x = LAYOUTS[layout](integers((2, channels, 11, 13), -8, 9, torch.float32))
            y = F.avg_pool2d(x, kernel, stride, padding, ceil, *rule)
            dy = torch.randn_like(y)
            args = (kernel, stride, padding, ceil, *rule)
            got = passes(fastconv.avg_pool2d, x, dy, *args, backend=backend)
            expected = passes(F.avg_pool2d, x, dy, *args)
            assert_same(got[:1], expected[:1])  # integer sums are exact: so is what is divided
            torch.testing.assert_close(got[1], expected[1], rtol=1e-5, atol=1e-6)
            assert got[0].stride() == y.stride()


def test_divisor_is_clipped_to_the_padding():
    ones = torch.ones(1, 1, 1, 6)
    y = fastconv.avg_pool2d(ones, (1, 3), (1, 2), (0, 1), ceil_mode=True)
    assert y.flatten().tolist() == pytest.approx([2 / 3, 1, 1, 1 / 2])


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("size", [1, (1, 4), (7, 1), (3, 4), (11, 13), (23, 30), (None, 5)])
def test_adaptive_pools(size, layout):
    for dtype in (torch.float64, torch.float32):
        for channels in channel_counts(layout):
            x = LAYOUTS[layout](integers((2, channels, 11, 13), -3, 4, dtype))
            assert_same(
                fastconv.adaptive_max_pool2d(x, size, True), F.adaptive_max_pool2d(x, size, True)
            )
            for name in ("adaptive_max_pool2d", "adaptive_avg_pool2d"):
                dy = torch.randn_like(getattr(F, name)(x, size))
                for backend in ("cpu", "reference"):
                    got = passes(getattr(fastconv, name), x, dy, size, backend=backend)
                    expected = passes(getattr(F, name), x, dy, size)
                    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
                    assert got[0].stride() == expected[0].stride()


def test_adaptive_pools_to_nothing():
    for function in (fastconv.adaptive_max_pool2d, fastconv.adaptive_avg_pool2d):
        y, dx = passes(function, image(), None, (0, 2))
        assert y.shape == (2, 5, 0, 2) and torch.equal(dx, torch.zeros(2, 5, 11, 13))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bit_averages_are_rounded_once(dtype):
    for layout in ("nchw", "nhwc"):
        x = LAYOUTS[layout](image(dtype, 70))
        exact = F.avg_pool2d(x.float(), 3, 2, 1).to(dtype)
        torch.testing.assert_close(
            fastconv.avg_pool2d(x, 3, 2, 1), exact, rtol=0, atol=torch.finfo(dtype).eps
        )
        exact = F.adaptive_avg_pool2d(x.float(), 1).to(dtype)
        torch.testing.assert_close(
            fastconv.adaptive_avg_pool2d(x, 1), exact, rtol=0, atol=torch.finfo(dtype).eps
        )


CALLS = {
    "max": lambda x: fastconv.max_pool2d(x, 3, 2, 1),
    "max_dilated": lambda x: fastconv.max_pool2d(x, 2, 1, 1, 2),
    "avg": lambda x: fastconv.avg_pool2d(x, 3, 2, 1, True, False),
    "avg_divisor": lambda x: fastconv.avg_pool2d(x, (2, 3), 1, divisor_override=-5),
    "adaptive_max": lambda x: fastconv.adaptive_max_pool2d(x, (3, 7)),
    "adaptive_avg": lambda x: fastconv.adaptive_avg_pool2d(x, (2, 6)),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
def test_derivatives_of_every_mode(call, strict):
    # Distinct values far apart: finite differences never change a maximum.
    x = torch.randperm(2 * 2 * 5 * 4).view(2, 2, 5, 4).double().requires_grad_()
    assert torch.autograd.gradcheck(
        call, x, check_forward_ad=True, check_batched_grad=True, check_batched_forward_grad=True
    )
    assert torch.autograd.gradgradcheck(call, x, check_fwd_over_rev=True, check_rev_over_rev=True)
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


def test_indices_are_computed_only_where_they_are_wanted(monkeypatch):
    wanted = []
    kernel = CpuPool2d.max_pool2d_fwd
    monkeypatch.setattr(
        CpuPool2d,
        "max_pool2d_fwd",
        lambda self, x, windows, with_indices: (
            wanted.append(with_indices),
            kernel(self, x, windows, with_indices),
        )[1],
    )
    x = image()
    fastconv.max_pool2d(x, 3)
    with torch.no_grad():
        fastconv.max_pool2d(x.requires_grad_(), 3)
    assert wanted == [False, False]
    fastconv.max_pool2d(x, 3)
    fastconv.max_pool2d(x.detach(), 3, return_indices=True)
    assert wanted == [False, False, True, True]


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
    results = [
        fastconv.max_pool2d(x, kernel, 1, padding, 2, return_indices=True, backend=name)
        for name in ("cpu", "reference")
    ]
    for y, indices in results:
        assert y.isneginf().all() and y.numel() == 10
        assert ((indices >= 0) & (indices < 5)).all()
    assert torch.equal(results[0][1], results[1][1])
