"""The clock, power and temperature of a GPU in the CSV; without one, what stands for the driver."""

import subprocess
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from fastconv.bench import lines, run
from fastconv.bench.cases.calls import select_calls
from fastconv.bench.measure.gpu_state import gpu_state
from fastconv.bench.measure.record import Row


@pytest.fixture
def no_pynvml(monkeypatch):
    def missing():
        raise ModuleNotFoundError("nvidia-ml-py does not seem to be installed")

    monkeypatch.setattr(torch.cuda, "clock_rate", missing)
    device = SimpleNamespace(uuid="1234-ab")
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: device)


def test_torch_is_asked_first(monkeypatch):
    monkeypatch.setattr(torch.cuda, "clock_rate", lambda: 1980)
    monkeypatch.setattr(torch.cuda, "power_draw", lambda: 312_500)  # mW
    monkeypatch.setattr(torch.cuda, "temperature", lambda: 41)
    assert gpu_state() == {"gpu_clock_mhz": 1980, "gpu_power_w": 312.5, "gpu_temperature_c": 41}


def test_without_pynvml_nvidia_smi_is_asked_for_this_device(no_pynvml, monkeypatch):
    commands = []

    def answer(command, **options):
        commands.append(command)
        return SimpleNamespace(stdout="1755, [N/A], 38\n")

    monkeypatch.setattr(subprocess, "run", answer)
    assert gpu_state() == {"gpu_clock_mhz": 1755, "gpu_power_w": None, "gpu_temperature_c": 38}
    assert commands[0][:2] == ["nvidia-smi", "--id=GPU-1234-ab"]


def test_with_neither_the_columns_are_empty(no_pynvml, monkeypatch):
    def missing(command, **options):
        raise FileNotFoundError(command[0])

    monkeypatch.setattr(subprocess, "run", missing)
    assert set(gpu_state().values()) == {None}


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_rows_of_a_gpu_have_its_state_and_those_of_a_cpu_nothing(device, monkeypatch):
    case, *_ = select_calls([1], ["nchw"], ["inference"], ["float32"])
    measuring = replace(lines.PARTS["calls"], measure=lambda case, *_: [Row.of(case, 1)])
    monkeypatch.setitem(lines.PARTS, "calls", measuring)
    monkeypatch.setattr(run, "gpu_state", lambda: {"gpu_clock_mhz": 1980.0})
    options = SimpleNamespace(quick=True, seconds=1, backend=None, disturbed_limit=0.2)
    (row,) = run._measured(lines.Line("calls", case, 1, []), device, options)
    assert row.gpu_clock_mhz == (1980.0 if device == "cuda" else None)
