"""Blocks for fastconv.fuse, each with what goes into its convolution's call, and how fused modules
are compared: in float64, where folding rounds far below any mistake."""

import torch
import torch.nn as nn
import torch.nn.functional as F

# Relative to the largest value, through all layers of a network in float64.
FLOAT64_ROUNDING = 1e-12


def lively(model):
    """BatchNorms with statistics, weights and biases that matter; float64; eval mode."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            is_norm = isinstance(module, nn.modules.batchnorm._BatchNorm)
            if is_norm and module.running_mean is not None:
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
            if is_norm and module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return model.double().eval()


def same(got, expected, tolerance=FLOAT64_ROUNDING):
    assert got.shape == expected.shape and got.dtype == expected.dtype
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


def chains(reports):
    """{name of a convolution: what went into its call}"""
    types = ("Conv1d", "Conv2d", "ConvTranspose1d", "ConvTranspose2d")
    return {report.name: report.fused for report in reports if report.type in types}


class Block(nn.Module):
    """conv, bn and act called by a function of (self, x)."""

    def __init__(self, forward, conv=None, bn=None, act=None):
        super().__init__()
        self.conv = conv or nn.Conv2d(4, 4, 3, padding=1)
        self.bn = bn or nn.BatchNorm2d(self.conv.out_channels)
        self.act = act or nn.ReLU()
        self.other = nn.Conv2d(4, 4, 1)
        self.scale = nn.Parameter(torch.rand(4, 1, 1))
        self.function = forward

    def forward(self, x):
        return self.function(self, x)


class Untraceable(nn.Module):
    """Does nothing with its part but call it."""

    def __init__(self, part):
        super().__init__()
        self.part = part

    def forward(self, x):
        return x if x.mean() > 1e9 else self.part(x)


class Normalising(nn.BatchNorm1d):
    """A forward of its own, which calls torch's function."""

    def forward(self, x):
        statistics = self.running_mean, self.running_var
        return F.batch_norm(x, *statistics, self.weight, self.bias, self.training, eps=self.eps)


def conv_bn_act(self, x):
    return self.act(self.bn(self.conv(x)))


def read_twice(self, x):
    y = self.conv(x)
    return self.bn(y) + y.mean()


def called_twice(self, x):
    return self.bn(self.conv(self.bn(self.conv(x))))


def norm_first(self, x):
    return self.conv(self.act(self.bn(x)))


def activation_before_norm(self, x):
    return self.bn(self.act(self.conv(x)))


def sum_after_activation(self, x):
    return self.act(self.conv(x)) + x


def sum_before_norm(self, x):
    return self.bn(self.conv(x) + x)


def twice_itself(self, x):
    y = self.conv(x)
    return self.act(y + y)


def plus_number(self, x):
    return self.act(self.conv(x) + 1.5)


def plus_alpha(self, x):
    return self.act(torch.add(self.conv(x), x, alpha=2))


def plus_broadcast(self, x):
    return self.act(self.conv(x) + self.scale)


def residual_iadd(self, x):
    y = self.bn(self.conv(x))
    y += x
    return self.act(y)


def iadd_to_another(self, x):
    y = self.other(x)
    y += self.conv(x)
    return self.act(y) + y


def input_changed_between(self, x):
    x = x + 0
    y = self.bn(self.conv(x))
    x.mul_(3)
    return self.act(y + x)


def input_changed_by_module(self, x):
    x = x + 0
    y = self.conv(x)
    z = F.relu(x, True)
    return self.act(y + z)


def residual_changed_between(self, x):
    r = self.other(x)
    y = self.conv(x)
    r.add_(1)
    return self.act(y + r)


def tanh_gelu(self, x):
    return F.gelu(self.conv(x), approximate="tanh")


def by_functions(self, x):
    return F.relu6(torch.add(self.bn(self.conv(x)), x), True)


def by_methods(self, x):
    return self.bn(self.conv(x)).add_(x).relu_()


def two_results(self, x):
    y = self.conv(x)
    return self.act(y), y


ALL = ("bn", "act")
BLOCKS = {
    "conv bn act": (Block(conv_bn_act), ALL),
    "bias free": (Block(conv_bn_act, nn.Conv2d(4, 4, 3, padding=1, bias=False)), ALL),
    "groups, stride, dilation": (
        Block(conv_bn_act, nn.Conv2d(4, 8, 3, 2, 2, dilation=2, groups=4)),
        ALL,
    ),
    "padding same": (Block(conv_bn_act, nn.Conv2d(4, 4, (2, 4), padding="same")), ALL),
    "reflected padding": (
        Block(conv_bn_act, nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
        ALL,
    ),
    "reflected padding and a residual": (
        Block(residual_iadd, nn.Conv2d(4, 4, 3, padding=1, padding_mode="reflect")),
        ("bn", "residual", "act"),
    ),
    "no affine": (Block(conv_bn_act, bn=nn.BatchNorm2d(4, affine=False)), ALL),
    "batch statistics": (Block(conv_bn_act, bn=nn.BatchNorm2d(4, track_running_stats=False)), ()),
    "relu6": (Block(conv_bn_act, act=nn.ReLU6(inplace=True)), ALL),
    "silu": (Block(conv_bn_act, act=nn.SiLU(inplace=True)), ALL),
    "gelu": (Block(conv_bn_act, act=nn.GELU()), ALL),
    "gelu by tanh": (Block(conv_bn_act, act=nn.GELU(approximate="tanh")), ("bn",)),
    "gelu by tanh, function": (Block(tanh_gelu), ()),
    "hardswish": (Block(conv_bn_act, act=nn.Hardswish()), ALL),
    "sigmoid": (Block(conv_bn_act, act=nn.Sigmoid()), ALL),
    "tanh": (Block(conv_bn_act, act=nn.Tanh()), ALL),
    "mish": (Block(conv_bn_act, act=nn.Mish(inplace=True)), ALL),
    "hardsigmoid": (Block(conv_bn_act, act=nn.Hardsigmoid()), ALL),
    "leaky relu": (Block(conv_bn_act, act=nn.LeakyReLU()), ALL),
    "steep leaky relu": (Block(conv_bn_act, act=nn.LeakyReLU(-1.5, inplace=True)), ALL),
    "elu of alpha 2": (Block(conv_bn_act, act=nn.ELU(2)), ALL),
    "softplus": (Block(conv_bn_act, act=nn.Softplus()), ("bn",)),
    "leaky relu, function": (
        Block(lambda self, x: F.leaky_relu(self.conv(x), 0.2, True)),
        ("leaky_relu(0.2)",),
    ),
    "elu, function": (Block(lambda self, x: F.elu(self.conv(x), alpha=0.3)), ("elu(0.3)",)),
    "elu in place, of a scale": (Block(lambda self, x: F.elu_(self.conv(x), 0.3, 2.0)), ()),
    "tanh, function": (Block(lambda self, x: torch.tanh(self.conv(x))), ("tanh",)),
    "sigmoid, method": (Block(lambda self, x: self.conv(x).sigmoid_()), ("sigmoid",)),
    "residual": (Block(residual_iadd), ("bn", "residual", "act")),
    "functions": (Block(by_functions), ("bn", "residual", "relu6")),
    "methods": (Block(by_methods), ("bn", "residual", "relu")),
    "read twice": (Block(read_twice), ()),
    "called twice": (Block(called_twice), ()),
    "norm first": (Block(norm_first), ()),
    "activation before norm": (Block(activation_before_norm), ("act",)),
    "sum after activation": (Block(sum_after_activation), ("act",)),
    "sum before norm": (Block(sum_before_norm), ("residual",)),
    "y + y": (Block(twice_itself), ()),
    "plus a number": (Block(plus_number), ()),
    "plus alpha": (Block(plus_alpha), ()),
    "plus a broadcast": (Block(plus_broadcast), ("residual", "act")),
    "iadd to another": (Block(iadd_to_another), ()),
    "input changed between": (Block(input_changed_between), ("bn",)),
    "input changed by a function": (Block(input_changed_by_module), ()),
    "residual changed between": (Block(residual_changed_between), ()),
    "two results": (Block(two_results), ()),
    "transposed": (Block(conv_bn_act, nn.ConvTranspose2d(4, 4, 3, 2, 1, 1)), ALL),
    "transposed, grouped, residual": (
        Block(residual_iadd, nn.ConvTranspose2d(4, 4, 3, 1, 1, groups=2, bias=False)),
        ("bn", "residual", "act"),
    ),
    "one axis": (
        Block(conv_bn_act, nn.Conv1d(4, 6, 3, 2, padding=2, groups=2), nn.BatchNorm1d(6)),
        ALL,
    ),
    "one axis, residual": (
        Block(residual_iadd, nn.Conv1d(4, 4, 3, padding="same"), nn.SyncBatchNorm(4)),
        ("bn", "residual", "act"),
    ),
    "one axis, functions": (
        Block(by_functions, nn.Conv1d(4, 4, 1, bias=False), nn.BatchNorm1d(4)),
        ("bn", "residual", "relu6"),
    ),
    "one axis, a norm that takes any number": (
        Block(conv_bn_act, nn.Conv1d(4, 4, 3), Normalising(4)),
        ("bn", "act"),
    ),
    "one axis, transposed": (
        Block(conv_bn_act, nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2, dilation=2), nn.BatchNorm1d(6)),
        ALL,
    ),
    "one axis, transposed, residual": (
        Block(residual_iadd, nn.ConvTranspose1d(4, 4, 3, padding=1), nn.BatchNorm1d(4)),
        ("bn", "residual", "act"),
    ),
}
