"""The whole road to a Triton kernel, on the GPU or interpreted: networks, autograd, compilers,
explanations and errors of `backend="triton"`."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from devices import TRITON_DEVICE as DEVICE
from devices import needs_triton

import fastconv
from fastconv.bench.models.resnet import ResNet18
from fastconv.bench.models.small_cnn import SmallCNN

pytestmark = [needs_triton, pytest.mark.usefixtures("strict")]
X = torch.randn(2, 3, 8, 9, dtype=torch.float64)
W = torch.randn(4, 3, 3, 3, dtype=torch.float64)
B = torch.randn(4, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _float32_is_float32():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def gradients(model, x, target, backend):
    with fastconv.backend(backend):
        loss = F.cross_entropy(model(x), target)
        loss.backward()
    return [loss.detach().cpu(), *(p.grad.cpu() for p in model.parameters())]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("network, size", [(SmallCNN, 8), (ResNet18, 32)])
def test_a_converted_network_agrees_with_the_reference(network, size, channels_last, exhaustive):
    """In evaluation mode: batch statistics of a few pixels would magnify rounding errors."""
    if network is ResNet18 and channels_last and DEVICE == "cpu" and not exhaustive:
        pytest.skip("minutes in Triton's interpreter; the small network runs in both layouts")
    model = fastconv.convert(network().eval())
    x = torch.randn(2, model.conv1.in_channels, size, size)
    if channels_last:
        model, x = (o.to(memory_format=torch.channels_last) for o in (model, x))
    target = torch.tensor([1, 3])
    expected = gradients(copy.deepcopy(model), x, target, "reference")
    got = gradients(model.to(DEVICE), x.to(DEVICE), target.to(DEVICE), "triton")
    for a, e in zip(got, expected, strict=True):
        assert (a - e).norm() <= 1e-4 * e.norm()


@pytest.mark.parametrize("backend", ["triton:direct", "triton:im2col", "triton:implicit_gemm"])
def test_derivatives_of_every_order(backend):
    arguments = [
        tensor.to(DEVICE).requires_grad_() for tensor in (X[:1, :2, :3, :3], W[:2, :2], B[:2])
    ]

    def call(x, w, b):
        return fastconv.conv2d(x, w, b, 2, 1, activation="silu", backend=backend)

    assert torch.autograd.gradcheck(call, arguments, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, arguments, fast_mode=True)


def test_depthwise_derivatives():
    x, w = (
        torch.randn(size, dtype=torch.float64, device=DEVICE).requires_grad_()
        for size in ((1, 3, 4, 5), (6, 1, 3, 3))
    )
    assert torch.autograd.gradcheck(
        lambda x, w: fastconv.conv2d(x, w, None, 1, 1, 1, 3, backend="triton:depthwise"),
        (x, w),
        fast_mode=True,
    )


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
def test_compiles_as_one_graph(compiler):
    x, w, b = (tensor.float().to(DEVICE).requires_grad_() for tensor in (X, W, B))

    def call(x, w, b):
        y = fastconv.conv2d(x, w, b, padding=1, activation="relu", backend="triton")
        y = fastconv.max_pool2d(y, 2, backend="triton")
        return fastconv.adaptive_avg_pool2d(y, 2, backend="triton").square().sum()

    torch._dynamo.reset()
    results = [
        torch.autograd.grad(f(x, w, b), (x, w, b))
        for f in (call, torch.compile(call, fullgraph=True, backend=compiler))
    ]
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    x, w, b = (tensor.float().to(DEVICE) for tensor in (X, W, B))
    with torch.autocast(DEVICE, dtype):
        y = fastconv.conv2d(x, w, b, backend="triton")
    assert y.dtype == dtype
    exact = F.conv2d(x.double(), w.double(), b.double())
    assert (y.double() - exact).norm() <= 2 * torch.finfo(dtype).eps * exact.norm()


def test_threads_share_the_backend():
    """The interpreter runs one kernel at a time, whoever calls."""
    x, w = X.float().to(DEVICE), W.float().to(DEVICE)
    expected = fastconv.conv2d(x, w, backend="triton")
    results = [None] * 4

    def work(index):
        results[index] = [fastconv.conv2d(x, w, backend="triton") for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(y, expected) for ys in results for y in ys)


def test_explains_algorithm_tile_and_reason():
    x = torch.randn(1, 16, 8, 8, device=DEVICE).to(memory_format=torch.channels_last)
    w = torch.randn(24, 16, 3, 3, device=DEVICE).to(memory_format=torch.channels_last)
    text = str(fastconv.explain(fastconv.conv2d, x, w, backend="triton"))
    for part in ("implicit_gemm", "gemm_m 36", "tile 128x32x64", "4 warps", "tf32x3"):
        assert part in text, text
    text = str(fastconv.explain(fastconv.conv2d, x.double(), w.double(), backend="triton"))
    assert "direct" in text and "float64" in text, text
    text = str(fastconv.explain(fastconv.max_pool2d, x, 2, backend="triton"))
    assert "max_pool2d" in text and "triton" in text, text


def test_a_named_algorithm_that_cannot_run_a_call_says_why():
    with pytest.raises(NotImplementedError, match="one channel per group"):
        fastconv.conv2d(X.to(DEVICE), W.to(DEVICE), backend="triton:depthwise")


def test_integers_and_complex_numbers_have_no_kernels():
    x, w = torch.ones(1, 1, 3, 3, device=DEVICE), torch.ones(1, 1, 2, 2, device=DEVICE)
    with pytest.raises(NotImplementedError, match=r"no kernels for torch\.complex64"):
        fastconv.conv2d(x.cfloat(), w.cfloat(), backend="triton")


@pytest.mark.skipif(DEVICE != "cpu", reason="needs the interpreter")
def test_auto_never_takes_the_interpreter():
    assert fastconv.explain(fastconv.conv2d, X, W)[0].backend == "cpu"
