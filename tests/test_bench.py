"""`fastconv bench`, from the command line to the record: requests, verdicts, exit statuses."""

import csv
import json
import sys

import pytest
import torch

import fastconv
from fastconv.__main__ import main
from fastconv.bench import run

TINY = ["bench", "--device", "cpu", "--batch", "1", "--seconds", "0.01", "--layout", "nchw"]


@pytest.fixture(autouse=True)
def _leave_malloc_alone(monkeypatch):
    monkeypatch.setattr(run, "keep_pages", lambda: True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--batch", "0"], "'0'"),
        (["--batch", "1,two"], "'two'"),
        (["--layout", "nhcw"], "'nhcw'"),
        (["--passes", "fprop,forward"], "'forward'"),
        (["--dtype", "int8"], "'int8'"),
        (["--device", "tpu"], "'tpu'"),
        (["--seconds", "-1"], "'-1'"),
        (["--threads", "none"], "'none'"),
        (["--unknown"], "--unknown"),
    ],
)
def test_bad_arguments_are_named(arguments, message, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(["bench", *arguments])
    assert stopped.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--filter", "no such layer"], "nothing to time"),
        (["--backend", "abacus"], "abacus"),
        (["--json", "/no/such/folder/out.json"], "/no/such/folder/out.json"),
    ],
)
def test_impossible_requests_stop_before_any_work(arguments, message, capsys):
    assert main([*TINY, "--quick", *arguments]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(("command", "module"), [("bench", "rich"), ("demo", "sklearn")])
def test_a_missing_extra_is_one_line(command, module, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, module, None)  # makes `import module` fail
    assert main([command]) == 2
    err = capsys.readouterr().err
    package = {"rich": "rich", "sklearn": "scikit-learn"}[module]
    assert err.count("\n") == 1
    assert f"pip install '{package}" in err


def test_info_prints_versions(capsys):
    assert main(["info"]) == 0
    assert torch.__version__ in capsys.readouterr().out


def test_a_run_is_recorded_in_full(tmp_path, capsys):
    paths = [tmp_path / "out.json", tmp_path / "out.csv"]
    words = "resnet18 l4.0.3x3s2 dense rxs conv2d fprop,dw3x3_s1 depthwise 3x3 conv2d wgrad"
    status = main([*TINY, "--filter", words, "--json", str(paths[0]), "--csv", str(paths[1])])
    assert status == 0, capsys.readouterr().out
    record = json.loads(paths[0].read_text())
    rows = record["rows"]
    assert [row["pass"] for row in rows] == ["fprop", "wgrad"]
    for row in rows:
        assert row["status"] == "ok" and row["backend"] == "cpu" and row["algorithm"]
        assert 0 < row["p20_us"] <= row["us"] <= row["p80_us"]
        assert row["x_baseline"] == pytest.approx(row["baseline_us"] / row["us"], rel=1e-3)
        assert row["error"] <= 2 * row["baseline_error"] + 6e-8
    flops = 2 * 7 * 7 * 512 * 3 * 3 * 256
    assert rows[0]["tflops"] == pytest.approx(flops / rows[0]["us"] / 1e6, rel=1e-3)
    traffic = 4 * (2 * 144 * 56 * 56 + 144 * 9)
    assert rows[1]["gbs"] == pytest.approx(traffic / rows[1]["us"] / 1e3, rel=1e-3)
    with open(paths[1], newline="") as file:
        lines = list(csv.DictReader(file))
    for line, row in zip(lines, rows, strict=True):
        whole = row | record["environment"]
        assert line == {key: "" if value is None else str(value) for key, value in whole.items()}
        assert whole["torch"] == torch.__version__ and whole["utc"] and whole["device"]


def _wrong_corner(y):
    y = y.clone()
    y[-1, -1, -1, -1] += 0.01
    return y


def _crash(y):
    raise RuntimeError("launch failed")


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        (_wrong_corner, "wrong", 1),
        (lambda y: y * float("nan"), "wrong", 1),
        (lambda y: y[..., 1:], "wrong", 1),
        (lambda y: y.double(), "wrong", 1),
        (_crash, "failed", 1),
    ],
)
def test_a_wrong_kernel_gets_no_number(fault, status, code, monkeypatch, tmp_path, capsys):
    right = fastconv.conv2d
    monkeypatch.setattr(fastconv, "conv2d", lambda *a, **k: fault(right(*a, **k)))
    path = tmp_path / "out.json"
    words = "l4.ds1x1s2 dense 1x1 conv2d fprop"
    assert main([*TINY, "--filter", words, "--json", str(path)]) == code
    (row,) = json.loads(path.read_text())["rows"]
    assert row["status"] == status and row["reason"]
    assert row["us"] is None and row["x_baseline"] is None and row["tflops"] is None
    assert row["baseline_us"] > 0
    assert status.upper() in capsys.readouterr().out


def test_torch_is_not_timed_under_our_name(monkeypatch, tmp_path):
    monkeypatch.setattr(fastconv, "conv2d", torch.nn.functional.conv2d)
    path = tmp_path / "out.json"
    words = "l4.ds1x1s2 dense 1x1 conv2d fprop"
    assert main([*TINY, "--filter", words, "--json", str(path)]) == 0
    (row,) = json.loads(path.read_text())["rows"]
    assert row["status"] == "no kernel" and row["us"] is None and row["baseline_us"] > 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_baselines_are_timed_in_graphs(tmp_path):
    path = tmp_path / "out.json"
    arguments = ["--batch", "2", "--seconds", "0.02", "--filter", "l4.3x3", "--json", str(path)]
    main(["bench", "--device", "cuda", "--passes", "fprop,dgrad,wgrad", *arguments])
    rows = json.loads(path.read_text())["rows"]
    assert {row["baseline"] for row in rows} == {"cuDNN", "cuDNN TF32"}
    assert all(row["timer"] == "cuda graph" and row["baseline_us"] > 0 for row in rows)
