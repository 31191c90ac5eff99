"""Networks of fastconv's layers as ONNX models: both of torch's exporters record standard
operators, and onnxruntime computes the same from them, for other batch sizes, too."""

import io

import pytest
import torch
import torch.nn as nn

import fastconv
from fastconv.bench.models import NETWORKS

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
pytestmark = [
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript"),
    pytest.mark.filterwarnings("ignore:.*LeafSpec"),
]

MAKE = {"converted": fastconv.convert, "fused": fastconv.fuse}
# (name, kind, dynamo): each network with the default exporter, the quick ones with the older one;
# with --exhaustive every combination.
ALWAYS = {
    ("resnet18", "fused", True),
    ("mobilenet_v1", "converted", True),
    ("squeezenet1_1", "converted", True),
    ("efficientnet_b0", "fused", True),
    ("convnext_tiny", "converted", True),
    ("resnet18", "converted", False),
    ("mobilenet_v1", "fused", False),
    ("squeezenet1_1", "fused", False),
}
EVERY = sorted({(n, k, d) for n, *_ in ALWAYS for k in MAKE for d in (True, False)})


def network(name):
    """In eval mode, with running statistics that keep its activations in the order of 1."""
    net = NETWORKS[name](num_classes=10)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0
    with torch.no_grad():
        net.train()(torch.randn(4, 3, 64, 64))
    return net.eval()


def exported(net, x, dynamo):
    """The ONNX model of a network for every batch size."""
    if dynamo:
        shapes = ({0: torch.export.Dim("batch", min=1, max=64)},)
        return torch.onnx.export(
            net, (x,), dynamo=True, dynamic_shapes=shapes, verbose=False
        ).model_proto
    file = io.BytesIO()
    torch.onnx.export(
        net,
        (x,),
        file,
        dynamo=False,
        input_names=["x"],
        output_names=["y"],
        dynamic_axes={"x": {0: "batch"}},
    )
    return onnx.load_from_string(file.getvalue())


def run(model, x):
    """What onnxruntime computes; all operators must be of ONNX's own set."""
    assert {node.domain for node in model.graph.node} == {""} and not model.functions
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        model.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    (y,) = session.run(None, {session.get_inputs()[0].name: x.numpy()})
    return torch.from_numpy(y)


@pytest.mark.parametrize("name, kind, dynamo", EVERY)
def test_networks(name, kind, dynamo, exhaustive):
    if (name, kind, dynamo) not in ALWAYS and not exhaustive:
        pytest.skip("with --exhaustive")
    net = MAKE[kind](network(name))
    model = exported(net, torch.randn(2, 3, 64, 64), dynamo)
    x = torch.randn(3, 3, 64, 64)
    with torch.no_grad():
        y = net(x)
    scale = y.abs().max()  # with random weights it may be hundreds
    assert y.std() > 0.1 * scale
    torch.testing.assert_close(run(model, x) / scale, y / scale, rtol=0, atol=1e-4)


class Everything(nn.Module):
    """Each operator once, in forms that the networks do not have."""

    def __init__(self):
        super().__init__()
        self.conv = fastconv.Conv2d(3, 8, 3, stride=2, padding=1, dilation=2, groups=1)
        self.same = fastconv.Conv2d(8, 8, (2, 3), padding="same", groups=2)
        self.around = fastconv.ConvReLU2d(8, 8, 3, padding=1, padding_mode="reflect")

    def forward(self, x):
        x = self.around(self.same(self.conv(x)))
        w = self.conv.weight.new_ones(8, 8, 1, 1) / 8
        y = fastconv.conv2d(x, w, padding=1, activation="hardswish")
        y = fastconv.conv2d(y, w, activation="leaky_relu(0.2)")
        y = fastconv.conv2d(y, w, residual=y, activation="gelu")
        y = fastconv.max_pool2d(y, 3, 2, 1, ceil_mode=True)
        y = fastconv.avg_pool2d(y, (2, 3), 1, 1, ceil_mode=True, count_include_pad=False)
        return fastconv.adaptive_avg_pool2d(y, 1) + fastconv.adaptive_max_pool2d(y, 1)


def along_one_axis():
    """Each layer along one axis once, and both transposed convolutions; BatchNorms are fused."""
    return fastconv.fuse(
        nn.Sequential(
            *(nn.Conv2d(3, 4, 3), nn.ConvTranspose2d(4, 3, 3, 2, 1, 1, dilation=2), nn.SiLU()),
            nn.Flatten(2),
            *(nn.Conv1d(3, 4, 3, 2, padding=2), nn.BatchNorm1d(4), nn.ReLU()),
            *(nn.MaxPool1d(3, 2, 1), nn.AvgPool1d(3, 2, ceil_mode=True, count_include_pad=False)),
            *(nn.ConvTranspose1d(4, 6, 3, 2, 1, 1, 2, dilation=2), nn.BatchNorm1d(6), nn.GELU()),
            # Exporters may refuse adaptive pools whose windows differ in size.
            *(nn.AdaptiveMaxPool1d(1), nn.ConvTranspose1d(6, 6, 8), nn.AdaptiveAvgPool1d(4)),
        ).eval()
    )


NETS = {"two axes": Everything, "one axis": along_one_axis}


@pytest.mark.parametrize("name", NETS)
@pytest.mark.parametrize("dynamo", [True, False])
def test_operators(dynamo, name):
    net = NETS[name]().eval()
    model = exported(net, torch.randn(2, 3, 21, 21), dynamo)
    x = torch.randn(3, 3, 21, 21)
    with torch.no_grad():
        torch.testing.assert_close(run(model, x), net(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_an_exported_program_is_decomposed_first(name):
    net = NETS[name]().eval()
    batch = torch.export.Dim("batch", min=1, max=64)
    program = torch.export.export(
        net, (torch.randn(2, 3, 21, 21),), dynamic_shapes=({0: batch},), strict=False
    )
    program = program.run_decompositions(fastconv.export_decompositions())
    model = torch.onnx.export(program, dynamo=True, verbose=False).model_proto
    x = torch.randn(3, 3, 21, 21)
    with torch.no_grad():
        torch.testing.assert_close(run(model, x), net(x), rtol=1e-4, atol=1e-5)


def test_outside_of_an_export_nothing_is_left_to_aten(strict):
    net = fastconv.Conv2d(3, 4, 3).eval()
    program = torch.export.export(net, (torch.randn(2, 3, 8, 8),), strict=False)
    targets = {node.target for node in program.graph.nodes}
    assert torch.ops.fastconv.conv2d_fprop.default in targets
