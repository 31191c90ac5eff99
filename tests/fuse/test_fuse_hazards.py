"""fastconv.fuse where fusing would change what a network computes: results stay the original's."""

import functools

import pytest
import torch
import torch.fx
import torch.nn as nn
import torch.nn.functional as F
from fuse_blocks import chains, lively, same
from fuse_nets import Net, block, check, x

import fastconv

# ---- parts that are reached in several ways ---------------------------------------------------


def twice_by_two_names(net):
    net.b = net.a
    return lambda self, x: self.b(self.a(x))


def twice_in_a_list(net):
    net.list[1] = net.list[0]

    def forward(self, x):
        for one in self.list:
            x = one(x)
        return x

    return forward


def by_a_plain_list(net):
    net.all = [net.a, net.b]

    def forward(self, x):
        for one in self.all:
            x = one(x)
        return x

    return forward


def one_convolution_in_two_blocks(net):
    net.b.conv = net.a.conv
    return lambda self, x: self.b(self.a(x))


def a_part_of_a_part(net):
    return lambda self, x: self.a(x) + self.a.conv(x)


def a_weight_of_a_part(net):
    return lambda self, x: F.conv_transpose2d(self.a(x), self.a.conv.weight, padding=1)


def a_bias_of_a_part(net):
    return lambda self, x: self.a(x) + self.a.conv.bias.view(-1, 1, 1)


def a_list_of_names(net):
    return lambda self, x: functools.reduce(lambda y, name: getattr(self, name)(y), "ab", x)


def a_sequence_step_by_step(net):
    def forward(self, x):
        for step in self.seq:
            x = step(x)
        return x

    return forward


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("untraceable", [False, True])
@pytest.mark.parametrize(
    "reach",
    [twice_by_two_names, twice_in_a_list, by_a_plain_list, one_convolution_in_two_blocks,
     a_part_of_a_part, a_weight_of_a_part, a_bias_of_a_part, a_list_of_names,
     a_sequence_step_by_step],
)  # fmt: skip
def test_parts_that_are_reached_in_several_ways(reach, untraceable, trainable):
    net = Net(None, untraceable)
    net.function = reach(net)
    check(lively(net), trainable)


class Opaque(nn.Module):
    """Cannot be traced, and has its parts' uses in its source."""

    expansion = 1

    def __init__(self):
        super().__init__()
        self.called, self.asked, self.read = block(), block(), block()
        self.optional = WithOptional()
        self.list = nn.ModuleList([block(), block()])
        self.taken = nn.ModuleList([block(), block()])
        self.steps = nn.Sequential(block(), block())
        self.asked.size = 3

    def forward(self, x):
        if x.mean() > 1e9:
            return x
        x = self.asked(self.called(x)) * self.asked.size * self.expansion
        for index, one in enumerate(self.list):
            x = one(x) + index
        for step in self.steps:
            x = step(x)
        return self.more(self.optional(x, 2.0))

    def more(self, x):
        for one in self.taken:
            x = one.conv(x)
        return self.read(x) + self.read.conv(x)


class WithOptional(nn.Module):
    def __init__(self):
        super().__init__()
        self.block = block()

    def forward(self, x, scale=1.0):
        return self.block(x) * scale


@pytest.mark.parametrize("trainable", [False, True])
def test_an_untraceable_models_parts_are_fused_where_it_only_calls_them(trainable):
    model = lively(Opaque())
    check(model, trainable)
    _, reports = fastconv.fuse(model, trainable=trainable, report=True)
    found = chains(reports)
    fused = {name for name, taken in found.items() if taken}
    assert fused == {"called.conv", "asked.conv", "list.0.conv", "list.1.conv"}
    assert found.keys() - fused >= {"read.conv", "taken.0.conv", "steps.0.conv"}
    reason = next(report.reason for report in reports if report.name == "read.conv")
    assert "may not just call read" in reason


# ---- what changes between a convolution and its activation -------------------------------------


@torch.fx.wrap
def _double(x):
    return x.mul_(2)


def _set_data(x):
    x.data = x * 2


CHANGES = {
    "out": lambda x: torch.mul(x, 3, out=x),
    "out of clamp": lambda x: torch.clamp(x, min=0, out=x),
    "an operator": lambda x: torch.ops.aten.mul_.Tensor(x, 3),
    "a packet": lambda x: torch.ops.aten.mul_(x, 3),
    "a wrapped function": _double,
    "data": _set_data,
}


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_an_input_that_is_changed_before_the_activation(change, trainable):
    def forward(self, x):
        x = x + 0
        y = self.conv(x)
        CHANGES[change](x)
        return F.relu(y) + x

    check(lively(Net(forward)), trainable)


# ---- forwards that do more than compute ---------------------------------------------------------


def counts(self, x):
    self.n += 1
    return F.relu(self.conv(x)) * self.n


def averages(self, x):
    self.n.mul_(0.5).add_(x.mean().detach())
    return F.relu(self.conv(x)) * self.n


def sets_a_buffer(self, x):
    self.n = self.n * 0.5 + x.mean().detach()
    return F.relu(self.conv(x)) * self.n


def counts_in_python(self, x):
    self.calls = getattr(self, "calls", 0) + 1
    return F.relu(self.conv(x)) * self.calls


def keeps_its_result(self, x):
    self.last = F.relu(self.conv(x))
    return self.last * 2


def asks_for_the_class(self, x):
    y = F.relu(self.conv(x))
    return y * 2 if isinstance(x, torch.Tensor) else y


def asks_for_an_attribute(self, x):
    y = F.relu(self.conv(x))
    return y * 2 if hasattr(x, "tag") else y


def asks_for_gradients(self, x):
    y = F.relu(self.conv(x))
    return y * 2 if torch.is_grad_enabled() else y


def casts(self, x):
    with torch.autocast("cpu", torch.bfloat16):
        y = self.conv(x.float()).double()
    return F.relu(self.a.conv(y))


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(
    "forward",
    [counts, averages, sets_a_buffer, counts_in_python, keeps_its_result, asks_for_the_class,
     asks_for_an_attribute, asks_for_gradients],
)  # fmt: skip
def test_forwards_that_do_more_than_compute(forward, trainable):
    fused = check(lively(Net(forward)), trainable)
    if forward is asks_for_gradients:
        with torch.no_grad():
            same(fused(x()), F.relu(fused.conv(x())))


@pytest.mark.parametrize("trainable", [False, True])
def test_autocast_inside_of_a_forward_is_kept(trainable):
    model = lively(Net(casts)).float()
    inputs = x().float()
    fused = fastconv.fuse(model, trainable=trainable)
    seen = []
    fused.conv.register_forward_hook(lambda module, inputs, y: seen.append(y.dtype))
    fused.a.conv.double()  # what the forward gives it
    with torch.no_grad():
        fused(inputs)
    assert seen == [torch.bfloat16]


def test_random_numbers_are_drawn_at_each_call():
    model = lively(Net(lambda self, x: F.relu(self.conv(x)) + torch.randn(4, 1, 1)))
    before = torch.random.get_rng_state()
    fused = fastconv.fuse(model)
    assert torch.equal(before, torch.random.get_rng_state())
    assert not torch.equal(fused(x()), fused(x()))


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -gradient


def reverses(self, x):
    return Reverse.apply(F.relu(self.conv(x)))


def without_gradient(self, x):
    with torch.no_grad():
        x = F.relu(self.a(x))
    return self.conv(x)


@torch.no_grad()
def _frozen(self, x):
    return F.relu(self.a(x))


def decorated(self, x):
    return self.conv(_frozen(self, x))


@pytest.mark.parametrize("forward", [reverses, without_gradient, decorated])
def test_gradients_stop_and_turn_where_they_did(forward):
    model = lively(Net(forward))
    fused = fastconv.fuse(model, trainable=True)
    results = []
    for net in (model, fused):
        model.zero_grad(set_to_none=True)
        net(x()).square().sum().backward()
        results.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    assert results[0].keys() == results[1].keys()
    for name, gradient in results[0].items():
        same(results[1][name], gradient)
