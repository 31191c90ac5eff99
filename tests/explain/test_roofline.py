"""What a device can do, as fastconv.explain and the benchmarks measure it."""

import math

import pytest
import torch

from fastconv.explanation import roofline as roofline_module
from fastconv.explanation.roofline import Roofline, roofline


def test_copies_rates_are_those_of_the_size():
    limits = Roofline(((1 << 10, 4e9), (1 << 20, 8e9), (1 << 30, 1e9)), 1e12)
    assert limits.flops_us(1e6) == pytest.approx(1.0)
    # What is small is held to the fastest copy, however slow a small one was.
    assert limits.bytes_us(100) == pytest.approx(100 / 8e9 * 1e6)
    assert limits.bytes_us(1 << 20) == pytest.approx((1 << 20) / 8e9 * 1e6)
    assert limits.bytes_us(1 << 22) == pytest.approx((1 << 22) / 1e9 * 1e6)
    assert limits.bytes_us(1 << 34) == pytest.approx((1 << 34) / 1e9 * 1e6)
    assert limits.floor_us(1e6, 100) == pytest.approx(1.0)


def test_a_roofline_is_measured_once(monkeypatch, threads):
    measured = []
    monkeypatch.setattr(
        roofline_module, "copy_rate", lambda device, size: measured.append("copy") or 1e9
    )
    monkeypatch.setattr(
        roofline_module, "product_rate", lambda *key: measured.append(key[1]) or 1e12
    )
    roofline_module._copies.cache_clear()
    roofline_module._products.cache_clear()
    try:
        first = roofline("cpu", torch.float32)
        first_count = len(measured)
        assert roofline("cpu", torch.float32) == first and len(measured) == first_count
        roofline("cpu", torch.bfloat16)
        assert set(measured[first_count:]) == {torch.bfloat16, torch.float32}
        count = len(measured)
        threads(torch.get_num_threads() + 1)
        roofline("cpu", torch.float32)
        for key in ("copy", torch.float32):
            assert measured[count:].count(key) == measured[:first_count].count(key) > 0
    finally:
        roofline_module._copies.cache_clear()
        roofline_module._products.cache_clear()


def test_rates_are_plausible_and_leave_no_trace():
    generator = torch.get_rng_state()
    with torch.autocast("cpu", torch.bfloat16):
        limits = roofline("cpu", torch.float64)
    assert torch.equal(torch.get_rng_state(), generator)
    assert 0 < limits.product < math.inf
    assert all(0 < rate < math.inf for _, rate in limits.copies)
    assert roofline("meta", torch.float32) is None
    assert roofline("cpu", torch.int64) is None
