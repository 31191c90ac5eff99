"""Modules, state_dicts, exported and compiled programs, here and in a process that did not make
them.

Functions without `test_` run in child processes, which import this module.
"""

import copy
import pickle
from pathlib import Path

import torch
import torch.nn as nn
from fresh_process import run_fresh
from small_network import answers, equal, images, network

import fastconv
from fastconv.bench.models.resnet import ResNet18


def normed_network(seed=0):
    return network(seed, norm=nn.BatchNorm2d)


def count_call(module, args, y):
    module.calls = getattr(module, "calls", 0) + 1


def compare_files(folder):
    """What another process wrote against the answers that it expects, with as many threads: torch's
    own sums depend on that."""
    torch.set_num_threads(torch.load(f"{folder}/threads.pt"))
    kinds = [type(module) for module in fastconv.convert(normed_network())]
    expected = torch.load(f"{folder}/expected.pt")
    filled = fastconv.convert(normed_network(seed=1))
    filled.load_state_dict(torch.load(f"{folder}/state.pt", weights_only=True))
    pickled = pickle.loads(Path(folder, "net.pickle").read_bytes())
    saved = torch.load(f"{folder}/net.pt", weights_only=False)
    for net in (filled, pickled, saved):
        assert [type(module) for module in net] == kinds
        assert equal(answers(net, images(4)), expected["training"])
    assert pickled[0].calls == saved[0].calls == 1
    program = torch.export.load(f"{folder}/program.pt2")
    assert torch.ops.fastconv.conv2d_fprop.default in {node.target for node in program.graph.nodes}
    assert equal(answers(program.module(), images(5)), expected["program"])


def test_a_fresh_process_reads_what_was_written(tmp_path):
    net = fastconv.convert(normed_network())
    answers(net, images(4))  # buffers are no longer the initial ones
    evaluated = copy.deepcopy(net).eval()
    net[0].register_forward_hook(count_call)
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(net))
    torch.save(net, tmp_path / "net.pt")
    torch.save(net.state_dict(), tmp_path / "state.pt")
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(evaluated, (images(3),), dynamic_shapes={"input": {0: batch}})
    torch.export.save(program, tmp_path / "program.pt2")
    expected = {"training": answers(net, images(4)), "program": answers(evaluated, images(5))}
    torch.save(expected, tmp_path / "expected.pt")
    torch.save(torch.get_num_threads(), tmp_path / "threads.pt")
    run_fresh(tmp_path, (compare_files, str(tmp_path)))


def test_a_state_dict_passes_through_the_converted_network_unchanged():
    plain = normed_network()
    answers(plain, images(4))
    converted, back = fastconv.convert(normed_network(seed=1)), normed_network(seed=2)
    converted.load_state_dict(plain.state_dict())
    back.load_state_dict(converted.state_dict())
    before, after = plain.state_dict(), back.state_dict()
    assert list(before) == list(after) and before._metadata == converted.state_dict()._metadata
    assert equal(list(before.values()), list(after.values()))
    twin = fastconv.convert(copy.deepcopy(plain))
    assert equal(answers(converted, images(4)), answers(twin, images(4)))


class Watched(nn.Module):
    """Two layers of one weight, one bias frozen, and a hook that is a method of this module."""

    def __init__(self):
        super().__init__()
        self.layers = fastconv.convert(nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)))
        self.layers[1].weight = self.layers[0].weight
        self.layers[1].bias.requires_grad_(False)
        self.layers[1].register_forward_hook(self.watch)
        self.calls = 0

    def watch(self, module, args, y):
        self.calls += 1

    def forward(self, x):
        return self.layers(x)


def test_deepcopy_shares_nothing_with_its_original():
    net = Watched()
    other = copy.deepcopy(net)
    first, second = other.layers
    assert type(first) is type(second) is fastconv.Conv2d
    assert first.weight is second.weight and not second.bias.requires_grad
    pointers = [{p.data_ptr() for p in module.parameters()} for module in (net, other)]
    assert pointers[0].isdisjoint(pointers[1])
    y = net(images(2))
    assert torch.equal(other(images(2)), y)
    assert (net.calls, other.calls) == (1, 1)
    other(images(2)).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    with torch.no_grad():
        first.weight.zero_()
    assert torch.equal(net(images(2)), y)


def test_compiled_resnet18_trains_on_every_batch_size_without_recompiling(strict):
    torch.manual_seed(0)
    net = fastconv.convert(ResNet18(num_classes=5), inplace=True)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for count in (2, 5, 3):
            x = torch.randn(count, 3, 64, 64)
            assert equal(answers(compiled, x), answers(net, x)), f"batch {count}"


def test_classes_are_where_saved_networks_look_for_them():
    """torch.save notes down each class by its module and name."""
    for name in ("Conv2d", "ConvReLU2d", "FusedConv2d", "FrozenBatchNorm2d", "MaxPool2d"):
        assert getattr(fastconv.nn, name).__module__ == "fastconv.nn"
    for name in ("Conv1d", "ConvTranspose1d", "FusedConv1d", "FrozenBatchNorm1d", "MaxPool1d"):
        assert getattr(fastconv.nn, name).__module__ == "fastconv.nn1d"
    from fastconv.fuse_tracer import Tracer

    fused = fastconv.fuse(normed_network().eval())
    assert fused.graph._tracer_cls is Tracer
