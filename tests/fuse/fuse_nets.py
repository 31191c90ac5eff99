"""A network of several blocks for fastconv.fuse, and the check of a fused model."""

import copy

import torch
import torch.nn as nn
from fuse_blocks import Block, conv_bn_act, lively, same

import fastconv


def x():
    return torch.randn(2, 4, 9, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


def block():
    return Block(conv_bn_act)


class Net(nn.Module):
    """Blocks a and b, a convolution, a list, buffers; what it does with them is a function's."""

    def __init__(self, forward, untraceable=False):
        super().__init__()
        self.a, self.b, self.conv, self.act = block(), block(), nn.Conv2d(4, 4, 1), nn.ReLU()
        self.list = nn.ModuleList([block(), block()])
        self.seq = nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU())
        self.register_buffer("n", torch.ones((), dtype=torch.float64))
        self.function, self.untraceable = forward, untraceable

    def forward(self, x):
        if self.untraceable and x.mean() > 1e9:
            return x
        return self.function(self, x)


def copied(model):
    """A copy with the statistics that lively gives."""
    return lively(copy.deepcopy(model))


def check(model, trainable, inputs=None):
    """Fuses a model and holds it, called twice, against the model, which must stay as it is."""
    kept, expected = copy.deepcopy(model), copy.deepcopy(model)
    fused = fastconv.fuse(model, trainable=trainable)
    for before, after in zip(kept.state_dict().items(), model.state_dict().items(), strict=True):
        assert before[0] == after[0] and torch.equal(before[1], after[1])
    for _ in range(2):
        same(fused(x() if inputs is None else inputs), expected(x() if inputs is None else inputs))
    return fused
