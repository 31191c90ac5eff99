"""The text of fastconv.explain: floors, order, sums, reasons, columns."""

import dataclasses

import pytest
import torch
from torch import nn

import fastconv
from fastconv.bench.models.mobilenet import MobileNetV2
from fastconv.explanation.reason import why_slow
from fastconv.explanation.roofline import Roofline
from fastconv.explanation.rows import layer_time
from fastconv.explanation.text import table


@pytest.fixture
def rows(monkeypatch):
    """Rows of four layers on a device of 100 GFLOP/s and 10 GB/s; each takes 1000 us."""
    monkeypatch.setattr(
        "fastconv.explanation.rows.roofline", lambda *_: Roofline(((1 << 20, 10e9),), 100e9)
    )
    model = nn.Sequential(
        fastconv.Conv2d(3, 16, 3),
        fastconv.Conv2d(16, 16, 3, groups=16),
        fastconv.Conv2d(16, 32, 1),
        fastconv.MaxPool2d(2),
    )
    decisions = fastconv.explain(model, torch.randn(2, 3, 130, 130), measure=False)
    for decision in decisions:
        decision.time_us = 1000.0
    return [layer_time(decision) for decision in decisions]


def with_times(rows, *times):
    return [dataclasses.replace(row, time_us=time) for row, time in zip(rows, times)]


def test_floors_are_of_bytes_and_flops(rows):
    stem = rows[0]
    assert stem.flops == 2 * 2 * 16 * 128 * 128 * 27
    assert stem.flops_us == pytest.approx(stem.flops / 100e9 * 1e6)
    assert stem.bytes_us == pytest.approx(stem.bytes / 10e9 * 1e6)
    assert [row.bound for row in rows] == ["FLOPs", "bytes", "bytes", "bytes"]


def test_the_three_slowest_come_in_order(rows):
    text = table(with_times(rows, 2000.0, 1000.0, 6000.0, 1000.5), 5, [])
    lines = text[text.index("slowest:") :].splitlines()[1:]
    starts = [line.split(": ")[0].strip() for line in lines if not line.startswith("    ")]
    assert starts == ["2", "0", "3"]
    assert "2: 60 % of the time" in text and "0: 20 % of the time" in text


def test_totals_are_sums(rows):
    text = table(with_times(rows, 1000.0, 2000.0, 3000.0, 4000.0), 5, [])
    (total,) = (line.split() for line in text.splitlines() if line.startswith("total"))
    floor = sum(row.floor_us for row in rows)
    assert total == [
        "total",
        "4",
        "calls",
        f"{sum(row.flops for row in rows) / 1e9:.4f}",
        f"{sum(row.bytes for row in rows) / 1e6:.2f}",
        f"{floor:.1f}",
        "10000.0",
        f"{100 * floor / 10000:.0f}",
    ]


def test_no_layer_is_blamed_for_what_other_programs_did(rows):
    calm, disturbed = (table(rows, 5, [], disturbance) for disturbance in ("", "it was busy"))
    assert "disturbed" not in calm and rows[2].reason in calm
    assert "medians of 5 runs, disturbed: it was busy" in disturbed
    assert "25 % of the time" in disturbed
    assert all(row.reason not in disturbed for row in rows)


def test_bfloat16_says_where_the_cpu_has_instructions_for_it(rows, monkeypatch):
    halves = [dataclasses.replace(row, dtype=torch.bfloat16) for row in rows]
    elsewhere = [dataclasses.replace(row, backend="cuda") for row in halves]
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for supported in (False, True):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: supported)  # noqa: B023
        texts = [table(some, 5, []) for some in (halves, rows, elsewhere)]
        assert ["This CPU has instructions" in text for text in texts] == [supported, False, False]


def test_reasons_follow_from_the_row(rows):
    stem, depthwise, pointwise, pool = rows
    slow = {"bytes_us": 100.0, "flops_us": 50.0}

    def why(row, **changes):
        return why_slow(dataclasses.replace(row, **changes))

    assert "only 27 terms" in why(stem, **slow) and "its bytes set" in why(stem, **slow)
    assert "its FLOPs set" in why(stem, bytes_us=100.0, flops_us=150.0)
    assert "only" not in why(depthwise, **slow) and "9 multiply-adds" in why(depthwise, **slow)
    for row in (depthwise, pointwise):
        assert "channels_last" in why(row, **slow)
        assert "channels_last" not in why(row, **slow, channels_last=True)
    assert "channels_last" not in why(pool, **slow)
    assert "any call costs" in why(pool, bytes_us=5.0, flops_us=1.0, time_us=60.0)
    assert "any call costs" not in why(pool, bytes_us=5.0, flops_us=1.0)
    assert "near its floor" in why(pool, bytes_us=900.0)
    assert "past its floor" in why(pool, bytes_us=2000.0)
    assert "no kernel" in why(pool, backend="ATen", algorithm="", reason="cpu: because")
    for row in rows:
        assert row.reason in why(row, **slow)


def test_tables_columns_are_aligned_and_fit():
    explanation = fastconv.explain(MobileNetV2().eval(), torch.randn(1, 3, 32, 32))
    assert not explanation.rows()
    model = fastconv.convert(MobileNetV2().eval())
    explanation = fastconv.explain(model, torch.randn(1, 3, 32, 32))
    lines = str(explanation).split("\n\n")[1].splitlines()
    rules = [index for index, line in enumerate(lines) if set(line) == {"-"}]
    assert len(lines) == len(explanation) + 4 and len(explanation) == 53
    assert rules == [1, len(lines) - 2]
    assert {len(line) for line in lines} == {len(lines[0])}  # the last column is of numbers
    assert max(map(len, str(explanation).splitlines())) <= 140
    assert "features.1.conv.0.0" in lines[3] and "avgpool" in lines[-3]


def test_a_single_layer_prints_as_a_list():
    text = str(fastconv.explain(fastconv.Conv2d(3, 4, 3), torch.randn(2, 3, 10, 10)))
    assert text.startswith("conv2d float32 on cpu: cpu\n  ConvProblem(")
    assert " % of the roofline floor of " in text and "slowest" not in text
