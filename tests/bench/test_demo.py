"""`fastconv demo`: it agrees where it should, and does not where a layer is wrong."""

import copy

import pytest
import torch

import fastconv
from fastconv.__main__ import main
from fastconv.bench.demo import demo, digits, resnet_agreement
from fastconv.bench.demo.digits import Training, Verdict, loss_difference, train_both, verdict
from fastconv.bench.demo.resnet_agreement import Agreement, compare_resnet


def test_the_demo_agrees(capsys, exhaustive):
    if not exhaustive:
        pytest.skip("it is `fastconv demo`, which the gate runs")
    assert main(["demo", "--image-size", "64"]) == 0
    out = capsys.readouterr().out
    assert "test accuracy 9" in out and "fastconv agrees with torch" in out
    assert out.count("64 of 64 tensors") == 2


def _convert_with_fault(name, fault):
    """A fastconv.convert that hands one converted layer, the one of this name, to `fault`."""
    convert = fastconv.convert

    def faulty(model, *args, **kwargs):
        model = convert(model, *args, **kwargs)
        fault(model.get_submodule(name))
        return model

    return faulty


def _wrong_gradient_tap(conv):
    def shift_one_tap(gradient):
        gradient = gradient.clone()
        gradient[0, 0, 0, 0] *= 1.001
        return gradient

    conv.weight.register_hook(shift_one_tap)


def _wrong_border_element(conv):
    def shift_one_element(module, inputs, y):
        y = y.clone()
        y[0, 0, 0, -1] += 1
        return y

    conv.register_forward_hook(shift_one_element)


def test_float64_curves_part_where_one_gradient_tap_is_off_by_a_thousandth(monkeypatch):
    pair = train_both(torch.float64, seed=1, epochs=1)
    assert loss_difference(pair) <= digits.TOLERANCE[torch.float64]
    monkeypatch.setattr(fastconv, "convert", _convert_with_fault("conv2", _wrong_gradient_tap))
    pair = train_both(torch.float64, seed=1, epochs=1)
    assert loss_difference(pair) > digits.TOLERANCE[torch.float64]


@pytest.mark.parametrize(
    ("losses", "accuracies", "expected"),
    [
        ([1.0, 0.1], (0.98, 0.97), Verdict.AGREE),
        ([1.0, 0.1], (0.98, 0.96), Verdict.DISAGREE),
        ([1.0, 0.1], (0.96, 0.5), Verdict.TOO_FEW_EPOCHS),
        ([1.0, 0.2], (0.98, 0.98), Verdict.DISAGREE),
        ([1.0, 0.2], (0.5, 0.5), Verdict.DISAGREE),
        ([1.0, float("nan")], (0.98, 0.98), Verdict.DISAGREE),
    ],
)
def test_trainings_agree_only_with_equal_losses_and_enough_accuracy(losses, accuracies, expected):
    state = {"w": torch.zeros(1)}
    pair = [Training(x, y, state) for x, y in zip(([1.0, 0.1], losses), accuracies, strict=True)]
    assert verdict(torch.float32, pair) is verdict(torch.float32, pair[::-1]) is expected


@pytest.mark.parametrize("channels_last", [False, True])
def test_resnet_bounds_hold_and_catch_one_wrong_border_element(
    channels_last, monkeypatch, exhaustive
):
    if channels_last and not exhaustive:
        pytest.skip("NCHW runs; --exhaustive runs both")
    right = compare_resnet(0, 64, channels_last)
    assert len(right) == 64 and all(one.holds for one in right)
    faulty = _convert_with_fault("layer2.0.conv1", _wrong_border_element)
    monkeypatch.setattr(fastconv, "convert", faulty)
    wrong = {one.name: one for one in compare_resnet(0, 64, channels_last)}
    assert not wrong["output"].holds


@pytest.mark.parametrize(
    ("loss", "accuracy", "error", "status", "words"),
    [
        (0.1, 0.99, 1e-6, 0, "fastconv agrees with torch"),
        (0.2, 0.99, 1e-6, 1, "DISAGREEMENT"),
        (0.1, 0.99, 1.0, 1, "DISAGREEMENT"),
        (0.1, 0.5, 1.0, 1, "DISAGREEMENT"),
        (0.1, 0.5, 1e-6, 3, "too few epochs to judge"),
    ],
)
def test_the_exit_status_tells_agreement_disagreement_and_too_few_epochs(
    loss, accuracy, error, status, words, monkeypatch, capsys
):
    state = {"w": torch.zeros(1)}
    pair = [Training([value], accuracy, state) for value in (0.1, loss)]
    monkeypatch.setattr(demo, "train_both", lambda *arguments: pair)
    agreements = [Agreement("output", 1e-6, 1e-6), Agreement("d input", 1e-6, error)]
    monkeypatch.setattr(demo, "compare_resnet", lambda *arguments: agreements)
    assert main(["demo"]) == status
    last = " ".join(capsys.readouterr().out.splitlines()[-1].split())
    assert words in last


def test_nan_errors_do_not_hold():
    assert not Agreement("output", 1e-6, float("nan")).holds
    assert Agreement("output", 0.0, 0.0).holds and Agreement("output", 1e-6, 1.9e-6).holds
    assert not Agreement("output", 1e-6, 2.2e-6).holds


def test_the_float64_network_repeats_the_choices_it_is_given():
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.MaxPool2d(2))
    exact = copy.deepcopy(model).double()
    x = torch.randn(1, 2, 4, 4)
    choices = resnet_agreement._record_choices(model)
    y = model(x)
    resnet_agreement._repeat_choices(exact, choices)
    torch.testing.assert_close(exact(x.double()), y.double(), rtol=0, atol=0)
    # Other inputs, the same choices: what was negative gives 0, whatever it is now.
    exact = copy.deepcopy(model).double()
    for module in exact:
        module._forward_hooks.clear()
    resnet_agreement._repeat_choices(exact, choices[:2])
    assert torch.equal(exact(-x.double()), -y.double())
