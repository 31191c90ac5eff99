"""What compilers see: opcheck, torch.compile, export, fake and meta tensors, tracing, AOT."""

import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

import fastconv


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        fastconv.Conv2d(3, 8, 3, padding=1),
        torch.nn.BatchNorm2d(8),
        fastconv.ConvReLU2d(8, 8, 3, padding="same", groups=2),
        fastconv.MaxPool2d(2),
        fastconv.AvgPool2d(2, ceil_mode=True),
        fastconv.AdaptiveAvgPool2d((2, None)),
        fastconv.AdaptiveMaxPool2d(2),
    )


def train(net, x):
    net.zero_grad()
    x = x.detach().requires_grad_()
    y = net(x)
    y.square().sum().backward()
    return [y.detach(), x.grad, *(p.grad for p in net.parameters())]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compile_fullgraph_agrees(compiler, channels_last):
    x = torch.randn(2, 3, 11, 9)
    net = model()
    if channels_last:
        x, net = x.to(memory_format=torch.channels_last), net.to(memory_format=torch.channels_last)
    expected = train(net, x)
    torch._dynamo.reset()
    got = train(torch.compile(net, fullgraph=True, backend=compiler), x)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("activation", [None, "relu", "silu", "leaky_relu(0.2)"])
def test_compile_dynamic_shapes_and_no_grad(activation):
    w = torch.randn(4, 3, 3, 3, requires_grad=True)
    torch._dynamo.reset()
    compiled = torch.compile(
        lambda x: fastconv.conv2d(x, w, padding=1, activation=activation),
        fullgraph=True,
        dynamic=True,
        backend="aot_eager",
    )
    for size in ((2, 3, 8, 8), (1, 3, 5, 9), (4, 3, 16, 7)):
        x = torch.randn(size)
        torch.testing.assert_close(
            compiled(x), fastconv.conv2d(x, w, padding=1, activation=activation)
        )
        with torch.no_grad():
            torch.testing.assert_close(
                compiled(x), fastconv.conv2d(x, w, padding=1, activation=activation)
            )


def test_compile_under_autocast_and_named_backend():
    x, w = torch.randn(1, 3, 6, 6), torch.randn(4, 3, 3, 3)
    torch._dynamo.reset()

    @torch.compile(fullgraph=True, backend="aot_eager")
    def f(x):
        with torch.autocast("cpu", torch.bfloat16):
            y = fastconv.conv2d(x, w)
        with fastconv.backend("reference"):
            return y, fastconv.conv2d(x, w), fastconv.conv2d(x, w, backend="cpu:direct")

    y, a, b = f(x)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(a, F.conv2d(x, w))
    torch.testing.assert_close(b, F.conv2d(x, w))


@pytest.mark.parametrize("strict", [False, True])
def test_export(strict):
    net, x = model().eval(), torch.randn(2, 3, 11, 9)
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(net, (x,), dynamic_shapes={"input": {0: batch}}, strict=strict)
    targets = {str(node.target) for node in program.graph.nodes}
    assert "fastconv.conv2d_fprop.default" in targets
    other = torch.randn(5, 3, 11, 9)
    torch.testing.assert_close(program.module()(other), net(other))


def test_export_with_sizes_computed_from_symbolic_ones():
    class Half(torch.nn.Module):
        def forward(self, x):
            return fastconv.adaptive_avg_pool2d(x, x.shape[-1] // 2)

    width = torch.export.Dim("width", min=4, max=64)
    program = torch.export.export(
        Half(), (torch.randn(1, 2, 12, 12),), dynamic_shapes={"x": {3: width}}, strict=False
    )
    x = torch.randn(1, 2, 12, 20)
    torch.testing.assert_close(program.module()(x), F.adaptive_avg_pool2d(x, 10))


def test_jit_trace_records_ops_not_empty_tensors():
    net, x = model().eval(), torch.randn(2, 3, 11, 9)
    traced = torch.jit.trace(net, x)
    other = torch.randn(2, 3, 11, 9)
    torch.testing.assert_close(traced(other), net(other))


@pytest.mark.parametrize("x_last", [False, True])
@pytest.mark.parametrize("w_last", [False, True])
def test_fake_and_meta_strides_are_the_real_ones(x_last, w_last):
    def formatted(size, last):
        return torch.randn(size).contiguous(
            memory_format=torch.channels_last if last else torch.contiguous_format
        )

    x, w = formatted((2, 4, 6, 7), x_last), formatted((8, 4, 3, 3), w_last)

    def everything(x, w):
        x, w = x.requires_grad_(), w.requires_grad_()
        y = fastconv.conv2d(x, w, torch.zeros(8, device=x.device), activation="relu")
        y = fastconv.max_pool2d(y, 2)
        dy = torch.ones(y.shape, device=y.device)
        return [y, *torch.autograd.grad(y, (x, w), dy)]

    real = everything(x.clone(), w.clone())
    with FakeTensorMode() as mode:
        fake = everything(mode.from_tensor(x), mode.from_tensor(w))
    meta = everything(x.detach().to("meta"), w.detach().to("meta"))
    for r, f, m in zip(real, fake, meta):
        assert r.shape == f.shape == m.shape
        assert r.stride() == f.stride() == m.stride()


GEOMETRY = ([2, 1], [1, 1], [1, 1], 2)


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_opcheck(channels_last):
    def tensor(*size, grad=True):
        t = torch.randn(size, dtype=torch.float64)
        if len(size) == 4 and channels_last:
            t = t.contiguous(memory_format=torch.channels_last)
        return t.requires_grad_(grad)

    ops = torch.ops.fastconv
    x, w, b, dy = tensor(2, 4, 5, 6), tensor(6, 2, 3, 3), tensor(6), tensor(2, 6, 3, 6)
    cases = [
        (ops.conv2d_fprop, (x, w, b, dy, *GEOMETRY, "relu", "cpu")),
        (ops.conv2d_fprop, (x, w, None, None, *GEOMETRY, "none", "reference")),
        (ops.conv2d_dgrad, (dy, w, x.shape, channels_last, *GEOMETRY, "cpu")),
        (ops.conv2d_wgrad, (dy, x, w.shape, channels_last, *GEOMETRY, "cpu")),
        (ops.conv_transpose2d, (dy, w, tensor(4), x, *GEOMETRY, [0, 0], "relu", "cpu")),
        (ops.epilogue_backward, (dy, tensor(2, 6, 3, 6), "silu", "cpu")),
        (ops.bias_grad, (dy, "cpu")),
        (ops.activation_forward, (dy, "gelu", "cpu")),
    ]
    for op, args in cases:
        torch.library.opcheck(op.default, args)


def test_fx_records_whole_functions():
    net, x = model().eval(), torch.randn(2, 3, 11, 9)
    traced = torch.fx.symbolic_trace(net)
    assert fastconv.conv2d in {node.target for node in traced.graph.nodes}
    torch.testing.assert_close(traced(x), net(x))
    w = torch.randn(4, 3, 3, 3)
    traced = torch.fx.symbolic_trace(lambda x: fastconv.conv2d(input=x, weight=w))
    torch.testing.assert_close(traced(x), fastconv.conv2d(x, w))
