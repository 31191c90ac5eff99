"""TorchScript, torch.jit.trace, torch.profiler and torch.fx see fastconv's layers as they see
torch's, or under fastconv's names."""

import warnings

import pytest
import torch
import torch.fx as fx
import torch.nn as nn
from torch.profiler import ProfilerActivity, profile

import fastconv

LAYERS = {
    "zeros": lambda m: m.Conv2d(4, 6, 3, 2, 1, 1, 2),
    "same, no bias": lambda m: m.Conv2d(4, 6, (2, 3), padding="same", bias=False),
    "circular": lambda m: m.Conv2d(4, 6, 3, padding=(1, 2), padding_mode="circular"),
    "max": lambda m: m.MaxPool2d(3, 2, 1, ceil_mode=True),
    "max with indices": lambda m: m.MaxPool2d(2, return_indices=True),
    "avg": lambda m: m.AvgPool2d((3, 2), 2, 1, count_include_pad=False, divisor_override=5),
    "adaptive avg": lambda m: m.AdaptiveAvgPool2d((2, 3)),
    "adaptive max": lambda m: m.AdaptiveMaxPool2d(2),
    "adaptive max with indices": lambda m: m.AdaptiveMaxPool2d((2, 3), return_indices=True),
}
ignore_deprecation = pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


@ignore_deprecation
@pytest.mark.parametrize("name", LAYERS)
def test_script(name, tmp_path):
    torch.manual_seed(1)
    theirs = LAYERS[name](nn)
    torch.manual_seed(1)
    ours = LAYERS[name](fastconv)
    x = torch.randn(2, 4, 7, 7)
    torch.jit.script(nn.Sequential(ours)).save(str(tmp_path / "layer.pt"))
    loaded = torch.jit.load(str(tmp_path / "layer.pt"))
    assert loaded.state_dict().keys() == nn.Sequential(theirs).state_dict().keys()
    for got, expected in zip(as_tuple(loaded(x)), as_tuple(theirs(x)), strict=True):
        assert torch.equal(got, expected)
    assert type(ours).__module__ == "fastconv.nn"  # scripting leaves the layer itself alone


@ignore_deprecation
def test_script_of_a_network_and_of_a_fused_convolution():
    net = fastconv.convert(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.MaxPool2d(2)))
    relu = fastconv.ConvReLU2d(4, 4, 3, padding=1, padding_mode="reflect")
    net, x = nn.Sequential(net, relu).eval(), torch.randn(1, 3, 12, 12)
    torch.testing.assert_close(torch.jit.script(net)(x), net(x))


@ignore_deprecation
def test_trace_warns_of_nothing():
    """No Python of ours looks at sizes there, which would be recorded as constants."""
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2))
    for net in (fastconv.convert(plain.eval()), fastconv.fuse(plain)):
        with warnings.catch_warnings():
            warnings.simplefilter("error", torch.jit.TracerWarning)
            traced = torch.jit.trace(net, torch.randn(1, 3, 9, 9))
        x = torch.randn(2, 3, 11, 8)
        torch.testing.assert_close(traced(x), net(x))


def test_profile_shows_operators_and_sizes():
    net = nn.Sequential(
        fastconv.Conv2d(3, 4, 3), fastconv.MaxPool2d(2), fastconv.AdaptiveAvgPool2d(1)
    )
    x = torch.randn(1, 3, 8, 8)
    with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as profiler:
        with torch.no_grad():
            net(x)
        net(x).sum().backward()
    shapes = {event.name: event.input_shapes for event in profiler.events()}
    assert shapes["fastconv::conv2d_fprop"] == [[1, 3, 8, 8], [4, 3, 3, 3], [4]]
    assert {"fastconv::pool2d_max_values", "fastconv::pool2d_avg_fwd"} <= shapes.keys()
    assert {"fastconv::conv2d_wgrad", "fastconv::pool2d_max_bwd"} <= shapes.keys()


def test_symbolic_tracing_records_functions_of_fastconv():
    net = nn.Sequential(fastconv.Conv2d(3, 4, 3), fastconv.MaxPool2d(2))
    graph = fx.symbolic_trace(net)
    targets = [node.target for node in graph.graph.nodes if node.op == "call_function"]
    assert targets == [fastconv.conv2d, fastconv.max_pool2d]
    converted = fastconv.convert(fx.symbolic_trace(fastconv.unconvert(net)))
    assert [type(part) for part in converted.children()] == [fastconv.Conv2d, fastconv.MaxPool2d]
    x = torch.randn(1, 3, 8, 8)
    assert torch.equal(graph(x), net(x)) and torch.equal(converted(x), net(x))
