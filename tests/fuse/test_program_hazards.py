"""Where a fused network's programs must not run: torch does more than compute, or the network is no
longer what it was."""

import pytest
import torch
import torch.nn as nn
from fuse_programs import Small, images, practised, runs, small_program
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv


@pytest.fixture
def network():
    return small_program()


class _Function(TorchFunctionMode):
    def __torch_function__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


class _Dispatch(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize(
    "context",
    [
        torch.enable_grad,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: fastconv.backend("cpu"),
        lambda: fastconv.dispatch.observing(lambda function, args, kwargs: function(*args)),
        fastconv.dispatch.recording,
        _Function,
        _Dispatch,
        torch.profiler.profile,
        torch.autograd.forward_ad.dual_level,
    ],
)
def test_where_torch_does_more_than_compute_the_graph_runs(network, context):
    with torch.no_grad():
        with context():
            assert not runs(network, images())
        assert runs(network, images())


def test_other_inputs_take_the_graph(network):
    x = images()
    storage_too_small = x.clone()
    with torch.no_grad():
        storage_too_small.untyped_storage().resize_(8)
        for other in (images(batch=3), x[:, :, :, :15], x.double(), x.to("meta"), None):
            assert not runs(network, other)
        assert not runs(network, storage_too_small)
        assert not runs(network, x, x)
        assert runs(network, x)
        assert torch.equal(network(x=x), network(x))


def test_transforms_and_compilers_see_the_graph(network):
    x = images()
    with torch.no_grad():
        expected = network(x)
        mapped = torch.vmap(lambda one: network(one[None])[0])(x)
        torch.testing.assert_close(mapped, expected)
        compiled = torch.compile(network, fullgraph=True, backend="eager")(x)
        assert torch.equal(compiled, expected)
        exported = torch.export.export(network, (x,)).module()(x)
        torch.testing.assert_close(exported, expected)
        assert torch.equal(torch.fx.symbolic_trace(network)(x), expected)


def test_hooks_are_called(network):
    seen = []

    def note(*arguments):
        seen.append(arguments)

    x = images()
    with torch.no_grad():
        for part in (network, network.left, network.linear):
            handle = part.register_forward_hook(note)
            network(x)
            network(x)
            network(x)
            handle.remove()
            assert len(seen) == 3
            seen.clear()
            practised(network, x)
        handle = nn.modules.module.register_module_forward_pre_hook(note)
        network(x)
        handle.remove()
    assert seen


def _in_place(network):
    network.left.weight.mul_(2)
    network.linear.bias.add_(1)


def _replace_parameter(network):
    network.left.weight = nn.Parameter(torch.randn(8, 8, 1, 1))


def _replace_storage(network):
    network.right.weight.data = torch.randn(8, 3, 3, 8).permute(0, 3, 1, 2)


def _resize(network):
    network.left.weight.data = torch.randn(8, 8, 3, 3)
    network.left.padding = (1, 1)


def _add_bias(network):
    network.right.bias = nn.Parameter(torch.randn(8))


def _set_attribute(network):
    network.pool.kernel_size, network.pool.padding = 3, 1


def _replace_module(network):
    network.left = fastconv.Conv2d(8, 8, 3, padding=1)


def _change_linear(network):
    network.linear.weight.data = torch.randn(7, 16)
    network.linear.bias.data = torch.randn(7)


def _change_class(network):
    class Twice(type(network.left)):
        def forward(self, x):
            return 2 * super().forward(x)

    network.left.__class__ = Twice


def _change_graph(network):
    node = next(n for n in network.graph.nodes if n.target is torch.sigmoid)
    node.target = torch.tanh
    network.recompile()


@pytest.mark.parametrize(
    "change",
    [
        _in_place, _replace_parameter, _replace_storage, _resize, _add_bias, _set_attribute,
        _replace_module, _change_linear, _change_class, _change_graph,
    ],
)  # fmt: skip
def test_changes_of_the_network_are_seen(network, change):
    x = images()
    with torch.no_grad():
        before = network(x)
        change(network)
        expected = network.forward(x)
        assert not torch.equal(expected, before)
        for _ in range(4):
            assert torch.equal(network(x), expected)


def test_training_mode_is_seen():
    network = practised(fastconv.fuse(Small().eval()), images())
    network.train()  # the dropout
    with torch.no_grad():
        assert not torch.equal(network(images()), network(images()))
        assert not torch.equal(network(images()), network(images()))


def test_a_call_that_is_met_for_the_first_time_reports_errors_as_ever(network):
    wrong = torch.randn(2, 4, 16, 16)
    with torch.no_grad():
        for _ in range(3):
            with pytest.raises(RuntimeError) as error:
                network(wrong)
            assert "While executing" not in str(error.value)


def test_networks_with_unknown_parts_keep_their_own_calls():
    calls = []

    class Unknown(nn.Module):
        def forward(self, x):
            calls.append(x)
            return x if x.mean() > 1e9 else x + 1

    model = nn.Sequential(nn.Conv2d(3, 4, 3), Unknown(), nn.Conv2d(4, 4, 3)).eval()
    fused = fastconv.fuse(model)
    x = images()
    calls.clear()
    with torch.no_grad():
        for _ in range(4):
            fused(x)
        assert len(calls) == 4 and not runs(fused, x)
