"""The whole road to a CUDA kernel, on the GPU or emulated: modules, functions, autograd, compilers,
explanations and errors of `backend="cuda"`."""

import threading
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

import fastconv
from fastconv._native import cuda, cuda_missing
from fastconv.backends import cuda_launch
from fastconv.backends.cuda_launch import DEVICE
from fastconv.bench.models.resnet import ResNet18
from fastconv.bench.models.small_cnn import SmallCNN

pytestmark = [
    pytest.mark.skipif(cuda is None, reason=f"no CUDA kernels: {cuda_missing}"),
    pytest.mark.usefixtures("strict"),
]
X = torch.randn(2, 3, 8, 9, dtype=torch.float64)
W = torch.randn(4, 3, 3, 3, dtype=torch.float64)
B = torch.randn(4, dtype=torch.float64)


@pytest.fixture(autouse=True)
def _float32_is_float32():
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        yield


def gradients(model, x, target):
    model.zero_grad()
    loss = F.cross_entropy(model(x), target)
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters())]


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("network, size", [(SmallCNN, 8), (ResNet18, 32)])
def test_a_converted_network_has_torchs_gradients(network, size, channels_last):
    """In evaluation mode: batch statistics of a few pixels would magnify rounding errors."""
    model = network().to(DEVICE).eval()
    x = torch.randn(2, model.conv1.in_channels, size, size, device=DEVICE)
    if channels_last:
        model, x = (o.to(memory_format=torch.channels_last) for o in (model, x))
    target = torch.tensor([1, 3], device=DEVICE)
    expected = gradients(model, x, target)
    with fastconv.backend("cuda"):
        got = gradients(fastconv.convert(model), x, target)
    for a, e in zip(got, expected, strict=True):
        assert (a - e).norm() <= 1e-4 * e.norm()


@pytest.mark.parametrize("backend", ["cuda", "cuda:direct", "cuda:im2col"])
def test_derivatives_of_every_order(backend):
    arguments = [tensor.to(DEVICE).requires_grad_() for tensor in (X[:1, :, :4, :4], W, B)]

    def call(x, w, b):
        return fastconv.conv2d(x, w, b, 2, 1, activation="silu", backend=backend)

    assert torch.autograd.gradcheck(call, arguments, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(call, arguments)


def test_depthwise_derivatives():
    x, w = (
        torch.randn(size, dtype=torch.float64, device=DEVICE).requires_grad_()
        for size in ((1, 3, 4, 5), (6, 1, 3, 3))
    )
    assert torch.autograd.gradcheck(
        lambda x, w: fastconv.conv2d(x, w, None, 1, 1, 1, 3, backend="cuda:depthwise"), (x, w)
    )


def test_compiles_as_one_graph():
    x, w, b = (tensor.float().to(DEVICE).requires_grad_() for tensor in (X, W, B))

    def call(x, w, b):
        y = fastconv.conv2d(x, w, b, padding=1, activation="relu", backend="cuda")
        return fastconv.max_pool2d(y, 2, backend="cuda").square().sum()

    results = [
        torch.autograd.grad(f(x, w, b), (x, w, b))
        for f in (call, torch.compile(call, fullgraph=True, backend="aot_eager"))
    ]
    assert all(torch.equal(a, e) for a, e in zip(*results))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_autocast(dtype):
    x, w, b = (tensor.float().to(DEVICE) for tensor in (X, W, B))
    with torch.autocast(DEVICE, dtype):
        y = fastconv.conv2d(x, w, b, backend="cuda")
    assert y.dtype == dtype
    exact = F.conv2d(x.double(), w.double(), b.double())
    assert (y.double() - exact).norm() <= 2 * torch.finfo(dtype).eps * exact.norm()


def test_threads_share_the_backend():
    x, w = X.float().to(DEVICE), W.float().to(DEVICE)
    expected = fastconv.conv2d(x, w, backend="cuda")
    results = [None] * 4

    def work(index):
        results[index] = [fastconv.conv2d(x, w, backend="cuda") for _ in range(5)]

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(y, expected) for ys in results for y in ys)


def test_explains_algorithm_tile_and_reason():
    x = torch.randn(1, 16, 8, 8, device=DEVICE).to(memory_format=torch.channels_last)
    w = torch.randn(24, 16, 3, 3, device=DEVICE).to(memory_format=torch.channels_last)
    text = str(fastconv.explain(fastconv.conv2d, x, w, backend="cuda"))
    for part in ("implicit_gemm", "gemm_m 36", "tile 128x32", "tf32x3", "16-byte accesses"):
        assert part in text, text
    text = str(fastconv.explain(fastconv.conv2d, x.double(), w.double(), backend="cuda"))
    assert "direct" in text and "float64" in text, text
    text = str(fastconv.explain(fastconv.max_pool2d, x, 2, backend="cuda"))
    assert "max_pool2d" in text and "cuda" in text, text


def test_a_named_algorithm_that_cannot_run_a_call_says_why():
    with pytest.raises(NotImplementedError, match="float64"):
        fastconv.conv2d(X.to(DEVICE), W.to(DEVICE), backend="cuda:implicit_gemm")
    with pytest.raises(NotImplementedError, match="one channel per group"):
        fastconv.conv2d(X.to(DEVICE), W.to(DEVICE), backend="cuda:depthwise")


def test_strides_that_an_algorithm_cannot_follow():
    """What only the strides forbid is known only with the tensors: an error, or another way."""
    huge = torch.empty(2**31 + 64, dtype=torch.float16, device=DEVICE)
    x = huge.as_strided((1, 2, 3, 3), (2**31, 2**31 - 1, 3, 1)).fill_(1)
    w = torch.ones(3, 2, 3, 3, dtype=torch.float16, device=DEVICE)
    with pytest.raises(ValueError, match="spans"):
        fastconv.conv2d(x, w, backend="cuda:implicit_gemm")
    assert (fastconv.conv2d(x, w, backend="cuda") == 18).all()


@pytest.mark.parametrize(
    "archs, capability, usable",
    [
        ("sm_80, sm_90a, sm_100, PTX", 75, False),
        ("sm_80, sm_90a, sm_100, PTX", 80, True),
        ("sm_80, sm_90a, sm_100, PTX", 89, True),
        ("sm_80, sm_90a, sm_100, PTX", 90, True),
        ("sm_80, sm_90a, sm_100, PTX", 120, True),
        ("sm_90a", 80, False),
        ("sm_90a", 100, False),
        ("sm_80, sm_90a", 120, False),
    ],
)
def test_a_device_without_machine_code_is_told_from_one_with(
    monkeypatch, archs, capability, usable
):
    module = SimpleNamespace(
        archs=archs,
        driver_status=cuda.driver_status,  # native, as it is on a GPU
        device_properties=lambda index: (1, 1, 1, capability),
    )
    monkeypatch.setattr(cuda_launch, "cuda", module)
    caches = (cuda_launch._unusable_reason, cuda_launch.device_properties)
    for function in caches:
        function.cache_clear()
    try:
        reason = cuda_launch.unusable_reason(0)
        # dispatch asks while a compiler is tracing it.
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda x: x + (cuda_launch.unusable_reason(0) is None),
            fullgraph=True,
            backend="eager",
        )
        assert compiled(torch.zeros(())) == usable
    finally:
        for function in caches:
            function.cache_clear()
    assert (reason is None) == usable, reason
    assert usable or f"sm_{capability}" in reason
