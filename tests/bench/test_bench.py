"""`fastconv bench`, from the command line to the record: requests, verdicts, exit statuses."""

import csv
import shlex
import sys

import pytest
import torch

import fastconv
from fastconv.__main__ import main
from fastconv.bench.cases.selection import LAYOUTS, PASSES, select_cases
from fastconv.bench.measure import baselines
from fastconv.bench.measure.ceilings import Ceilings

TINY = ["bench", "--device", "cpu", "--batch", "1", "--seconds", "0.01", "--layout", "nchw"]
pytestmark = pytest.mark.usefixtures("ceilings")


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


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
        (["--baseline", "torch,mkl"], "'mkl'"),
        (["layers", "nets"], "'nets'"),
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
        (["--baseline", "cudnn"], "--baseline cudnn"),
        (["models", "--dtype", "float16"], "--dtype float16"),
        (["--out", __file__], "--out"),
    ],
)
def test_impossible_requests_stop_before_any_work(
    arguments, message, monkeypatch, tmp_path, capsys
):
    monkeypatch.chdir(tmp_path)
    assert main([*TINY, "--quick", *arguments]) == 2
    out, err = capsys.readouterr()
    assert message in err and err.count("\n") == 1 and out == ""
    assert not any(tmp_path.iterdir())


def test_a_baseline_that_this_torch_lacks_is_named(monkeypatch, tmp_path, capsys):
    def no_compiler(*arguments, **options):
        raise RuntimeError("no compiler\nhere")

    monkeypatch.setattr(torch, "compile", no_compiler)
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    out = ["--out", str(tmp_path / "out")]
    assert main([*TINY, "--quick", *out, "--baseline", "compile"]) == 2
    assert "--baseline compile: " in (err := capsys.readouterr().err) and "no compiler\n" in err
    assert main([*TINY, "--quick", *out, "--baseline", "torch,onednn"]) == 2
    assert "--baseline onednn: " in capsys.readouterr().err
    assert baselines.why_impossible(["onednn"], "cuda") == "onednn is no baseline on device cuda"


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


def test_version(capsys):
    with pytest.raises(SystemExit, match=r"^0$"):
        main(["--version"])
    assert capsys.readouterr().out == f"fastconv {fastconv.__version__}\n"


def test_a_run_is_recorded_in_full(tmp_path, ceilings, capsys):
    words = "resnet18 l4.0.3x3s2 dense rxs conv2d fprop,dw3x3_s1 depthwise 3x3 conv2d wgrad"
    arguments = [*TINY, "--filter", words, "--out", str(tmp_path)]
    assert main(arguments) == 0, capsys.readouterr().out
    assert [path.name for path in tmp_path.iterdir()] == ["layers.csv"]  # no pool was asked for
    rows = read(tmp_path / "layers.csv")
    assert [row["pass"] for row in rows] == ["fprop", "wgrad"]
    number = lambda row, name: float(row[name])  # noqa: E731
    flops = [2 * 7 * 7 * 512 * 3 * 3 * 256, 2 * 56 * 56 * 144 * 9]
    traffic = [4 * (14 * 14 * 256 + 7 * 7 * 512 + 512 * 256 * 9), 4 * (2 * 144 * 56 * 56 + 144 * 9)]
    for row, row_flops, row_traffic in zip(rows, flops, traffic, strict=True):
        us = number(row, "us")
        assert row["status"] == "ok" and row["backend"] == "cpu" and row["algorithm"]
        assert 0 < number(row, "p20_us") <= us <= number(row, "p80_us")
        ratio = number(row, "baseline_us") / us
        assert number(row, "x_baseline") == pytest.approx(ratio, rel=1e-3)
        assert number(row, "error") <= 2 * number(row, "baseline_error") + 6e-8
        assert number(row, "tflops") == pytest.approx(row_flops / us / 1e6, rel=1e-3)
        assert number(row, "gbs") == pytest.approx(row_traffic / us / 1e3, rel=1e-3)
        floor = max(row_flops / 0.1e6, row_traffic / 10e3)
        assert number(row, "roofline_percent") == pytest.approx(100 * floor / us, rel=1e-3)
        assert row["command"] == shlex.join(["fastconv", *arguments])
        assert row["torch"] == torch.__version__ and row["utc"] and row["device"]
        assert {name: row[name] for name in Ceilings.columns()} == {
            name: "" if value is None else str(value) for name, value in ceilings.as_dict().items()
        }


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
    words = "l4.ds1x1s2 dense 1x1 conv2d fprop"
    assert main([*TINY, "--filter", words, "--out", str(tmp_path)]) == code
    (row,) = read(tmp_path / "layers.csv")
    assert row["status"] == status and row["reason"]
    assert row["us"] == row["x_baseline"] == row["tflops"] == row["roofline_percent"] == ""
    assert float(row["baseline_us"]) > 0
    assert status.upper() in capsys.readouterr().out


def test_torch_is_not_timed_under_our_name(monkeypatch, tmp_path):
    monkeypatch.setattr(fastconv, "conv2d", torch.nn.functional.conv2d)
    words = "l4.ds1x1s2 dense 1x1 conv2d fprop"
    assert main([*TINY, "--filter", words, "--out", str(tmp_path)]) == 0
    (row,) = read(tmp_path / "layers.csv")
    assert row["status"] == "no kernel" and row["us"] == "" and float(row["baseline_us"]) > 0


def test_each_baseline_gives_a_row(monkeypatch, tmp_path, capsys):
    """A layer and a pool, forward and backward: compiled functions are differentiated too."""
    words = "resnet18 l4.ds1x1s2 dense 1x1 conv2d,resnet18 gap7x7"
    arguments = [*TINY, "--filter", words, "--threads", "1", "--passes", "wgrad,fwd,bwd"]
    wanted = "torch,aten,onednn,compile"
    status = main([*arguments, "--baseline", wanted, "--out", str(tmp_path)])
    assert status == 0, capsys.readouterr().out
    names = ["torch", "ATen", "oneDNN", "torch.compile"]
    layers, pools = (read(tmp_path / name) for name in ("layers.csv", "pools.csv"))
    assert [(row["pass"], row["baseline"]) for row in layers + pools] == [
        (pass_, name) for pass_ in ("wgrad", "fwd", "bwd") for name in names
    ]
    assert all(row["status"] == "ok" and float(row["baseline_us"]) > 0 for row in layers + pools)
    assert "against torch.compile" in capsys.readouterr().out


def test_baselines_are_what_their_names_say(monkeypatch):
    case, *_ = select_cases([1], ["nchw"], ["fprop"], ["float32"], ["resnet18 l4.ds1x1s2"])
    found = baselines.baselines(case, "cpu", names=["aten", "onednn", "torch", "compile"])
    enabled = {}
    for one in found:
        with one.settings():
            enabled[one.name] = torch.backends.mkldnn.enabled
    default = torch.backends.mkldnn.enabled
    assert enabled == {"ATen": False, "oneDNN": True, "torch": default, "torch.compile": default}
    options = {}
    monkeypatch.setattr(torch, "compile", lambda function, **o: (options.update(o), function)[1])
    for one in found:
        options.clear()
        one.function(case)
        assert options.get("dynamic") is (False if one.name == "torch.compile" else None)

    def named(names, case=case):
        return [one.name for one in baselines.baselines(case, "cuda", None, names)]

    assert named(["torch", "cudnn"]) == named(None) == ["cuDNN", "cuDNN TF32"]
    assert named(["aten", "compile"]) == ["ATen", "torch.compile"]
    pool, *_ = select_cases([1], ["nchw"], ["fwd"], ["float32"], parts=["pools"])
    assert named(["torch", "cudnn", "aten"], pool) == ["ATen"]


def test_ops_have_every_operator_and_variant(tmp_path, capsys):
    words = "residual,silu,bgrad,gmp7x7,indices"
    arguments = ["--filter", words, "--threads", "1", "--seconds", "0.002", "--out", str(tmp_path)]
    assert main([*TINY[:5], "ops", *arguments]) == 0, capsys.readouterr().out
    rows = read(tmp_path / "ops.csv")
    assert all(row["status"] == "ok" for row in rows) and len(rows) == 6 * len(LAYOUTS)
    named = {(row["op"], row["pass"], row["family"]) for row in rows}
    assert named == {
        ("conv2d+bias+residual+relu", "fprop", "dense RxS +bias+residual+relu"),
        ("conv2d+bias+silu", "fprop", "depthwise 3x3 +bias+silu"),
        ("conv2d+bias+relu", "bgrad", "dense RxS +bias+relu"),
        ("max_pool2d+indices", "fwd", "max pool +indices"),
        ("adaptive_max_pool2d", "fwd", "global max pool"),
        ("adaptive_max_pool2d", "bwd", "global max pool"),
    }
    cases = select_cases([8], ["nchw"], PASSES, ["float32"], parts=["ops"])
    functions = ("conv2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
    functions += ("conv_transpose2d",)
    assert {case.op.partition("+")[0] for case in cases} == set(functions)
    assert {case.pass_ for case in cases} == set(PASSES)


def test_a_wrong_index_or_bias_gradient_is_wrong(monkeypatch, tmp_path):
    right, convolve = fastconv.max_pool2d, fastconv.conv2d

    def off_by_one(*arguments, **options):
        y, indices = right(*arguments, **options)
        return y, indices.clone().index_fill_(3, torch.tensor([0]), 0)

    monkeypatch.setattr(fastconv, "max_pool2d", off_by_one)
    monkeypatch.setattr(fastconv, "conv2d", lambda *a, **k: convolve(*a, **k) * 1.001)
    arguments = ["--quick", "--filter", "indices,bgrad", "--threads", "1", "--out", str(tmp_path)]
    assert main([*TINY, "ops", *arguments]) == 1
    assert [row["status"] for row in read(tmp_path / "ops.csv")] == ["wrong", "wrong"]


CALLS = ["bench", "calls", "--device", "cpu", "--seconds", "0.001"]


def test_every_operator_is_called_as_a_function_and_as_a_module(tmp_path, capsys):
    assert main([*CALLS, "--out", str(tmp_path)]) == 0, capsys.readouterr().out
    rows = read(tmp_path / "calls.csv")
    operators = ("conv2d", "conv2d+bias+relu", "depthwise conv2d", "conv_transpose2d")
    operators += ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
    operators += ("conv1d", "conv_transpose1d", "max_pool1d", "avg_pool1d")
    assert [(row["model"], row["layer"], row["pass"]) for row in rows] == [
        (operator, form, pass_)
        for operator in operators
        for form in ("function", "module")
        for pass_ in ("inference", "training step")
    ]
    for row in rows:
        assert (row["status"], row["backend"], row["threads"]) == ("ok", "cpu", "1")
        ratio = float(row["baseline_us"]) / float(row["us"])
        assert float(row["x_baseline"]) == pytest.approx(ratio, rel=1e-3)
    assert "depthwise conv2d" in capsys.readouterr().out


def test_a_wrong_call_and_one_that_torch_answers_get_no_number(monkeypatch, tmp_path):
    right = fastconv.avg_pool2d
    monkeypatch.setattr(fastconv, "avg_pool2d", lambda *a: _wrong_corner(right(*a)))
    monkeypatch.setattr(fastconv, "max_pool2d", torch.nn.functional.max_pool2d)
    words = "call avg_pool2d function inference,call max_pool2d function inference"
    assert main([*CALLS, "--filter", words, "--out", str(tmp_path)]) == 1
    found = [(row["status"], row["us"]) for row in read(tmp_path / "calls.csv")]
    assert found == [("no kernel", ""), ("wrong", "")]


def test_what_does_not_fit_into_memory_is_one_line(tmp_path):
    words = "resnet18 l4.ds1x1s2 dense 1x1 conv2d fprop"
    arguments = ["--filter", words, "--batch", "1000000000,1", "--seconds", "0.002"]
    assert main([*TINY[:5], *arguments, "--threads", "1", "--out", str(tmp_path)]) == 0
    rows = read(tmp_path / "layers.csv")
    assert [row["status"] for row in rows] == ["no memory"] * 2 + ["ok"] * 2


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_baselines_are_timed_in_graphs(tmp_path):
    arguments = ["--batch", "2", "--seconds", "0.02", "--filter", "l4.3x3", "--out", str(tmp_path)]
    main(["bench", "--device", "cuda", "--passes", "fprop,dgrad,wgrad", *arguments])
    rows = read(tmp_path / "layers.csv")
    assert {row["baseline"] for row in rows} == {"cuDNN", "cuDNN TF32"}
    assert all(row["timer"] == "cuda graph" and float(row["baseline_us"]) > 0 for row in rows)
