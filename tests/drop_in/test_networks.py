"""The networks of fastconv.bench.models: they are the published ones, and converted they infer and
train as before."""

import copy
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from fastconv.bench.cases.selection import LAYOUTS
from fastconv.bench.measure.networks import TOLERANCE
from fastconv.bench.models import NETWORKS
from fastconv.bench.models.mobilenet import MobileNetV1
from fastconv.bench.models.small_cnn import SmallCNN
from fastconv.bench.models.stochastic_depth import StochasticDepth
from fastconv.dispatch import get_backend
from fastconv.problem import ConvOp

ALL = {**NETWORKS, "small_cnn": SmallCNN}
SWAPPED = (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d, nn.AdaptiveAvgPool2d)

# Where torchvision has the network, its count; MobileNetV1's by the sizes of its paper's table 1,
# which rounds them to 4.2 and, in table 4, 29.3 million.
PARAMETERS = {
    "resnet18": 11_689_512,
    "resnet50": 25_557_032,
    "mobilenet_v1": 4_231_976,
    "mobilenet_v1_dense": 29_294_088,
    "mobilenet_v2": 3_504_872,
    "squeezenet1_1": 1_235_496,
    "efficientnet_b0": 5_288_548,
    "convnext_tiny": 28_589_128,
}
# Some of torchvision's state_dict.
STATE = {
    "resnet18": {
        "layer1.0.conv1.weight": (64, 64, 3, 3),
        "layer2.0.downsample.0.weight": (128, 64, 1, 1),
        "layer4.1.bn2.running_var": (512,),
        "fc.weight": (1000, 512),
    },
    "resnet50": {
        "conv1.weight": (64, 3, 7, 7),
        "layer1.0.downsample.0.weight": (256, 64, 1, 1),
        "layer2.0.conv2.weight": (128, 128, 3, 3),
        "layer3.5.conv3.weight": (1024, 256, 1, 1),
        "layer4.2.bn3.num_batches_tracked": (),
        "fc.bias": (1000,),
    },
    "mobilenet_v2": {
        "features.0.0.weight": (32, 3, 3, 3),
        "features.1.conv.0.0.weight": (32, 1, 3, 3),
        "features.2.conv.1.0.weight": (96, 1, 3, 3),
        "features.2.conv.3.running_mean": (24,),
        "features.18.0.weight": (1280, 320, 1, 1),
        "classifier.1.weight": (1000, 1280),
    },
    "squeezenet1_1": {
        "features.0.weight": (64, 3, 3, 3),
        "features.3.squeeze.weight": (16, 64, 1, 1),
        "features.9.expand1x1.bias": (192,),
        "features.12.expand3x3.weight": (256, 64, 3, 3),
        "classifier.1.weight": (1000, 512, 1, 1),
    },
    "efficientnet_b0": {
        "features.1.0.block.0.0.weight": (32, 1, 3, 3),
        "features.1.0.block.1.fc1.weight": (8, 32, 1, 1),
        "features.3.0.block.1.0.weight": (144, 1, 5, 5),
        "features.6.3.block.2.fc2.bias": (1152,),
        "features.7.0.block.3.1.running_var": (320,),
        "features.8.0.weight": (1280, 320, 1, 1),
        "classifier.1.bias": (1000,),
    },
    "convnext_tiny": {
        "features.0.0.weight": (96, 3, 4, 4),
        "features.0.1.weight": (96,),
        "features.1.0.layer_scale": (96, 1, 1),
        "features.1.0.block.0.weight": (96, 1, 7, 7),
        "features.5.8.block.3.weight": (1536, 384),
        "features.6.1.weight": (768, 384, 2, 2),
        "classifier.0.weight": (768,),
        "classifier.2.weight": (1000, 768),
    },
}

BATCH, STEPS = 4, 3
# At 0.001 a difference of one rounding in the input of torch's own ResNet-50, whose last batch
# statistics are those of 16 values, grows a hundredfold each step: to 3e-7 of a fifth loss. At
# this rate it stays below 1e-12, and the losses still move in their third or fourth digit.
LEARNING_RATE = 1e-5
# As a share of the value, or of a gradient's largest: float64 rounds to 1e-16, which the depth of
# the networks was seen to raise to 1e-11. One tap of a gradient that is off by a thousandth is off
# by far more.
FLOAT64_TOLERANCE = 1e-9
# As a share of the largest gradient of all, below which one counts as 0: what the next batch
# normalisation takes out again, a bias or a factor of all of its input, has none but rounding.
NO_GRADIENT = 1e-5


def network(name):
    """With a layer scale of 1: at ConvNeXt's initial 1e-6 no block would be seen in the output."""
    model = ALL[name]()
    for parameter_name, parameter in model.named_parameters():
        if parameter_name.endswith("layer_scale"):
            nn.init.ones_(parameter)
    return model


def images(name, batch):
    return torch.randn(batch, 1, 8, 8) if name == "small_cnn" else torch.randn(batch, 3, 64, 64)


def settled(name):
    """In eval mode, with the batch statistics of 16 images: with those of a new network, mean 0 and
    variance 1, some layers' share of the output would be below rounding."""
    model = network(name)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        model(images(name, 16))
    return model.eval()


def converted(model):
    """A copy with all convolutions and pools swapped."""
    swapped, report = fastconv.convert(copy.deepcopy(model), report=True)
    layers = {name for name, module in model.named_modules() if isinstance(module, SWAPPED)}
    assert {one.name for one in report} == {one.name for one in report if one.converted} == layers
    return swapped


def test_they_need_torch_alone(tmp_path):
    hidden = "import sys; sys.modules.update(dict.fromkeys(['rich', 'sklearn', 'torchvision']))"
    program = f"{hidden}; import fastconv.bench.models"
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)


def on_meta(name):
    with torch.device("meta"):
        return NETWORKS[name]()


@pytest.mark.parametrize("name", NETWORKS)
def test_as_many_parameters_as_published(name):
    assert sum(p.numel() for p in on_meta(name).parameters()) == PARAMETERS[name]


@pytest.mark.parametrize("name", STATE)
def test_names_and_shapes_are_torchvisions(name):
    shapes = {key: tuple(value.shape) for key, value in on_meta(name).state_dict().items()}
    assert shapes.items() >= STATE[name].items()


@pytest.mark.parametrize("name", NETWORKS)
def test_fx_traces_them(name, exhaustive):
    for training in (True, False) if exhaustive else (list(NETWORKS).index(name) % 2 == 0,):
        check_fx(network(name).train(training))


def check_fx(model):
    traced = torch.fx.symbolic_trace(model)
    x = torch.randn(2, 3, 32, 32)
    results = []
    for module in (model, traced):
        torch.manual_seed(1)
        results.append(module(x))
    assert torch.equal(*results)


def train(model, x, target):
    """({name: tensor} of the first step's gradients and output, the loss of each step)."""
    torch.manual_seed(1)  # dropout's and stochastic depth's choices
    optimizer = torch.optim.SGD(model.parameters(), lr=LEARNING_RATE)
    first, losses = {}, []
    for _ in range(STEPS):
        optimizer.zero_grad()
        y = model(x)
        loss = F.cross_entropy(y, target)
        loss.backward()
        if not first:
            first = {name: p.grad.clone() for name, p in model.named_parameters()}
            first["output"] = y.detach()
        optimizer.step()
        losses.append(loss.detach())
    return first, torch.stack(losses)


@pytest.mark.parametrize("name", ALL)
def test_trains_as_before_in_float64(name, strict, threads):
    threads(1)  # on so small images a second one gains little, and nothing on a busy machine
    model = network(name).double()
    x, target = images(name, BATCH).double(), torch.randint(10, (BATCH,))
    swapped = converted(model)
    expected, expected_losses = train(model, x, target)
    got, losses = train(swapped, x, target)
    largest = {key: value.abs().max() for key, value in expected.items()}
    none = NO_GRADIENT * max(largest[key] for key, _ in model.named_parameters())
    for key, value in expected.items():
        error = (got[key] - value).abs().max()
        assert error <= FLOAT64_TOLERANCE * max(largest[key], none), f"{key}: off by {error:.1e}"
    torch.testing.assert_close(losses, expected_losses, rtol=FLOAT64_TOLERANCE, atol=0)


def run(model, x):
    """(logits, {module name: strides of its output}), the latter of all 4-D outputs."""
    strides, hooks = {}, []
    for name, module in model.named_modules():

        def note(module, inputs, y, name=name):
            if y.dim() == 4:
                strides.setdefault(name, []).append(y.stride())

        hooks.append(module.register_forward_hook(note))
    with torch.no_grad():
        y = model(x)
    for hook in hooks:
        hook.remove()
    return y, strides


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("name", ALL)
def test_infers_as_before_in_float32_and_in_torchs_memory_formats(name, layout, strict, exhaustive):
    turn = list(ALL).index(name) + list(LAYOUTS).index(layout)
    if turn % 2 and not exhaustive:
        pytest.skip("its other layout runs; --exhaustive runs both")
    model = settled(name).to(memory_format=LAYOUTS[layout])
    x = images(name, 2).contiguous(memory_format=LAYOUTS[layout])
    expected, expected_strides = run(model, x)
    got, strides = run(converted(model), x)
    assert (got - expected).abs().max() <= TOLERANCE * expected.abs().max()
    assert strides == expected_strides and len(strides) > 1
    assert got.stride() == expected.stride()


# Of the networks those whose bfloat16 logits are right to a tenth and better.
@pytest.mark.parametrize("name", ["resnet18", "convnext_tiny"])
def test_under_autocast_errors_are_torchs(name, strict, exhaustive):
    if name != "resnet18" and not exhaustive:
        pytest.skip("ResNet-18 runs; --exhaustive runs both")
    model, x = settled(name), images(name, BATCH)
    swapped = converted(model)
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            torchs, ours = model(x), swapped(x)
        exact = model.double()(x.double())
    assert ours.dtype == torchs.dtype == torch.bfloat16
    torch_error, error = ((y.double() - exact).abs().max() for y in (torchs, ours))
    assert torch_error < 0.1 * exact.abs().max()
    assert error <= 2 * torch_error


def conv_multiply_adds(model, x):
    """The multiply-adds of each convolution, in order, by what fastconv.explain tells."""
    counts = []
    for made in fastconv.explain(fastconv.convert(model), x):
        if made.operator == "conv2d":
            problem, _ = get_backend(made.backend).explain(
                made.operator, made.call, made.dtype, made.channels_last
            )
            counts.append(problem.flops(ConvOp.fprop) // 2)
    return counts


def test_depthwise_separable_layers_save_what_the_paper_says():
    x = torch.empty(1, 3, 224, 224, device="meta")
    pairs, dense = on_meta("mobilenet_v1").eval(), on_meta("mobilenet_v1_dense").eval()
    assert pairs.features(x).shape == dense.features(x).shape == (1, 1024, 7, 7)
    assert pairs(x).shape == dense(x).shape
    stem, *separable = conv_multiply_adds(pairs, x)
    dense_stem, *whole = conv_multiply_adds(dense, x)
    assert stem == dense_stem
    # (9 C + C K) P Q against 9 C K P Q: 1/K + 1/9.
    layers = zip(separable[::2], separable[1::2], whole, MobileNetV1.LAYERS, strict=True)
    for depthwise, pointwise, dense_count, (K, _) in layers:
        assert (depthwise + pointwise) * 9 * K == dense_count * (K + 9)
    assert 8 < sum(whole) / sum(separable) < 9
    # Table 4 of Howard et al. 2017, in millions; the last, linear layer is 1 of them.
    assert stem + sum(separable) == pytest.approx(569e6, abs=2e6)
    assert stem + sum(whole) == pytest.approx(4866e6, abs=2e6)


def test_stochastic_depth_drops_whole_images_in_training_alone():
    p = 0.25
    layer = StochasticDepth(p)
    x = torch.ones(4000, 2, 3, 3)
    y = layer(x)
    kept = y[:, 0, 0, 0] != 0
    assert torch.equal(y, x / (1 - p) * kept[:, None, None, None])
    # The share's deviation is sqrt(p (1 - p) / 4000) = 0.007; this is four of them.
    assert kept.double().mean().item() == pytest.approx(1 - p, abs=0.028)
    assert layer.eval()(x) is x and StochasticDepth(0.0)(x) is x
    for bad in (-0.1, 1.0):
        with pytest.raises(ValueError, match="p must be"):
            StochasticDepth(bad)


@pytest.mark.parametrize(
    ("name", "blocks", "last"), [("efficientnet_b0", 16, 0.1875), ("convnext_tiny", 18, 0.1)]
)
def test_deeper_blocks_are_dropped_more_often(name, blocks, last):
    rates = [m.p for m in on_meta(name).modules() if isinstance(m, StochasticDepth)]
    assert rates == pytest.approx([last * i / (blocks - 1) for i in range(blocks)])
