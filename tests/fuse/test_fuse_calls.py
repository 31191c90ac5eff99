"""fastconv.fuse where calling a layer is more than calling its class's forward: results stay the
original's."""

import collections
import copy
import functools

import pytest
import torch
import torch.nn as nn
from fuse_blocks import Block, conv_bn_act, lively, same
from fuse_nets import block, check, copied, x

import fastconv


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_layers_with_a_forward_of_their_own(index, trainable):
    model = lively(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()))
    model[index].forward = lambda x: x * 3
    check(model, trainable)


class Doubled(Block):
    def __call__(self, x):
        return super().__call__(x) * 2


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("wrap", [lambda m: m, nn.Sequential], ids=["root", "part"])
def test_a_class_with_a_call_of_its_own(wrap, trainable):
    check(lively(wrap(Doubled(conv_bn_act))), trainable)


@pytest.mark.parametrize("wrap", [lambda m: m, nn.Sequential], ids=["root", "part"])
@pytest.mark.parametrize("how", ["method", "function"])
def test_what_was_compiled_is_copied_uncompiled(how, wrap):
    inner = lively(block()).train()
    compiled = inner
    if how == "method":
        inner.compile(backend="eager")
    else:
        compiled = torch.compile(inner, backend="eager")
    model = wrap(compiled)
    expected = copied(block())
    expected.load_state_dict(inner.state_dict())
    means = inner.bn.running_mean.clone()
    for fused in (fastconv.fuse(model), fastconv.convert(model).eval()):
        same(fused(x()), expected(x()))
    assert torch.equal(inner.bn.running_mean, means) and inner.training


def test_scripted_parts_stay_as_they_are():
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)).double())
    model = nn.Sequential(scripted, lively(block())).train()
    pointers = [p.data_ptr() for p in model.parameters()]
    fused = fastconv.fuse(model)
    assert model.training and scripted.training
    assert [p.data_ptr() for p in model.parameters()] == pointers
    same(fused(x()), copy.deepcopy(model).eval()(x()))
    fastconv.fuse(scripted)
    assert scripted.training


Pair = collections.namedtuple("Pair", "conv bn")


class Elsewhere(nn.Module):
    """Reaches its layers by attributes that are no modules."""

    def __init__(self):
        super().__init__()
        self.conv, self.bn = nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4)
        self.pair = Pair(self.conv, self.bn)
        self.queue = collections.deque([self.bn], 3)
        self.run = functools.partial(self._run, k=2)

    def _run(self, x, k):
        return self.queue[0](self.pair.bn(self.pair.conv(x))) * k

    def forward(self, x):
        return self.run(x)


def test_attributes_that_hold_modules_hold_the_copys():
    model = lively(Elsewhere())
    expected = model(x())
    model.train()
    means = model.bn.running_mean.clone()
    same(fastconv.fuse(model)(x()), expected)
    assert torch.equal(model.bn.running_mean, means)


class UntraceableDoubled(Doubled):
    def forward(self, x):
        return x if x.mean() > 1e9 else super().forward(x)


@pytest.mark.parametrize("trainable", [False, True])
def test_an_untraceable_class_with_a_call_of_its_own(trainable):
    check(lively(nn.Sequential(UntraceableDoubled(conv_bn_act))), trainable)
