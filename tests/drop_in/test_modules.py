"""Modules: torch's constructors, state, initial weights, padding modes; and tools around them."""

import copy
import pickle

import pytest
import torch
import torch.nn as nn
from torch.nn.utils import fusion, parametrizations, prune

import fastconv

PAIRS = [
    (fastconv.Conv2d, nn.Conv2d, (4, 6, 3), {"padding": 1}),
    (
        fastconv.Conv2d,
        nn.Conv2d,
        (4, 6, (3, 2)),
        {"stride": (2, 1), "dilation": (1, 2), "groups": 2},
    ),
    (fastconv.Conv2d, nn.Conv2d, (4, 6, 4), {"padding": "same", "bias": False}),
    (fastconv.Conv2d, nn.Conv2d, (4, 6, 3), {"padding": "valid"}),
    *(
        (fastconv.Conv2d, nn.Conv2d, (4, 6, 3), {"padding": (2, 1), "padding_mode": mode})
        for mode in ("reflect", "replicate", "circular")
    ),
    (fastconv.Conv2d, nn.Conv2d, (4, 6, 4), {"padding": "same", "padding_mode": "reflect"}),
    (
        fastconv.ConvTranspose2d,
        nn.ConvTranspose2d,
        (4, 6, (3, 2), (3, 1), (1, 0), (2, 1), 2),
        {"dilation": (1, 2)},
    ),
    (fastconv.MaxPool2d, nn.MaxPool2d, (3, 2, 1), {"return_indices": True}),
    (fastconv.MaxPool2d, nn.MaxPool2d, ((3, 2),), {"dilation": 2, "ceil_mode": True}),
    (fastconv.AvgPool2d, nn.AvgPool2d, (3, 2, 1), {"ceil_mode": True, "count_include_pad": False}),
    (fastconv.AvgPool2d, nn.AvgPool2d, (2,), {"divisor_override": 3}),
    (fastconv.AdaptiveAvgPool2d, nn.AdaptiveAvgPool2d, ((3, None),), {}),
    (fastconv.AdaptiveMaxPool2d, nn.AdaptiveMaxPool2d, (3,), {"return_indices": True}),
    (fastconv.Conv1d, nn.Conv1d, (4, 6, 3), {"stride": 2, "dilation": 2, "groups": 2}),
    (fastconv.Conv1d, nn.Conv1d, (4, 6, 4), {"padding": "same", "bias": False}),
    (fastconv.Conv1d, nn.Conv1d, (4, 6, 3), {"padding": 2, "padding_mode": "circular"}),
    (
        fastconv.ConvTranspose1d,
        nn.ConvTranspose1d,
        (4, 6, 3, 3, 1, 2, 2),
        {"dilation": 2, "bias": False},
    ),
    (fastconv.MaxPool1d, nn.MaxPool1d, (3, 2, 1), {"return_indices": True, "ceil_mode": True}),
    (fastconv.AvgPool1d, nn.AvgPool1d, (3, 2, 1), {"count_include_pad": False}),
    (fastconv.AdaptiveAvgPool1d, nn.AdaptiveAvgPool1d, (3,), {}),
    (fastconv.AdaptiveMaxPool1d, nn.AdaptiveMaxPool1d, (3,), {"return_indices": True}),
]


@pytest.mark.parametrize(
    "ours, torchs, args, kwargs", PAIRS, ids=[f"{p[0].__name__}-{p[2]}-{p[3]}" for p in PAIRS]
)
@pytest.mark.parametrize("batched", [True, False])
def test_same_as_torchs(ours, torchs, args, kwargs, batched, strict):
    layers = []
    for kind in (ours, torchs):
        torch.manual_seed(3)
        layers.append(kind(*args, **kwargs))
    a, b = layers
    assert isinstance(a, torchs) and repr(a) == f"fastconv.{b!r}"
    assert a.state_dict().keys() == b.state_dict().keys()
    for x, y in zip(a.parameters(), b.parameters()):
        assert torch.equal(x, y)
    axes = 1 if torchs.__name__.endswith("1d") else 2
    x = torch.randn((2, 4, 11, 9)[: axes + 2])
    x = x if batched else x[0]
    torch.testing.assert_close(a(x), b(x), check_stride=True)


@pytest.mark.parametrize(
    "kind", sorted({p[0] for p in PAIRS if p[0].__name__.endswith("1d")}, key=str)
)
def test_scripted_along_one_axis(kind):
    layer, x = kind(*(4, 6, 3) if "Conv" in kind.__name__ else (3,)), torch.randn(2, 4, 11)
    torch.testing.assert_close(torch.jit.script(layer)(x), layer(x))


@pytest.mark.parametrize("ours, torchs", [("ConvReLU2d", nn.Conv2d), ("ConvReLU1d", nn.Conv1d)])
def test_conv_relu_is_conv_then_relu(ours, torchs):
    layer, plain = getattr(fastconv, ours)(4, 6, 3, padding=1), torchs(4, 6, 3, padding=1)
    plain.load_state_dict(layer.state_dict())
    x = torch.randn((2, 4, 7, 7)[: plain.weight.dim()])
    torch.testing.assert_close(layer(x), plain(x).relu())


@pytest.mark.parametrize("axes", [1, 2])
def test_transposed_convolution_of_a_wanted_size(axes):
    name = f"ConvTranspose{axes}d"
    layers = [getattr(module, name)(4, 6, 3, stride=2) for module in (fastconv, nn)]
    layers[1].load_state_dict(layers[0].state_dict())
    x = torch.randn((2, 4, 5, 7)[: axes + 2])
    for size in ((11, 15), (12, 16), (2, 6, 12, 15)):
        size = size[: len(size) - 2 + axes]
        y = [layer(x, output_size=size) for layer in layers]
        assert y[0].shape[2:] == size[-axes:]
        torch.testing.assert_close(*y)
    for layer in layers:
        with pytest.raises(ValueError, match="valid sizes range"):
            layer(x, [13, 15][:axes])
        with pytest.raises(ValueError, match="padding mode"):
            type(layer)(4, 6, 3, padding_mode="circular")


def test_constructor_errors_are_torchs():
    for args, kwargs in (
        ((4, 6, 3), {"groups": 3}),
        ((4, 6, 3), {"padding": "foo"}),
        ((4, 6, 3), {"padding": "same", "stride": 2}),
        ((4, 6, 3), {"padding_mode": "mirror"}),
        ((4, 6, 3), {"groups": 0}),
    ):
        with pytest.raises(ValueError):
            fastconv.Conv2d(*args, **kwargs)


def test_pickle_deepcopy_and_channels_last():
    layer = fastconv.Conv2d(4, 6, 3).to(memory_format=torch.channels_last)
    x = torch.randn(2, 4, 7, 7)
    y = layer(x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    for other in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(other) is fastconv.Conv2d and torch.equal(other(x), y)


def test_tools_that_rewrite_convolutions_go_on_working():
    x = torch.randn(2, 4, 7, 7)
    layer, norm = fastconv.Conv2d(4, 6, 3).eval(), nn.BatchNorm2d(6).eval()
    norm.running_mean.normal_()
    fused = fusion.fuse_conv_bn_eval(layer, norm)
    assert type(fused) is fastconv.Conv2d
    torch.testing.assert_close(fused(x), norm(layer(x)))

    pruned = fastconv.Conv2d(4, 6, 3)
    prune.l1_unstructured(pruned, "weight", 0.5)
    torch.testing.assert_close(pruned(x), nn.functional.conv2d(x, pruned.weight, pruned.bias))
    assert (pruned.weight == 0).float().mean() >= 0.5

    normed = parametrizations.weight_norm(fastconv.Conv2d(4, 6, 3))
    torch.testing.assert_close(normed(x), nn.functional.conv2d(x, normed.weight, normed.bias))

    # A pruner changes sizes in place; nothing may be remembered from before.
    layer(x)
    with torch.no_grad():
        layer.weight = nn.Parameter(layer.weight[:3])
        layer.bias = nn.Parameter(layer.bias[:3])
    assert layer(x).shape == (2, 3, 5, 5)


def test_weight_written_in_place_is_seen():
    layer, x = fastconv.Conv2d(1, 1, 1, bias=False), torch.ones(1, 1, 2, 2)
    for value in (1.0, 2.0):
        layer.weight.data.fill_(value)
        assert torch.equal(layer(x), torch.full((1, 1, 2, 2), value))


class Scaled(torch.Tensor):
    """A weight class with its own meaning of convolution, as quantisation libraries have them."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is nn.functional.conv2d:
            args = [a.as_subclass(torch.Tensor) if isinstance(a, Scaled) else a for a in args]
            return 2 * nn.functional.conv2d(*args, **(kwargs or {}))
        return super().__torch_function__(function, types, args, kwargs)


def test_weight_subclass_keeps_its_own_convolution():
    layer, x = fastconv.Conv2d(2, 3, 3), torch.randn(1, 2, 5, 5)
    expected = 2 * nn.functional.conv2d(x, layer.weight, layer.bias)
    weight = layer.weight.detach().as_subclass(Scaled)
    torch.testing.assert_close(
        layer._conv_forward(x, weight, layer.bias).as_subclass(torch.Tensor), expected
    )
