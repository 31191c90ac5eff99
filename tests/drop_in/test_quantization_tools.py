"""torch.ao.quantization and fastconv's layers: the result is what it is for torch's layers, or an
error says how to get there; no layer stays in floating point unnoticed."""

import copy

import pytest
import torch
import torch.ao.quantization as quantization
import torch.fx as fx
import torch.nn as nn
from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

import fastconv

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
]


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        quantization.QuantStub(),
        nn.Conv2d(3, 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(4, 4, 1),
        nn.AvgPool2d(2),
        nn.AdaptiveAvgPool2d(1),
        quantization.DeQuantStub(),
    )


def images(seed=1):
    return torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed))


def types(model):
    return [type(module) for module in model.modules() if not isinstance(module, fx.GraphModule)]


def post_training(net):
    net = net.eval()
    net.qconfig = quantization.default_qconfig
    prepared = quantization.prepare(net)
    prepared(images())
    return quantization.convert(prepared)


def quantization_aware(net):
    net = net.train()
    net.qconfig = quantization.get_default_qat_qconfig("fbgemm")
    prepared = quantization.prepare_qat(net)
    prepared(images()).sum().backward()
    return quantization.convert(prepared.eval())


def fused_post_training(net):
    return post_training(quantization.fuse_modules(net.eval(), [["1", "2", "3"]]))


def graph_mode(net):
    mapping = quantization.get_default_qconfig_mapping("fbgemm")
    prepared = prepare_fx(net.eval(), mapping, (images(),))
    prepared(images())
    return convert_fx(prepared)


@pytest.mark.parametrize("quantise", [post_training, quantization_aware])
def test_eager_mode_takes_converted_layers(quantise):
    expected = quantise(network())
    converted = fastconv.convert(network())
    got = quantise(converted)
    assert types(got) == types(expected)
    assert torch.ao.nn.quantized.Conv2d in types(got)
    assert torch.equal(got(images(2)), expected(images(2)))
    assert fastconv.Conv2d in types(converted)  # only the copy that was quantised has changed


@pytest.mark.parametrize(
    "quantise", [post_training, quantization_aware, fused_post_training, graph_mode]
)
def test_every_mode_takes_unconverted_networks(quantise):
    expected = quantise(network())
    got = quantise(fastconv.unconvert(fastconv.convert(network())))
    assert types(got) == types(expected)
    assert torch.equal(got(images(2)), expected(images(2)))


def test_what_looks_up_exact_classes_says_so():
    net = fastconv.convert(network()).eval()
    with pytest.raises(AssertionError, match="fuser method"):
        quantization.fuse_modules(net, [["1", "2", "3"]])
    with pytest.raises(TypeError, match=r"conv2d.*fastconv\.unconvert"):
        graph_mode(net)


def test_a_layer_without_a_class_of_torch_refuses_a_qconfig():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()).eval()
    for other in (fastconv.fuse(net), nn.Sequential(fastconv.ConvReLU2d(3, 4, 3)).eval()):
        other.qconfig = quantization.default_qconfig
        with pytest.raises(TypeError, match=r"torch\.nn has no class"):
            quantization.prepare(other, inplace=True)


def test_a_layer_that_is_left_out_stays():
    net = fastconv.convert(network()).eval()
    net[1].qconfig = None
    layer = copy.deepcopy(net[1])
    assert layer.qconfig is None
    got = post_training(net)
    assert type(got[1]) is fastconv.Conv2d
    assert type(got[5]) is torch.ao.nn.quantized.Conv2d
    del layer.qconfig
    assert not hasattr(layer, "qconfig")


# ---- unconvert -----------------------------------------------------------------------------------


@pytest.mark.parametrize("inplace", [False, True])
def test_unconvert_undoes_convert(inplace):
    plain = network()
    converted = fastconv.convert(plain)
    calls = []
    converted[1].register_forward_hook(lambda *_: calls.append(1))
    kinds = types(converted)
    back = fastconv.unconvert(converted, inplace=inplace)
    assert (back is converted) == inplace
    assert types(back) == types(plain)
    assert types(converted) == (types(plain) if inplace else kinds)
    assert all(a is b for a, b in zip(back.parameters(), plain.parameters()))
    assert torch.equal(back(images()), plain(images())) and calls == [1]
    assert types(fastconv.convert(back)) == kinds


def test_unconvert_changes_nothing_where_it_cannot_change_all():
    net = nn.Sequential(fastconv.Conv2d(3, 4, 3), fastconv.ConvReLU2d(4, 4, 3))
    with pytest.raises(
        TypeError, match=r"unconvert\(\): 1: torch.nn has no class for a ConvReLU2d"
    ):
        fastconv.unconvert(net, inplace=True)
    assert type(net[0]) is fastconv.Conv2d
    with pytest.raises(TypeError, match=r"must be a torch\.nn\.Module"):
        fastconv.unconvert([net])
