"""conv3d on every backend, exactly; its derivatives by finite differences; which calls torch's own
convolution is left to; and what modules, compilers and transforms make of it."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from devices import CUDA, TRITON, device_of
from sample_derivatives import derivatives
from torch import nn
from torch.autograd import gradcheck, gradgradcheck
from torch.func import grad, hessian, jvp, vmap

import fastconv

LAST = torch.channels_last_3d
CONVOLUTIONS = {  # name -> sizes of x and w, arguments
    "dense": ((2, 5, 5, 6, 7), (6, 5, 3, 2, 3), ((2, 1, 2), (2, 0, 1))),
    "grouped and dilated": ((1, 4, 6, 5, 7), (6, 2, 2, 3, 2), (1, 1, (3, 1, 2), 2)),
    "depthwise": ((2, 7, 4, 6, 5), (7, 1, 4, 3, 1), ((3, 1, 1), (2, 1, 0), 1, 7)),
    "unbatched": ((5, 3, 4, 6), (6, 5, 1, 3, 3), ()),
    "same": ((1, 3, 4, 5, 5), (4, 3, 2, 4, 1), (1, "same")),
}
# Sizes that torch has loops for alone, and a reason why it keeps them, or None.
LOOPED = {
    "small": ((1, 16, 8, 24, 24), (16, 16, 3, 3, 3), None),
    "one dilated axis": ((1, 16, 8, 28, 28), (16, 16, 2, 3, 3), None),
    "1 x 1": ((1, 64, 8, 32, 32), (64, 64, 3, 1, 1), "R = S = 1"),
    "many filters": ((1, 8, 6, 16, 16), (136, 8, 3, 3, 3), "128 filters"),
    "little work": ((1, 4, 4, 8, 8), (4, 4, 3, 3, 3), "34 MFLOP"),
}


def whole(*size):
    return torch.randint(-2, 3, size).double()


def results(function, *tensors):
    """Value and gradients, in float64, for whole numbers that are summed without rounding."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    y = function(*tensors)
    dy = torch.arange(y.numel(), device=y.device).view(y.shape).remainder(5).sub(2).to(y.dtype)
    return [t.detach().cpu().double() for t in (y, *torch.autograd.grad(y, tensors, dy))]


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("backend", ["cpu", "reference", CUDA, TRITON])
def test_convolutions(backend, name):
    x_size, w_size, arguments = CONVOLUTIONS[name]
    x, w, b = whole(*x_size), whole(*w_size), whole(w_size[0])
    residual = whole(*F.conv3d(x, w, None, *arguments).shape)

    def torchs(x, w, b, residual):
        return (F.conv3d(x, w, b, *arguments) + residual).relu()

    def ours(x, w, b, residual):
        epilogue = {"activation": "relu", "residual": residual}
        return fastconv.conv3d(x, w, b, *arguments, **epilogue, backend=backend)

    expected = results(torchs, x, w, b, residual)
    got = results(ours, *(t.float().to(device_of(backend)) for t in (x, w, b, residual)))
    assert all(map(torch.equal, got, expected))


def test_finite_differences():
    sizes = (1, 2, 4, 3, 3), (2, 1, 2, 2, 2), (2,)
    x, w, b = (torch.randn(s, dtype=torch.float64, requires_grad=True) for s in sizes)

    def function(x, w, b):
        arguments = ((2, 1, 1), 1, (2, 1, 1), 2)
        return fastconv.conv3d(x, w, b, *arguments, activation="silu", backend="cpu")

    assert gradcheck(function, (x, w, b), check_forward_ad=True, check_batched_grad=True)
    assert gradgradcheck(function, (x, w, b))


def test_transforms():
    x, w = torch.randn(1, 2, 3, 4, 4).double(), torch.randn(2, 2, 2, 3, 3).double()
    stacked = [torch.stack([t, t.sin(), 2 * t]) for t in (x, w)]

    def function(convolve, **backend):
        return lambda x, w: convolve(x, w, padding=(1, 0, 0), **backend).sin().sum()

    ours, torchs = function(fastconv.conv3d, backend="cpu"), function(F.conv3d)
    for transformed in (
        lambda f: vmap(grad(f, (0, 1)))(*stacked),
        lambda f: vmap(f, (0, None))(stacked[0], w),
        lambda f: jvp(f, (x, w), (x.cos(), w.cos())),
        lambda f: hessian(f, 1)(x, w),
    ):
        torch.testing.assert_close(transformed(ours), transformed(torchs))


def test_compiled(strict):
    layer = fastconv.Conv3d(16, 16, (2, 3, 3), padding=1, bias=False)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for size in ((1, 16, 8, 24, 24), (1, 16, 9, 22, 25)):
        x = torch.randn(size)
        torch.testing.assert_close(results(compiled, x), results(layer, x))


def test_an_export_has_atens_operator_and_any_depth():
    x, layer = torch.randn(1, 8, 6, 16, 16), fastconv.Conv3d(8, 8, 3)
    depth = torch.export.Dim("depth", min=4, max=4096)
    for strict in (False, True):
        exported = torch.export.export(layer, (x,), dynamic_shapes=({2: depth},), strict=strict)
        calls = [str(node.target) for node in exported.graph.nodes if node.op == "call_function"]
        assert any("aten.conv3d" in call for call in calls)
        for y in (x, x[:, :, :4]):
            torch.testing.assert_close(exported.module()(y), layer(y))


# ---- whose convolution runs ----------------------------------------------------------------------


def decision(x, w, **arguments):
    return fastconv.explain(fastconv.conv3d, x, w, **arguments)[0]


@pytest.mark.filterwarnings("ignore:fastconv")
@pytest.mark.parametrize("name", LOOPED)
def test_torchs_loops_are_replaced_where_they_are_slower(name):
    x_size, w_size, reason = LOOPED[name]
    x, w = torch.empty(x_size), torch.empty(w_size)
    dilation = (1, 2, 1) if "dilated" in name else 1
    for tensors in (x, w), (x.double(), w.double()):
        found = decision(*tensors, dilation=dilation)
        assert found.backend == (None if reason else "cpu"), found
        assert reason is None or reason in found.rejected["auto"]


def test_the_slices_of_all_taps_are_channels():
    x, w = torch.empty(1, 8, 6, 16, 16), torch.empty(8, 4, 3, 2, 3)
    arguments = {"stride": (2, 1, 1), "padding": (1, 0, 2), "groups": 2, "backend": "cpu"}
    explanation = fastconv.explain(fastconv.conv3d, x, w, **arguments)
    assert "of gathered slices: ConvProblem(n3c24h16w16" in str(explanation)
    call = explanation[0].call
    assert call[:2] == ((3, 24, 16, 16), (8, 12, 2, 3)) and call[2].padding == (0, 2)


@pytest.mark.filterwarnings("ignore:fastconv")
def test_the_rule_is_that_of_torch():
    """Over all sizes about its limits, on two threads: on one, some of 1 x 1 differ."""
    backends = torch._C._ConvBackend
    seen = set()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for N, C, D, groups, kernel, dilation, dtype in itertools.product(
            (1, 2), (2, 64), (4, 32, 33), (1, 2), ((3, 3, 3), (1, 4, 4), (2, 1, 4)), (1, 2),
            (torch.float32, torch.float64),
        ):  # fmt: skip
            if D <= dilation * (kernel[0] - 1):
                continue
            x = torch.empty(N, C, D, 10, 10, dtype=dtype)
            w = torch.empty(4, C // groups, *kernel, dtype=dtype)
            size = [dilation] * 3
            chosen = torch._C._select_conv_backend(
                x, w, None, [1] * 3, [0] * 3, size, False, [0] * 3, groups, [0]
            )
            looped = chosen in (backends.Slow3d, backends.SlowDilated3d)
            rejected = decision(x, w, dilation=dilation, groups=groups).rejected
            assert looped == ("oneDNN" not in rejected.get("auto", "")), (x.shape, w.shape)
            seen.add(looped)
    finally:
        torch.set_num_threads(before)
    assert seen == {True, False}


@pytest.mark.filterwarnings("ignore:fastconv")
@pytest.mark.parametrize("N", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_memory_formats_follow_torch(N, dtype):
    for x_format, w_format in itertools.product((torch.contiguous_format, LAST), repeat=2):
        x = whole(N, 16, 8, 24, 24).to(dtype).contiguous(memory_format=x_format)
        w = whole(16, 16, 3, 3, 3).to(dtype).contiguous(memory_format=w_format)
        expected = F.conv3d(x, w)
        for backend in (None, "cpu"):
            y = fastconv.conv3d(x, w, backend=backend)
            assert torch.equal(y, expected) and y.stride() == expected.stride()


def test_what_aten_runs_is_said(monkeypatch):
    monkeypatch.setattr(fastconv.dispatch, "fallbacks", type(fastconv.dispatch.fallbacks)())
    x, w = torch.randn(2, 4, 4, 6, 6), torch.randn(4, 4, 3, 3, 3)
    with pytest.warns(UserWarning, match="conv3d: this call goes to ATen: auto: oneDNN"):
        y = fastconv.conv3d(x, w, activation="relu")
    torch.testing.assert_close(y, F.conv3d(x, w).relu())
    monkeypatch.setenv("FASTCONV_STRICT", "1")
    with pytest.raises(NotImplementedError, match=r"fastconv\.conv3d: .*oneDNN"):
        fastconv.conv3d(x, w)
    for tensors in ((x.long(), w.long()), (x.to_mkldnn(), w)):
        with pytest.raises(NotImplementedError, match=r"fastconv\.conv3d"):
            fastconv.conv3d(*tensors, backend="cpu")
    with fastconv.backend("cpu"):
        assert decision(x, w).backend == "cpu"
    with pytest.raises(RuntimeError, match=r"residual of size \[2, 4, 2, 4, 4\]"):
        fastconv.conv3d(x, w, residual=x)


# ---- torch's own tests, and networks -------------------------------------------------------------


def opinfo():
    pytest.importorskip("expecttest")
    methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
    return next(op for op in methods.op_db if op.name == "nn.functional.conv3d")


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
def test_every_sample_of_torchs():
    op = opinfo()
    samples = list(op.sample_inputs("cpu", torch.float64, requires_grad=True))
    assert len(samples) >= 5
    for sample in samples:
        with fastconv.backend("cpu"):
            got = derivatives(fastconv.conv3d, sample)
        expected = derivatives(op.op, sample)
        torch.testing.assert_close(got[0], expected[0], check_stride=True)
        torch.testing.assert_close(got[1], expected[1])
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        for sample in op.sample_inputs("cpu", dtype):
            with fastconv.backend("cpu"):
                y = fastconv.conv3d(sample.input, *sample.args, **sample.kwargs)
            torch.testing.assert_close(y, op.op(sample.input, *sample.args, **sample.kwargs))


def test_every_error_input_raises_torchs_error():
    errors = list(opinfo().error_inputs("cpu"))
    for error in errors:
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            fastconv.conv3d(sample.input, *sample.args, **sample.kwargs)


def test_modules_as_torch_tests_its_own():
    pytest.importorskip("expecttest")
    modules = pytest.importorskip("torch.testing._internal.common_modules")
    (info,) = (info for info in modules.module_db if info.module_cls is nn.Conv3d)
    inputs = list(info.module_inputs_func(info, "cpu", torch.float64, True, training=True))
    assert len(inputs) >= 4
    for one in inputs:
        build, call = one.constructor_input, one.forward_input
        layer = nn.Conv3d(*build.args, **build.kwargs, dtype=torch.float64)
        ours = fastconv.convert(layer)
        assert type(ours) is fastconv.Conv3d and repr(ours) == f"fastconv.{layer!r}"
        found = []
        for module, backend in ((ours, "cpu"), (layer, None)):
            with fastconv.backend(backend):
                y = module(*call.args, **call.kwargs)
            wanted = [call.args[0], *layer.parameters()]
            found.append((y, *torch.autograd.grad(y.square().sum(), wanted)))
        torch.testing.assert_close(*found, check_stride=True)
        torch.testing.assert_close(torch.jit.script(ours)(*call.args), found[1][0])


@pytest.mark.filterwarnings("ignore:fastconv")
def test_networks():
    """Converted, trained and converted back; fuse converts and leaves what follows."""
    net = nn.Sequential(nn.Conv3d(2, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Conv3d(4, 2, 1))
    x = torch.randn(2, 2, 5, 6, 6)
    ours = fastconv.convert(net)
    for mode in (True, False):
        torch.testing.assert_close(results(ours.train(mode), x), results(net.train(mode), x))
    assert type(fastconv.unconvert(ours)[0]) is nn.Conv3d
    fused, reports = fastconv.fuse(net, report=True)
    assert type(fused.get_submodule("0")) is fastconv.Conv3d
    assert [(report.name, report.fused) for report in reports] == [("1", ())]
    with torch.no_grad():
        for _ in range(3):
            torch.testing.assert_close(fused(x), net(x))
