"""fastconv.fuse of networks of timm, whose BatchNorms are of classes with forwards of their own."""

from functools import partial

import pytest
import torch
import torch.nn as nn
from fuse_blocks import chains, lively, same

import fastconv

try:
    import torchvision  # noqa: F401  timm imports it
except ImportError:
    pass
except RuntimeError:
    # Built for another torch, it lacks its operators, but needs their names alone: two definitions
    # are less than stand-ins for all that timm imports from it.
    _library = torch.library.Library("torchvision", "DEF")
    for name in ("nms", "qnms"):
        _library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")

timm = pytest.importorskip("timm")

# How many convolutions a BatchNorm follows; the others of RegNet and EfficientNet are those of
# squeeze-and-excitation, the others of ResNetV2 begin with a BatchNorm.
FOLLOWED = {
    "mobilenetv4_conv_small": 46,
    "mobilenetv2_100": 52,
    "regnety_002": 44,
    "resnetv2_50": 32,
    "efficientnet_b0": 49,
}


def network(name):
    torch.manual_seed(0)
    return lively(timm.create_model(name, num_classes=10))


def run_and_watch(model, x):
    """A model's result, and {name of a convolution: name of the BatchNorm that it goes to}."""
    results, pairs, hooks = {}, {}, []  # results: {id: (tensor, name)}; none of them is freed

    def keep(name, module, inputs, y):
        results[id(y)] = y, name

    def look_up(name, module, inputs):
        if id(inputs[0]) in results:
            pairs[results[id(inputs[0])][1]] = name

    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            hooks.append(module.register_forward_hook(partial(keep, name)))
        elif isinstance(module, nn.BatchNorm2d):
            hooks.append(module.register_forward_pre_hook(partial(look_up, name)))
    with torch.no_grad():
        y = model(x)
    for hook in hooks:
        hook.remove()
    return y, pairs


@pytest.mark.parametrize("name", FOLLOWED)
def test_every_batch_norm_after_a_convolution_is_folded_or_frozen(name):
    model, x = network(name), torch.randn(1, 3, 64, 64, dtype=torch.float64)
    expected, pairs = run_and_watch(model, x)
    assert len(pairs) == FOLLOWED[name]
    frozen, reports = fastconv.fuse(model, trainable=True, report=True)
    assert {conv: taken[0] for conv, taken in chains(reports).items() if conv in pairs} == pairs
    assert list(frozen.state_dict()) == list(model.state_dict())
    fused, reports = fastconv.fuse(model, report=True)
    assert {conv: taken[0] for conv, taken in chains(reports).items() if conv in pairs} == pairs
    with torch.no_grad():
        before = {key: value.clone() for key, value in frozen.named_buffers()}
        same(frozen.train()(x), expected)
        assert all(torch.equal(value, before[key]) for key, value in frozen.named_buffers())
        same(fused(x), expected)
        theirs = (model.float()(x.float()) - expected).abs().max()
        ours = (fused.float()(x.float()) - expected).abs().max()
    assert ours <= 2 * theirs + 1e-7 * expected.abs().max()


def test_frozen_batch_norms_learn_their_weights():
    model, x = network("regnety_002"), torch.randn(1, 3, 32, 32, dtype=torch.float64)
    frozen = fastconv.fuse(model, trainable=True).train()
    gradients = []
    for each in (model, frozen):
        model.zero_grad(set_to_none=True)
        each(x).square().sum().backward()
        gradients.append([parameter.grad for parameter in model.parameters()])
    for wanted, got in zip(*gradients, strict=True):
        same(got, wanted, 1e-9)


def test_standardised_convolutions_are_left_and_said_to_be():
    norm, conv = timm.layers.BatchNormAct2d, timm.layers.StdConv2d
    model = lively(timm.models.ResNetV2([1, 1], [32, 32], norm_layer=norm, conv_layer=conv))
    fused, reports = fastconv.fuse(model, report=True)
    reasons = {report.reason for report in reports if report.type == "StdConv2d"}
    assert reasons == {"left: StdConv2d has a forward of its own"}
    x = torch.randn(1, 3, 64, 64, dtype=torch.float64)
    with torch.no_grad():
        same(fused(x), model(x))
