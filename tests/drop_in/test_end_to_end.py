"""The whole road to a CUDA or Triton kernel, on the GPU, emulated or interpreted: networks,
autograd, compilers, autocast, threads and explanations of a backend that is asked for by name."""

import copy
import threading

import pytest
import torch
import torch.nn.functional as F
from conv_kernels import CUDA_ALGORITHMS, TRITON_ALGORITHMS, without
from devices import CUDA, TRITON, device_of, interpreted

import fastconv
from fastconv.bench.models.resnet import ResNet18
from fastconv.bench.models.small_cnn import SmallCNN

pytestmark = pytest.mark.usefixtures("strict")
BACKENDS = pytest.mark.parametrize("backend", [CUDA, TRITON])
X = torch.randn(2, 3, 8, 9, dtype=torch.float64)
W = torch.randn(4, 3, 3, 3, dtype=torch.float64)
B = torch.randn(4, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _float32_is_float32():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def on_device(backend, *tensors):
    return [tensor.float().to(device_of(backend)) for tensor in tensors]


def gradients(model, x, target):
    loss = F.cross_entropy(model(x), target)
    loss.backward()
    return [loss.detach(), *(p.grad for p in model.parameters())]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("network, size", [(SmallCNN, 8), (ResNet18, 32)])
@BACKENDS
def test_a_converted_network_has_torchs_gradients(
    backend, network, size, channels_last, exhaustive
):
    """In evaluation mode: batch statistics of a few pixels would magnify rounding errors."""
    device = device_of(backend)
    if network is ResNet18 and device == "cpu" and not exhaustive:
        pytest.skip("minutes without a GPU: --exhaustive runs it")
    model = network().to(device).eval()
    x = torch.randn(2, model.conv1.in_channels, size, size, device=device)
    if channels_last:
        model, x = (o.to(memory_format=torch.channels_last) for o in (model, x))
    target = torch.tensor([1, 3], device=device)
    swapped = fastconv.convert(copy.deepcopy(model))
    expected = gradients(model, x, target)
    with fastconv.backend(backend):
        got = gradients(swapped, x, target)
    for a, e in zip(got, expected, strict=True):
        assert (a - e).norm() <= 1e-4 * e.norm()


@pytest.mark.gradcheck
@pytest.mark.parametrize(
    "backend", without([*CUDA_ALGORITHMS, *TRITON_ALGORITHMS], "implicit_gemm", "depthwise")
)
def test_derivatives_of_every_order(backend, exhaustive):
    if interpreted(backend) and "im2col" in backend and not exhaustive:
        pytest.skip("direct runs in Triton's interpreter; --exhaustive runs im2col too")
    arguments = [
        tensor.to(device_of(backend)).requires_grad_()
        for tensor in (X[:1, :2, :3, :3], W[:2, :2], B[:2])
    ]

    def call(x, w, b):
        return fastconv.conv2d(x, w, b, 2, 1, activation="silu", backend=backend)

    assert torch.autograd.gradcheck(call, arguments, check_forward_ad=True, fast_mode=True)
    assert torch.autograd.gradgradcheck(call, arguments, fast_mode=True)


@pytest.mark.gradcheck
@BACKENDS
def test_depthwise_derivatives(backend):
    x, w = (
        torch.randn(size, dtype=torch.float64, device=device_of(backend)).requires_grad_()
        for size in ((1, 3, 4, 5), (6, 1, 3, 3))
    )

    def call(x, w):
        return fastconv.conv2d(x, w, None, 1, 1, 1, 3, backend=f"{backend}:depthwise")

    assert torch.autograd.gradcheck(call, (x, w), fast_mode=True)


@pytest.mark.parametrize("compiler", ["aot_eager", "inductor"])
@BACKENDS
def test_compiles_as_one_graph(backend, compiler, exhaustive):
    if compiler == "inductor" and not exhaustive:
        pytest.skip("starts a C++ compiler: --exhaustive runs it")
    x, w, b = (tensor.requires_grad_() for tensor in on_device(backend, X, W, B))

    def call(x, w, b):
        y = fastconv.conv2d(x, w, b, padding=1, activation="relu", backend=backend)
        y = fastconv.max_pool2d(y, 2, backend=backend)
        return fastconv.adaptive_avg_pool2d(y, 2, backend=backend).square().sum()

    torch._dynamo.reset()
    results = [
        torch.autograd.grad(f(x, w, b), (x, w, b))
        for f in (call, torch.compile(call, fullgraph=True, backend=compiler))
    ]
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@BACKENDS
def test_autocast(backend, dtype):
    x, w, b = on_device(backend, X, W, B)
    with torch.autocast(device_of(backend), dtype):
        y = fastconv.conv2d(x, w, b, backend=backend)
    assert y.dtype == dtype
    exact = F.conv2d(x.double(), w.double(), b.double())
    assert (y.double() - exact).norm() <= 2 * torch.finfo(dtype).eps * exact.norm()


@BACKENDS
def test_threads_share_the_backend(backend):
    x, w = on_device(backend, X, W)
    expected = fastconv.conv2d(x, w, backend=backend)
    results = [None] * 4

    def work(index):
        results[index] = [fastconv.conv2d(x, w, backend=backend) for _ in range(3)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(y, expected) for ys in results for y in ys)


@pytest.mark.parametrize(
    "backend, words",
    [
        pytest.param("cuda", ("tile 64x64", "16-byte accesses"), marks=CUDA.marks),
        pytest.param("triton", ("tile 128x32x64", "4 warps"), marks=TRITON.marks),
    ],
)
def test_explains_algorithm_tile_and_reason(backend, words):
    x, w = on_device(backend, torch.randn(1, 16, 8, 8), torch.randn(24, 16, 3, 3))
    x, w = (tensor.to(memory_format=torch.channels_last) for tensor in (x, w))
    text = str(fastconv.explain(fastconv.conv2d, x, w, backend=backend))
    for part in ("implicit_gemm", "gemm_m 36", "tf32x3", *words):
        assert part in text, text
    text = str(fastconv.explain(fastconv.conv2d, x.double(), w.double(), backend=backend))
    assert "direct" in text and "float64" in text, text
    text = str(fastconv.explain(fastconv.max_pool2d, x, 2, backend=backend))
    assert "max_pool2d" in text and backend in text, text


@BACKENDS
def test_a_named_algorithm_that_cannot_run_a_call_says_why(backend):
    x, w = on_device(backend, X, W)
    with pytest.raises(NotImplementedError, match="one channel per group"):
        fastconv.conv2d(x, w, backend=f"{backend}:depthwise")
    with pytest.raises(NotImplementedError, match=r"no kernels for torch\.complex64"):
        fastconv.conv2d(x.cfloat(), w.cfloat(), backend=backend)


@pytest.mark.parametrize("backend", [CUDA, TRITON])
def test_auto_never_takes_the_emulator_or_the_interpreter(backend):
    if device_of(backend) != "cpu":
        pytest.skip("on a GPU these are the choice")
    assert fastconv.explain(fastconv.conv2d, X, W)[0].backend == "cpu"
