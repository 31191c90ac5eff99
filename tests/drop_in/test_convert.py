"""fastconv.convert on whole networks: what is swapped, what stays the same, equal training."""

import statistics
import warnings

import pytest
import torch
import torch.nn as nn
import torch.nn.utils.prune

import fastconv
from fastconv.bench.models.resnet import ResNet18


def small_net():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.ModuleDict({"a": nn.Conv2d(8, 8, 3, groups=8)})["a"],
        nn.AvgPool2d(2),
        nn.AdaptiveMaxPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 4),
    )


def test_swaps_all_and_shares_parameters_buffers_and_hooks():
    net = small_net()
    seen = []
    net[0].register_forward_hook(lambda module, args, y: seen.append(type(module)))
    net[3].eval()
    other = fastconv.convert(net)
    assert [type(m) for m in net] != [type(m) for m in other] and type(net[0]) is nn.Conv2d
    for index in (0, 3, 4, 5, 6, 7):
        assert type(other[index]).__module__ == "fastconv.nn"
    assert all(a is b for a, b in zip(net.parameters(), other.parameters()))
    assert all(a is b for a, b in zip(net.buffers(), other.buffers()))
    assert [m.training for m in net] == [m.training for m in other]
    other(torch.randn(2, 3, 12, 12))
    assert seen == [fastconv.Conv2d]


class Watching(nn.Module):
    """Hooks of its own, a plain list of its layers, and a callback that is told the module."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(2, 3, 3)
        self.layers = [self.conv]
        self.seen = self.loaded = None
        self.conv.register_forward_hook(self.watch)
        self.register_load_state_dict_pre_hook(Watching.loading)

    def watch(self, module, args, y):
        self.seen = type(module)

    def loading(self, *args):
        self.loaded = True

    def forward(self, x):
        return self.layers[0](x)


def test_hooks_of_the_copy_belong_to_the_copy():
    net = Watching()
    other = fastconv.convert(net)
    other(torch.randn(1, 2, 5, 5))
    other.load_state_dict(other.state_dict())
    assert (other.seen, other.loaded) == (fastconv.Conv2d, True)
    assert (net.seen, net.loaded) == (None, None)
    net(torch.randn(1, 2, 5, 5))
    assert net.seen is nn.Conv2d


def test_layers_with_computed_weights_convert():
    x = torch.randn(1, 2, 5, 5)
    pruned = nn.utils.prune.l1_unstructured(nn.Conv2d(2, 3, 3), "weight", 0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        normed = nn.utils.weight_norm(nn.Conv2d(2, 3, 3))
    for net in (pruned, normed):
        net(x)
        other = fastconv.convert(nn.Sequential(net))
        assert type(other[0]) is fastconv.Conv2d
        torch.testing.assert_close(other(x), net(x))
        other(x).sum().backward()


def test_inplace_and_optimizer_goes_on():
    torch.manual_seed(0)
    nets = [small_net(), small_net()]
    optimizers = [torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9) for net in nets]
    assert fastconv.convert(nets[1], inplace=True) is nets[1]
    for step in range(5):
        x, target = torch.randn(4, 3, 12, 12), torch.randint(0, 4, (4,))
        losses = []
        for net, optimizer in zip(nets, optimizers):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(net(x), target)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[0] == pytest.approx(losses[1], rel=1e-4), f"step {step}"


class OwnConv(nn.Conv2d):
    def forward(self, x):
        return super().forward(x) * 2


def test_report_says_what_was_left_and_why():
    net = nn.ModuleDict(
        {
            "conv": nn.Conv2d(1, 1, 1),
            "mine": fastconv.Conv2d(1, 1, 1),
            "sub": OwnConv(1, 1, 1),
            "lazy": nn.LazyConv2d(1, 1),
            "three": nn.MaxPool3d(1),
            "up": nn.ConvTranspose3d(1, 1, 1),
            "param": nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1)),
            "relu": nn.ReLU(),
        }
    )
    _, report = fastconv.convert(net, report=True)
    by_name = {r.name: r for r in report}
    assert set(by_name) == {"conv", "mine", "sub", "lazy", "three", "up", "param"}
    assert by_name["conv"].converted and by_name["mine"].converted
    for name, word in (
        ("sub", "subclass"),
        ("lazy", "initialised"),
        ("three", "no kernel"),
        ("up", "no kernel"),
        ("param", "parametrised"),
    ):
        assert not by_name[name].converted and word in by_name[name].reason
    lines = str(report).splitlines()
    assert lines[:2] == [
        "2 of 7 layers are fastconv's",
        "  2 left: fastconv has no kernel for it",
    ]
    assert lines[-len(report) :] == list(map(str, report)) and len(lines) == 5 + len(report)


def test_lazy_layers_of_a_copy_and_of_the_original_are_initialised_once():
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.ReLU(), nn.LazyConv2d(5, 1))
    fast = fastconv.convert(net)
    x = torch.randn(2, 3, 6, 6)
    y = fast(x)
    for again in (fast, net, net):
        assert torch.equal(again(x), y)
    assert type(fastconv.convert(fast)[0]) is fastconv.Conv2d


def test_a_hooks_handle_removes_the_copys_hook():
    calls = []
    net = nn.Sequential(nn.Conv2d(1, 1, 1))
    other = nn.ReLU()
    net.handle = net[0].register_forward_hook(lambda *_: calls.append("net"))
    net.others = other.register_forward_hook(lambda *_: calls.append("other"))
    fast = fastconv.convert(net)
    fast.handle.remove()
    fast(torch.ones(1, 1, 1, 1))
    assert calls == []
    net(torch.ones(1, 1, 1, 1))
    assert calls == ["net"]
    fast.others.remove()
    other(torch.ones(1))
    assert calls == ["net"]


def test_root_module_and_shared_layers():
    conv = nn.Conv2d(2, 2, 3)
    assert type(fastconv.convert(conv)) is fastconv.Conv2d
    net = fastconv.convert(nn.Sequential(conv, conv))
    assert net[0] is net[1] and type(net[0]) is fastconv.Conv2d
    with pytest.raises(TypeError, match="Module"):
        fastconv.convert(conv.weight)


def step(net, x):
    net.zero_grad()
    x = x.detach().requires_grad_()
    y = net(x)
    dy = torch.linspace(-1, 1, y.numel(), dtype=torch.float64).reshape(y.shape).to(y.dtype)
    y.backward(dy)
    return {"output": y.detach(), "input": x.grad, **{n: p.grad for n, p in net.named_parameters()}}


def resnet_errors(seed, training, channels_last):
    """{tensor name: (torch's largest float32 error, ours)} of one training or eval step."""
    torch.manual_seed(seed)
    x = torch.randn(2, 3, 64, 64)
    nets = [ResNet18(num_classes=10).train(training) for _ in range(3)]
    for net in nets[1:]:
        net.load_state_dict(nets[0].state_dict())
    net, fast, exact_net = nets[0], fastconv.convert(nets[1], inplace=True), nets[2].double()
    exact = step(exact_net, x.double())
    if channels_last:
        net, fast, x = (v.to(memory_format=torch.channels_last) for v in (net, fast, x))
    torchs, ours = step(net, x), step(fast, x)
    assert ours.keys() == exact.keys()
    return {
        name: [(t[name].double() - e).abs().max().item() for t in (torchs, ours)]
        for name, e in exact.items()
    }


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "train"])
def test_resnet18_no_worse_than_torch(training, channels_last, strict, exhaustive):
    """Output and every gradient of a converted ResNet-18: at most twice torch's error.

    Medians over draws: now and then rounding puts a value on the other side of a ReLU's kink, in
    torch's run or in ours, and changes gradients by a thousand times the rounding error."""
    if training != channels_last and not exhaustive:
        pytest.skip("each mode and layout runs once; --exhaustive runs all four")
    draws = [resnet_errors(seed, training, channels_last) for seed in range(5 if exhaustive else 3)]
    for name in draws[0]:
        torchs, ours = (statistics.median(draw[name][i] for draw in draws) for i in (0, 1))
        assert ours <= 2 * torchs, f"{name}: {ours:.2e} against torch's {torchs:.2e}"


def test_resnet18_compiled_fullgraph_agrees(exhaustive):
    if not exhaustive:
        pytest.skip("a C++ compiler's time; test_saved_models.py compiles the network too")
    torch.manual_seed(0)
    net = fastconv.convert(ResNet18(num_classes=10).eval(), inplace=True)
    x = torch.randn(2, 3, 64, 64)
    expected = step(net, x)
    torch._dynamo.reset()
    got = step(torch.compile(net, fullgraph=True), x)
    for name, e in expected.items():
        near = got[
            "input" if name == "input" else name if name == "output" else "_orig_mod." + name
        ]
        torch.testing.assert_close(near, e, rtol=1e-3, atol=1e-4 * e.abs().max().item(), msg=name)
