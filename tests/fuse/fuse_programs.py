"""A small network whose calls become a program, and whether they have."""

import torch
import torch.nn as nn
import torch.nn.functional as F

import fastconv
from fastconv.fusion.network import programs_of


class Small(nn.Module):
    """A convolution, pools, a sum, a product, a concatenation, a function of Python, and a layer
    without a native call."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU())
        self.pool = nn.MaxPool2d(2)
        self.left, self.right = nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 3, padding=1, bias=False)
        self.dropout = nn.Dropout()
        self.linear = nn.Linear(16, 5)
        self.scale = nn.Parameter(torch.rand(8, 1, 1))

    def forward(self, x):
        x = self.pool(self.first(x))
        left = self.left(x)
        right = self.right(x) * torch.sigmoid(left.mean((2, 3), keepdim=True))
        x = torch.cat([left + right, self.dropout(right) * self.scale], 1)
        x = F.adaptive_avg_pool2d(x, 1).flatten(1)
        return self.linear(x.view(x.size(0), -1))


class Rows(nn.Module):
    """Layers along one axis, transposed ones too; concatenations of channels and of pixels."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv1d(3, 6, 3, padding=1), nn.BatchNorm1d(6), nn.SiLU())
        self.pool = nn.MaxPool1d(2)
        self.left, self.right = nn.Conv1d(6, 5, 1), nn.Conv1d(6, 7, 3, padding=1)
        self.up = nn.Sequential(nn.ConvTranspose1d(12, 6, 2, 2), nn.BatchNorm1d(6))
        self.average = nn.AvgPool1d(3, 1, 1)
        self.four, self.two = nn.AdaptiveAvgPool1d(4), nn.AdaptiveMaxPool1d(2)

    def forward(self, x):
        x = self.first(x)
        y = self.pool(x)
        y = torch.cat([self.left(y), self.right(y)], 1)
        y = torch.relu(self.up(y) + x)
        return torch.cat([self.four(self.average(y)), self.two(y)], 2)


def images(seed=0, batch=2, size=16):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


def runs(network, *arguments):
    """Whether a program runs such a call."""
    return programs_of(network).run(arguments) is not None


def practised(network, *arguments):
    """The network after as many calls as it takes to make a program."""
    with torch.no_grad():
        network(*arguments)
        network(*arguments)
        assert runs(network, *arguments)
    return network


def small_program():
    """A fused Small, for whose images there is a program."""
    torch.manual_seed(0)
    return practised(fastconv.fuse(Small().eval()), images())
