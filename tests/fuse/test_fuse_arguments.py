"""fastconv.fuse and a forward's optional arguments, the order of parameters, dtypes and devices."""

from enum import Enum

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from fuse_blocks import Block, lively, same
from fuse_nets import Net, block, check, x

import fastconv


class Mode(Enum):
    A, B = 1.0, 2.0


class Defaults(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(4, 4, 1)


class WithEnum(Defaults):
    def forward(self, x, mode=Mode.A):
        return F.relu(self.conv(x)) * mode.value


class WithTuple(Defaults):
    def forward(self, x, size=(2, 2)):
        return F.adaptive_avg_pool2d(F.relu(self.conv(x)), size)


class WithDict(Defaults):
    def forward(self, x, options={}):  # noqa: B006
        return F.relu(self.conv(x)) * options.get("scale", 1.0)


class WithTensor(Defaults):
    def forward(self, x, scale=torch.tensor(2.0)):  # noqa: B008
        return F.relu(self.conv(x)) * scale


OPTIONS = [(WithEnum, Mode.B), (WithTuple, (3, 1)), (WithDict, {"scale": 2.0}),
           (WithTensor, torch.tensor(3.0))]  # fmt: skip


@pytest.mark.parametrize(("kind", "option"), OPTIONS, ids=[k.__name__ for k, _ in OPTIONS])
def test_defaults_that_are_no_plain_values(kind, option):
    for model in (lively(kind()), lively(nn.Sequential(kind()))):
        check(model, False)
    model = lively(kind())
    same(fastconv.fuse(model)(x(), option), model(x(), option))


class ByKeyword(Defaults):
    def forward(self, x, scale_1=1.0, mask=None, *, flag=False):
        return F.relu(self.conv(x)) * scale_1


def test_optional_arguments_are_passed_by_their_names():
    model = lively(ByKeyword())
    fused = fastconv.fuse(model)
    same(fused(x(), scale_1=1.0, mask=None, flag=False), model(x()))
    with pytest.raises(AssertionError, match="scale_1"):
        fused(x(), scale_1=2.0)


class Ordered(nn.Module):
    """Made in another order than called; with a buffer that is in no state_dict, and a literal."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.head, self.block = nn.Conv2d(4, 4, 1), block()
        self.block.register_buffer("mean", torch.rand(4, 1, 1), persistent=False)

    def forward(self, x):
        y = self.block(x - self.block.mean) * torch.tensor([2.0], dtype=torch.float64)
        return self.head(y) * self.scale


def test_trainable_parameters_and_buffers_keep_order_and_names():
    model = lively(Ordered())
    fused = check(model, True)
    unused = ("block.other", "block.scale")
    used = [n for n, _ in model.named_parameters() if not n.startswith(unused)]
    assert [name for name, _ in fused.named_parameters()] == used
    assert set(fused.state_dict()) <= set(model.state_dict())
    assert isinstance(fused.block.conv, fastconv.nn.FusedConv2d)


def test_a_frozen_norm_of_float16_with_a_small_eps():
    norm = nn.BatchNorm2d(4, eps=1e-8)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), norm).eval()
    norm.running_var[0] = 0
    model = model.half()
    inputs = x().half()
    expected = model(inputs)
    got = fastconv.fuse(model, trainable=True)(inputs)
    assert expected.isfinite().all()
    same(got, expected, 2**-8)


def test_on_the_meta_device_and_with_buffers_that_are_no_leaves():
    model = lively(Block(lambda self, x: self.act(self.bn(self.conv(x)) + x)))
    fused = fastconv.fuse(model.to("meta"))
    assert fused(x().to("meta")).shape == x().shape
    model = lively(Net(lambda self, x: F.relu(self.conv(x)) * self.k))
    model.register_buffer("k", nn.Parameter(torch.ones(1)) * 2)
    same(fastconv.fuse(model)(x()), model(x()))
