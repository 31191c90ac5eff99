"""fastconv.fuse asks what a class does, not what it is derived from: containers, convolutions,
activations with forwards of their own, and subclasses that have torch's."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from fuse_blocks import Untraceable, chains, lively, same

import fastconv


def x():
    return torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


# ---- containers -------------------------------------------------------------------------------


class WithOptional(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x, skip=None):
        y = torch.relu(self.conv(x))
        return y if skip is None else y + skip


class Dict(nn.ModuleDict):
    def forward(self, x):
        for part in self.values():
            x = part(x, x)
        return x


class List(nn.ModuleList):
    def forward(self, x):
        for part in self:
            x = part(x, x)
        return x


class Sequence(nn.Sequential):
    def forward(self, x):
        for part in self:
            x = part(x, x)
        return x


class UntraceableList(List):
    def forward(self, x):
        return x if x.mean() > 1e9 else super().forward(x)


class InnerParts(nn.ModuleList):
    """Is not called, and leads to other modules than its own."""

    def __iter__(self):
        return (part.conv for part in super().__iter__())


class Looping(nn.Module):
    def __init__(self):
        super().__init__()
        self.parts = InnerParts([WithOptional(), WithOptional()])

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return x if x.mean() < 1e9 else x * 2


class Doubling(nn.DataParallel):
    def forward(self, x):
        return self.module.conv(x) + self.module(x, x)


CONTAINERS = {
    "dict": lambda: Dict({"a": WithOptional(), "b": WithOptional()}),
    "list": lambda: List([WithOptional(), WithOptional()]),
    "sequence": lambda: Sequence(WithOptional(), WithOptional()),
    "untraceable list": lambda: UntraceableList([WithOptional()]),
    "list with an iterator of its own": Looping,
    "wrapper": lambda: Doubling(WithOptional()),
}
AROUND = {
    "alone": lambda part: part,
    "a part": nn.Sequential,
    "data parallel": nn.DataParallel,
    "part of what cannot be traced": Untraceable,
}


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("around", AROUND)
@pytest.mark.parametrize("name", CONTAINERS)
def test_containers_with_code_of_their_own(name, around, trainable):
    model = lively(AROUND[around](CONTAINERS[name]()))
    fused, reports = fastconv.fuse(model, trainable=trainable, report=True)
    same(fused(x()), model(x()))
    if name in ("dict", "list", "sequence"):
        assert [taken for taken in chains(reports).values()] == [("relu",)] * 2


# ---- convolutions, activations, identities ------------------------------------------------------


class Conv1x1(nn.Conv2d):
    def __init__(self, C, K):
        super().__init__(C, K, 1)

    @property
    def device(self):
        return self.weight.device


class Scaled(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


class ScaledInside(nn.Conv2d):
    def _conv_forward(self, x, weight, bias):
        return super()._conv_forward(x, weight * 2, bias)


class Softened(nn.Conv2d):
    """What torch's forward reads as an attribute is computed."""

    def __init__(self, *args):
        super().__init__(*args, bias=False)
        self.raw = nn.Parameter(torch.randn(self.out_channels))

    @property
    def bias(self):
        return F.softplus(self.raw)


class Leaky(nn.ReLU):
    def forward(self, x):
        return F.leaky_relu(x)


class Negative(nn.Identity):
    def forward(self, x):
        return -x


def relu3():
    act = nn.ReLU6()
    act.max_val = 3.0
    return act


class PlainReLU(nn.ReLU):
    pass


LAYERS = {
    "plain": (Conv1x1(4, 4), (PlainReLU(),), ("1", "relu")),
    "identities": (nn.Conv2d(4, 4, 1), (nn.Identity(), nn.ReLU(), nn.Identity()), ("1", "3")),
    "scaled": (Scaled(4, 4, 1), (nn.ReLU(),), None),
    "scaled inside": (ScaledInside(4, 4, 1), (nn.ReLU(),), None),
    "softened": (Softened(4, 4, 1), (nn.ReLU(),), None),
    "leaky": (nn.Conv2d(4, 4, 1), (Leaky(),), ("1", "leaky_relu")),
    "negative": (nn.Conv2d(4, 4, 1), (Negative(), nn.ReLU()), ("1",)),
    "relu3": (nn.Conv2d(4, 4, 1), (relu3(),), ("1",)),
}


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("name", LAYERS)
def test_layers_of_subclasses(name, trainable):
    conv, after, taken = LAYERS[name]
    model = lively(nn.Sequential(copy.deepcopy(conv), nn.BatchNorm2d(4), *after))
    fused, reports = fastconv.fuse(model, trainable=trainable, report=True)
    same(fused(x() * 4), model(x() * 4))
    (report,) = [report for report in reports if report.name == "0"]
    assert report.fused == (taken or ()) and report.type == type(conv).__name__
    if taken is None:
        assert report.reason == f"left: {type(conv).__name__} has a forward of its own"
