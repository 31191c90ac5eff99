"""Predicted times: the arithmetic by hand, a kernel for every plan, the committed tables, and the
model's error once there are measurements."""

import csv
import dataclasses
import math
from pathlib import Path

import pytest
import torch

from fastconv import bench
from fastconv.bench import predict
from fastconv.bench.cases.selection import select_cases
from fastconv.bench.measure.record import Row, append_csv
from fastconv.prediction.kernel_speeds import KernelSpeed, kernel_speed
from fastconv.prediction.machines import MACHINES
from fastconv.prediction.schedule import Launch, launch_prediction

H100 = MACHINES["h100"]
IDLE = dict.fromkeys(("tensor", "shared", "fma", "alu", "issue"), 0.0)


def kernel(**changes):
    """One of 256 threads, two blocks of which share an SM."""
    speed = KernelSpeed(
        "made<up>", 256, 2, 100, 1 << 20, 0, IDLE | {"tensor": 400.0}, 0.0, 0.0, 0, 0.0, 0
    )
    return dataclasses.replace(speed, **changes)


def us(clocks):
    return clocks / H100.clock_hz * 1e6 + H100.launch_us


SMS = 132
LAUNCHES = {
    # Two waves of blocks, each block with a tensor core's 400 clocks for each of 100 turns.
    "tensor": (Launch(kernel(), 4 * SMS, 100, 0), us(4 * 100 * 400)),
    # One block more goes to one SM, which the others wait for.
    "shared": (
        Launch(kernel(clocks=IDLE | {"shared": 400.0}), 4 * SMS + 1, 100, 0),
        us(5 * 100 * 400),
    ),
    "epilogue": (
        Launch(kernel(once_clocks=600.0, store_clocks=100.0), 4 * SMS, 2, 0, store_turns=32),
        us(4 * (2 * 400 + 600 + 32 * 100)),
    ),
    # A block alone on its SM: its warps wait for their own 100 instructions a turn.
    "latency": (Launch(kernel(clocks=IDLE | {"issue": 150.0}), 1, 50, 0), us(1000 + 2 * 50 * 100)),
    "L2": (Launch(kernel(loop_bytes=1 << 20), 2 * SMS, 10, 0), us(2 * SMS * 10 * 2**20 / 5120)),
    "memory": (
        Launch(kernel(), SMS, 1, 3.352e9),
        us(3.352e9 / 3.352e12 / 0.9 * H100.clock_hz),
    ),
}


@pytest.mark.parametrize("limiter", LAUNCHES)
def test_what_takes_the_longest_sets_the_time(limiter):
    launch, expected = LAUNCHES[limiter]
    prediction = launch_prediction(launch, H100)
    assert prediction.limiter == limiter
    assert prediction.us == pytest.approx(expected, rel=1e-9)


def test_waves_and_a_launch_that_is_all():
    prediction = launch_prediction(Launch(kernel(), 3 * SMS, 100, 0), H100)
    assert prediction.waves == pytest.approx(1.5)
    # Half of the threads leave room for twice the blocks, and each has half of the clocks.
    smaller = launch_prediction(Launch(kernel(), 3 * SMS, 100, 0, threads=128), H100)
    assert smaller.waves == pytest.approx(0.75)
    assert smaller.us == pytest.approx(us(3 * 100 * 200))
    assert launch_prediction(Launch(kernel(), 1, 1, 0), H100).limiter == "launch"


def test_an_unknown_kernel_is_an_error():
    assert kernel_speed("90a", "conv2d_implicit_gemm", "tf32", "tile64x64", "VectorGather")
    with pytest.raises(LookupError, match="no kernel conv2d_implicit_gemm<bf8>"):
        kernel_speed("90a", "conv2d_implicit_gemm", "bf8")


@pytest.mark.parametrize("name", MACHINES)
def test_every_plan_has_its_kernel_and_none_beats_the_roofline(name):
    dtypes, layouts = ("bfloat16", "float32", "float64"), ("channels_last", "nchw")
    cases = select_cases((32,), layouts, predict.PASSES, dtypes)
    limiters = set()
    for case in cases:
        if case.op in predict.OPERATORS:
            _, prediction = predict.predict(case, MACHINES[name])
            assert 0 < prediction.share <= 1 and prediction.waves > 0, case.title
            limiters.add(prediction.limiter)
    assert {"shared", "issue", "epilogue", "latency", "memory"} <= limiters


@pytest.mark.parametrize("name", MACHINES)
def test_the_committed_predictions_are_what_the_tables_give(name):
    path = Path(bench.__file__).parent / "results" / f"predicted_{name}.csv"
    with open(path, newline="") as file:
        committed = [{**line, "measured_us": ""} for line in csv.DictReader(file)]
    cases = predict.cases_of("channels_last", "bfloat16")
    now = [predict.row(case, MACHINES[name]) for case in cases]
    assert committed == [{key: str(value) for key, value in line.items()} for line in now], (
        f"write it anew: python -m fastconv.bench.predict --machine {name} --csv {path}"
    )


def test_the_models_error_once_there_are_measurements(tmp_path, capsys):
    case, other, *_ = predict.cases_of("channels_last", "bfloat16")
    predicted = [predict.row(each, H100)["predicted_us"] for each in (case, other)]
    for each, time in zip((case, other), (predicted[0] * 2, predicted[1] * 8)):
        result = dataclasses.replace(Row.of(each, None), us=time, backend="cuda")
        append_csv(tmp_path / "layers.csv", [result], {})
    measured = ["--measured", str(tmp_path / "layers.csv")]
    predict.main([*measured, "--csv", str(tmp_path / "out.csv")])
    assert "2 lines: measured is 4.00 of predicted, times or by 2.00" in capsys.readouterr().err
    with open(tmp_path / "out.csv", newline="") as file:
        lines = list(csv.DictReader(file))
    assert [float(line["measured_us"]) for line in lines[:2]] == pytest.approx(
        [predicted[0] * 2, predicted[1] * 8], rel=1e-3
    )
    error = predict.model_error(lines)
    assert math.isclose(error.ratio, 4, rel_tol=1e-3) and error.lines == 2
    assert [ratio for ratio, _ in error.worst] == pytest.approx([2, 8], rel=1e-3)
    assert predict.model_error(lines[2:]) is None


def test_a_peak_follows_the_dtype():
    clocks = H100.sms * H100.clock_hz
    assert H100.peak_flops(torch.bfloat16, True) == 4096 * clocks
    assert H100.peak_flops(torch.float32, True, allow_tf32=True) == 2048 * clocks
    assert H100.peak_flops(torch.float32, True) == pytest.approx(2048 / 3 * clocks)
    assert H100.peak_flops(torch.float32, False) == 256 * clocks
    assert H100.peak_flops(torch.float64, True) == 128 * clocks
