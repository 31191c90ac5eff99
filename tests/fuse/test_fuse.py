"""fastconv.fuse of whole networks: every chain of theirs, their numbers, layouts and files."""

import copy
import io

import pytest
import torch
import torch.nn as nn
from fuse_blocks import Block, chains, conv_bn_act, lively, residual_iadd, same

import fastconv
from fastconv.activations import ACTIVATIONS
from fastconv.bench.models import NETWORKS
from fastconv.nn import FusedConv2d

KINDS = {activation.module.__name__ for activation in ACTIVATIONS.values()}


@pytest.mark.parametrize("name", NETWORKS)
def test_networks_are_fused_whole_and_keep_their_numbers(name):
    torch.manual_seed(0)
    model = lively(NETWORKS[name]())
    x = torch.randn(2, 3, 32, 32, dtype=torch.float64)
    fused, reports = fastconv.fuse(model, report=True)
    with torch.no_grad():
        expected = model(x)
        same(fused(x), expected)
        # Rounding of float32, of torch's own network and ours.
        theirs = (model.float()(x.float()) - expected).abs().max()
        ours = (fused.float()(x.float()) - expected).abs().max()
    assert ours <= 2 * theirs + 1e-7 * expected.abs().max()
    assert not [m for m in fused.modules() if isinstance(m, nn.BatchNorm2d)]
    norms = {name for name, m in model.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert norms <= set().union(*chains(reports).values())
    parts = dict(fused.named_modules())
    for node in fused.graph.nodes:
        if node.op == "call_module" and isinstance(parts[node.target], nn.Conv2d):
            for user in node.users:
                kind = type(parts.get(user.target)).__name__ if user.op == "call_module" else ""
                if "activation" not in node.kwargs:
                    assert kind not in KINDS, node.target


def test_resnet18s_residuals_go_into_the_second_convolution():
    fused, reports = fastconv.fuse(NETWORKS["resnet18"](), report=True)
    found = chains(reports)
    assert found["conv1"] == ("bn1", "relu")
    assert found["layer1.0.conv2"] == ("layer1.0.bn2", "residual", "layer1.0.relu")
    assert sum("residual" in parts for parts in found.values()) == 8
    assert not [node for node in fused.graph.nodes if "add" in str(node.target)]


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_layout_stays(layout):
    model = lively(NETWORKS["mobilenet_v2"]()).to(memory_format=layout)
    fused = fastconv.fuse(model)
    convs = [m for m in fused.modules() if isinstance(m, nn.Conv2d)]
    assert all(m.weight.is_contiguous(memory_format=layout) for m in convs)
    seen = []
    convs[5].register_forward_hook(lambda module, inputs, y: seen.append(y))
    fused(torch.randn(1, 3, 32, 32, dtype=torch.float64).contiguous(memory_format=layout))
    assert seen[0].is_contiguous(memory_format=layout)


@pytest.mark.parametrize("trainable", [False, True])
def test_fused_networks_are_copied_and_saved(trainable):
    model = lively(NETWORKS["resnet18"]())
    fused = fastconv.fuse(model, trainable=trainable)
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64)
    file = io.BytesIO()
    torch.save(fused, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    for other in (copy.deepcopy(fused), loaded):
        assert torch.equal(other(x), fused(x))
        assert list(other.state_dict()) == list(fused.state_dict())
        assert isinstance(other.conv1, FusedConv2d)


def test_fused_networks_are_compiled_and_exported():
    model = lively(nn.Sequential(Block(residual_iadd), Block(conv_bn_act))).float()
    fused = fastconv.fuse(model)
    x = torch.randn(2, 4, 9, 8)
    with torch.no_grad():
        same(torch.compile(fused, fullgraph=True, backend="aot_eager")(x), fused(x), 0)
        same(torch.export.export(fused, (x,)).module()(x), fused(x), 0)
