"""fastconv.fuse of what cannot be traced, and what it must not look through: hooks, shared layers,
forwards of an instance's own."""

import copy

import pytest
import torch
import torch.nn as nn
from fuse_blocks import Block, by_methods, chains, conv_bn_act, lively, residual_iadd, same
from torch.nn.utils import parametrizations, prune

import fastconv


class Branching(nn.Module):
    """Its path depends on values; it also reads an attribute of its part."""

    def __init__(self):
        super().__init__()
        self.part = Block(conv_bn_act)
        self.part.repeats = 2
        self.list = nn.ModuleList([Block(residual_iadd)])
        self.layer = nn.Conv2d(4, 4, 1)

    def forward(self, x):
        for _ in range(self.part.repeats):
            x = self.part(x)
        if x.mean() > 1e9:
            return x
        return self.layer(self.list[0](x))


class Around(nn.Module):
    """A traceable network around one that is not."""

    def __init__(self):
        super().__init__()
        self.first, self.middle, self.last = Block(conv_bn_act), Branching(), Block(by_methods)

    def forward(self, x):
        return self.last(self.middle(self.first(x)))


@pytest.mark.parametrize("trainable", [False, True])
def test_parts_of_what_cannot_be_traced_are_fused(trainable):
    model = lively(Around())
    fused, reports = fastconv.fuse(model, trainable=trainable, report=True)
    found = chains(reports)
    assert found["first.conv"] == ("first.bn", "first.act")
    assert found["middle.part.conv"] == ("middle.part.bn", "middle.part.act")
    assert found["middle.list.0.conv"] == ("middle.list.0.bn", "residual", "middle.list.0.act")
    assert found["last.conv"] == ("last.bn", "residual", "relu")
    reason = next(r.reason for r in reports if r.name == "middle.layer")
    assert "cannot be traced: TraceError" in reason and "middle" in reason
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    same(fused(x), model(x))
    same(copy.deepcopy(fused)(x), model(x))


@pytest.mark.parametrize("target", ["conv", "bn", "act", ""])
def test_hooks_go_on_seeing_what_they_saw(target):
    model = nn.Sequential(lively(Block(conv_bn_act)))
    seen = []
    watched = model[0].get_submodule(target)
    watched.register_forward_hook(lambda module, inputs, y: seen.append((inputs[0].clone(), y)))
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    model(x)
    same(fastconv.fuse(model)(x), model(x))
    (theirs, ours, _) = seen
    for wanted, got in zip(theirs, ours):
        same(got, wanted)


def test_a_forward_of_the_instances_own_is_run():
    model = nn.Sequential(lively(Block(conv_bn_act)))
    model[0].forward = lambda x: x * 3
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    assert torch.equal(fastconv.fuse(model)(x), x * 3)
    assert torch.equal(fastconv.fuse(model[0])(x), x * 3)


class Optional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3)

    def forward(self, x, mask=None, scale=1.0):
        y = torch.relu(self.conv(x))
        return (y if mask is None else y * mask) * scale


def test_optional_arguments_are_at_their_defaults_or_refused():
    model = lively(Optional())
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    fused = fastconv.fuse(model)
    same(fused(x), model(x))
    same(fused(x, None, 1.0), model(x))
    with pytest.raises(AssertionError, match="mask"):
        fused(x, torch.zeros(1, dtype=torch.float64))


def test_parametrised_and_pruned_layers_are_left():
    model = lively(nn.Sequential(nn.Conv2d(4, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()))
    parametrizations.weight_norm(model[0])
    prune.l1_unstructured(model[2], "weight", 0.5)
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    fused, reports = fastconv.fuse(model, report=True)
    same(fused(x), model(x))
    assert chains(reports)["2"] == () and "hooks" in reports[-1].reason


def test_the_original_is_left_alone():
    model = lively(nn.Sequential(nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU())).train()
    before = copy.deepcopy(model.state_dict())
    fused = fastconv.fuse(model)
    fused.half()
    assert model.training and not fused.training
    assert type(model[0]) is nn.Conv2d
    assert all(torch.equal(before[k], v) and v.dtype == before[k].dtype
               for k, v in model.state_dict().items())  # fmt: skip


def test_layers_and_fused_networks_may_be_fused():
    conv = nn.Conv2d(4, 4, 3).double()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    same(fastconv.fuse(conv)(x), conv(x))
    model = lively(Block(residual_iadd))
    same(fastconv.fuse(nn.DataParallel(model))(x), model(x))
    for trainable in (False, True):
        once = fastconv.fuse(model, trainable=trainable)
        same(fastconv.fuse(once)(x), model(x))
