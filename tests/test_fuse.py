"""fastconv.fuse: what it fuses, what it leaves and why, and that the numbers stay.

Modules are compared in float64, where folding rounds far below any mistake."""

import copy
import io

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils import parametrizations, prune

import fastconv
from fastconv.bench.models import NETWORKS
from fastconv.nn import FrozenBatchNorm2d, FusedConv2d

# Relative to the largest value, through all layers of a network in float64.
FLOAT64_ROUNDING = 1e-12


def lively(model):
    """BatchNorms with statistics, weights and biases that matter; float64; eval mode."""
    torch.manual_seed(1)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
                module.running_mean.normal_(0, 0.2)
                module.running_var.uniform_(0.5, 2)
            if isinstance(module, nn.BatchNorm2d) and module.affine:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.2)
    return model.double().eval()


def same(got, expected, tolerance=FLOAT64_ROUNDING):
    assert got.shape == expected.shape and got.dtype == expected.dtype
    assert (got - expected).abs().max() <= tolerance * expected.abs().max()


def chains(reports):
    """{name of a convolution: what went into its call}"""
    return {report.name: report.fused for report in reports if report.type == "Conv2d"}


# ---- networks ------------------------------------------------------------------------------------


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
                    assert kind not in ("ReLU", "ReLU6", "SiLU", "GELU", "Hardswish"), node.target


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


# ---- blocks: (module, what goes into `conv`'s call) ----------------------------------------------


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
    "sigmoid": (Block(conv_bn_act, act=nn.Sigmoid()), ("bn",)),
    "leaky relu": (Block(conv_bn_act, act=nn.LeakyReLU()), ("bn",)),
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
}


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("trainable", [False, True])
def test_blocks(name, trainable):
    block, expected = BLOCKS[name]
    block = lively(copy.deepcopy(block))
    fused, reports = fastconv.fuse(block, trainable=trainable, report=True)
    assert chains(reports)["conv"] == expected
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    ours, theirs = fused(x), block(x)
    for got, wanted in zip(*(r if isinstance(r, tuple) else (r,) for r in (ours, theirs))):
        same(got, wanted)


def test_what_is_left_has_a_reason():
    for name, part in (
        ("read twice", "read 2 times"),
        ("called twice", "called 2 times"),
        ("sigmoid", "followed by act"),
        ("input changed between", "changed before"),
        ("two results", "read 2 times"),
    ):
        _, reports = fastconv.fuse(lively(copy.deepcopy(BLOCKS[name][0])), report=True)
        report = next(r for r in reports if r.name == "conv")
        assert part in report.reason and report.reason in str(report)
    _, reports = fastconv.fuse(lively(copy.deepcopy(BLOCKS["norm first"][0])), report=True)
    (report,) = [r for r in reports if r.type == "BatchNorm2d"]
    assert report.name == "bn" and report.reason


# ---- what cannot be traced, and what must not be looked through ----------------------------------


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


# ---- training with frozen BatchNorms -------------------------------------------------------------


class Droops(nn.Module):
    """Training and evaluation differ."""

    def __init__(self):
        super().__init__()
        self.block = Block(residual_iadd)
        self.last = Block(conv_bn_act, act=nn.SiLU())

    def forward(self, x):
        x = F.dropout(self.block(x), 0.5, self.training)
        return self.last(x)


def test_frozen_norms_train_as_torchs_do_in_eval_mode():
    model = lively(Droops())
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    fused, reports = fastconv.fuse(model, trainable=True, report=True)
    assert chains(reports)["block.conv"] == ("block.bn", "residual", "block.act")
    unused = {f"{part}.{name}" for part in ("block", "last")
              for name in ("scale", "other.weight", "other.bias")}  # fmt: skip
    assert set(fused.state_dict()) == set(model.state_dict()) - unused
    for name, parameter in fused.named_parameters():
        assert parameter is model.get_parameter(name)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    fused.train()
    buffers = {name: buffer.clone() for name, buffer in fused.named_buffers()}
    results = []
    for network in (model, fused):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(2)
        y = network(x)
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == 1 + 2 * 4  # two convolutions, two BatchNorms
    for got, wanted in zip(results[1], results[0], strict=True):
        same(got, wanted)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in fused.named_buffers())
    fused.eval(), model.eval()
    same(fused(x), model(x))


def test_a_frozen_norm_alone():
    norm = nn.BatchNorm2d(4)
    model = lively(nn.Sequential(norm, nn.Conv2d(4, 4, 1)))
    fused = fastconv.fuse(model, trainable=True).train()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    same(fused(x), model(x))
    assert any(isinstance(m, FrozenBatchNorm2d) for m in fused.modules())


def test_the_fused_call_is_differentiable_twice():
    layer = FusedConv2d(2, 3, 3).double()
    scale, shift = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    tensors = [torch.randn(size, dtype=torch.float64, requires_grad=True)
               for size in ((1, 2, 5, 4), (1, 3, 3, 2))]  # fmt: skip

    def call(x, residual, scale, shift):
        return layer(x, residual, (scale, shift), "silu")

    scale, shift = scale.detach().requires_grad_(), shift.detach().requires_grad_()
    assert torch.autograd.gradcheck(call, (*tensors, scale, shift))
    assert torch.autograd.gradgradcheck(call, (*tensors, scale, shift))


# ---- as other modules ----------------------------------------------------------------------------


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


@pytest.mark.parametrize("name", ["residual", "plus a broadcast", "functions"])
def test_dtypes_under_autocast_are_torchs(name):
    model = lively(copy.deepcopy(BLOCKS[name][0])).float()
    x = torch.randn(2, 4, 9, 8)
    fused = fastconv.fuse(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        same(fused(x), model(x), 2**-6)  # x is float32
        same(fused(x.bfloat16()), model(x.bfloat16()), 2**-6)


def test_the_call_broadcasts_and_promotes_as_torch_adds():
    layer = FusedConv2d(4, 6, (3, 2), stride=2, padding="valid").double()
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    y = layer(x)
    for residual in (torch.randn_like(y), torch.randn(6, 1, 1), torch.randn_like(y).float(), 2.0,
                     torch.randn(3, 2, 6, 4, 4, dtype=torch.float64)):  # fmt: skip
        same(layer(x, residual, activation="relu"), torch.relu(y + residual))
    same(layer(x[0], y[0], activation="silu"), F.silu(y[0] + y[0]))


def test_errors():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        fastconv.fuse(3)
    conv = nn.Conv2d(4, 4, 3)
    with pytest.raises(ValueError, match="no running statistics"):
        fastconv.fold_batch_norm(conv, nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ValueError, match="5 channels, conv has 4"):
        fastconv.fold_batch_norm(conv, nn.BatchNorm2d(5))
    with pytest.raises(ValueError, match="activation"):
        FusedConv2d(4, 4, 3)(torch.randn(1, 4, 5, 5), activation="tanh")
