"""`fastconv bench models`: verdicts and times of whole networks."""

import copy
import csv

import pytest
import torch

import fastconv
from fastconv.__main__ import main
from fastconv.bench.measure import networks, timing
from fastconv.bench.models import NETWORKS
from fastconv.bench.models.unet import UNet
from fastconv.bench.models.wavenet import WaveNet

pytestmark = pytest.mark.usefixtures("ceilings")


def read(path):
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


MODELS = ["bench", "models", "--quick", "--device", "cpu", "--threads", "1"]
MODELS += ["--seconds", "0.01", "--batch"]


def test_networks_are_timed_in_inference_and_training(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(timing, "SETTLING_ROUNDS", 1)
    threads = torch.get_num_threads()
    arguments = ["2", "--image-size", "64", "--filter", "resnet18", "--dtype", "float32,bfloat16"]
    status = main([*MODELS, *arguments, "--layout", "nchw", "--out", str(tmp_path)])
    assert torch.get_num_threads() == threads  # as the program had it
    rows = read(tmp_path / "models.csv")
    assert status == 0, [row["reason"] for row in rows]
    assert [(row["layer"], row["pass"], row["dtype"]) for row in rows] == [
        (variant, pass_, dtype)
        for variant, pass_ in (
            ("converted", "inference"),
            ("converted", "training step"),
            ("fused", "inference"),
        )
        for dtype in ("float32", "bfloat16")
    ]
    flops = 2 * 2 * 1.8136e9 * (64 / 224) ** 2  # published for one image of 224 x 224
    for row in rows:
        assert (row["op"], row["model"], row["problem"]) == ("network", "resnet18", "n2c3h64")
        assert float(row["x_baseline"]) > 0 and row["threads"] == "1" and row["gbs"] == ""
        times = 3 if row["pass"] == "training step" else 1
        rate = times * flops / float(row["us"]) / 1e6
        assert float(row["tflops"]) == pytest.approx(rate, rel=2e-3)
    out = capsys.readouterr().out
    assert "Networks: torch time / fastconv time, bfloat16" in " ".join(out.split())


@pytest.mark.parametrize("pass_", ["inference", "training step"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_wrong_network_gets_no_number(pass_, dtype, monkeypatch, tmp_path):
    def wrong(model):
        model = copy.deepcopy(model)
        torch.nn.init.normal_(model.fc.weight)
        return model

    monkeypatch.setattr(fastconv, "convert", wrong)
    arguments = ["1", "--image-size", "64", "--filter", "resnet18", "--layout", "nchw"]
    arguments += ["--passes", pass_, "--dtype", dtype, "--out", str(tmp_path)]
    monkeypatch.setattr(fastconv, "fuse", wrong)
    assert main([*MODELS, *arguments]) == 1
    rows = read(tmp_path / "models.csv")
    assert len(rows) == (2 if pass_ == "inference" else 1)
    for row in rows:
        assert row["status"] == "wrong" and row["reason"]
        assert row["us"] == row["baseline_us"] == row["tflops"] == ""


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_network_with_a_wrong_gradient_gets_no_number(dtype, monkeypatch, tmp_path):
    def wrong(model):
        model = copy.deepcopy(model)
        model.layer3[0].conv1.weight.register_hook(lambda gradient: gradient * 3)
        return model

    monkeypatch.setattr(fastconv, "convert", wrong)
    arguments = ["2", "--image-size", "64", "--filter", "resnet18", "--layout", "nchw"]
    arguments += ["--passes", "training step", "--dtype", dtype, "--out", str(tmp_path)]
    assert main([*MODELS, *arguments]) == 1
    (row,) = read(tmp_path / "models.csv")
    assert row["status"] == "wrong" and "a gradient" in row["reason"] and row["us"] == ""


def test_what_torch_refuses_is_no_failure_of_ours(tmp_path):
    """torch refuses to train a BatchNorm on one value, which images this small leave at the end."""
    arguments = ["1", "--image-size", "32", "--filter", "resnet18 converted training"]
    assert main([*MODELS, *arguments, "--layout", "nchw", "--out", str(tmp_path)]) == 0
    (row,) = read(tmp_path / "models.csv")
    assert row["status"] == "no baseline" and "more than 1 value" in row["reason"]


@pytest.mark.parametrize(
    ("name", "network", "problem", "layouts"),
    [
        ("unet", lambda: UNet(width=4), "n2c1h16", ["nchw", "channels_last"]),
        ("wavenet", lambda: WaveNet(C=4, skip=4, layers=2), "n2c256h1w256", ["nchw"]),
    ],
)
def test_networks_with_a_class_for_each_pixel_or_sample(
    name, network, problem, layouts, monkeypatch, tmp_path
):
    monkeypatch.setattr(timing, "SETTLING_ROUNDS", 1)
    monkeypatch.setitem(networks.ALL, name, network)
    arguments = ["bench", "models", "--seconds", "0.001", "--threads", "1", "--device", "cpu"]
    arguments += ["--batch", "2", "--image-size", "16", "--filter", f"{name} "]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    rows = read(tmp_path / "models.csv")
    assert len(rows) == 3 * len(layouts) and {row["layout"] for row in rows} == set(layouts)
    assert {(row["problem"], row["status"]) for row in rows} == {(problem, "ok")}


def test_networks_have_names_and_1000_classes():
    assert {"resnet18", "mobilenet_v2"} <= NETWORKS.keys()
    with torch.device("meta"):
        for network in NETWORKS.values():
            assert network()(torch.empty(2, 3, 224, 224)).shape == (2, 1000)


def test_networks_against_onnxruntime(tmp_path):
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    words = "squeezenet1_1 fused,squeezenet1_1 converted training"
    arguments = ["bench", "models", "--seconds", "0.001", "--threads", "1", "--layout", "nhwc"]
    arguments += ["--batch", "1", "--image-size", "32", "--filter", words]
    assert main([*arguments, "--baseline", "onnxruntime", "--out", str(tmp_path)]) == 0
    training, fused = sorted(read(tmp_path / "models.csv"), key=lambda row: row["layer"])
    assert fused["status"] == "ok" and fused["baseline"] == "onnxruntime"
    assert float(fused["error"]) < 1e-4 and float(fused["baseline_us"]) > 0
    assert training["status"] == "no baseline"
