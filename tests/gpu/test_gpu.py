"""What only a GPU can show: derivatives end to end, a training step of ResNet-18, CUDA graphs,
streams, threads, tensors beyond 2^31 elements. Skipped elsewhere; bench/accept_gpu.sh runs it."""

import copy
import importlib
import threading

import pytest
import torch
import torch.nn.functional as F

import fastconv
from fastconv import first_use, seen_on_gpu
from fastconv._native import cuda
from fastconv.bench.models.resnet import ResNet18
from fastconv.prepared import CallCache

functional_conv2d = importlib.import_module("fastconv.functional.conv2d")

pytestmark = [
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
    pytest.mark.skipif(cuda is None or cuda.is_emulated, reason="needs the real fastconv._cuda"),
    pytest.mark.usefixtures("strict"),
]
ALGORITHMS = ["direct", "im2col", "implicit_gemm", "depthwise"]
GB = 1 << 30


def backend_of(algorithm):
    return f"cuda:{algorithm}"


def family(algorithm, dtype, channels_last=False, C=8, K=16, size=20):
    """(x, w, groups) of a small call that the algorithm runs."""
    groups = C if algorithm == "depthwise" else 1
    K = C if algorithm == "depthwise" else K
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x = torch.randn(2, C, size, size, device="cuda").to(dtype).to(memory_format=layout)
    w = torch.randn(K, C // groups, 3, 3, device="cuda").to(dtype).to(memory_format=layout)
    return x, w, groups


# Derivatives


@pytest.mark.gradcheck
@pytest.mark.parametrize("algorithm", ["direct", "im2col", "depthwise"])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradcheck_of_convolutions(algorithm, stride):
    x, w, groups = family(algorithm, torch.float64, C=3, K=4, size=5)
    b = torch.randn(len(w), device="cuda", dtype=torch.float64)
    arguments = [tensor.requires_grad_() for tensor in (x, w, b)]

    def call(x, w, b, activation=None):
        return fastconv.conv2d(
            x, w, b, stride, 1, 1, groups, activation=activation, backend=backend_of(algorithm)
        )

    assert torch.autograd.gradcheck(call, arguments)
    assert torch.autograd.gradcheck(lambda *a: call(*a, activation="silu"), arguments)
    assert torch.autograd.gradgradcheck(call, arguments)


POOLS = {
    "max": lambda x: fastconv.max_pool2d(x, 3, 2, 1, backend="cuda"),
    "avg": lambda x: fastconv.avg_pool2d(x, 3, 2, 1, backend="cuda"),
    "adaptive avg": lambda x: fastconv.adaptive_avg_pool2d(x, (3, 2), backend="cuda"),
    "adaptive max": lambda x: fastconv.adaptive_max_pool2d(x, (3, 2), backend="cuda"),
}


@pytest.mark.gradcheck
@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
def test_gradcheck_of_pools(name, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    # All different, by more than gradcheck's step.
    x = torch.randperm(2 * 3 * 7 * 6, device="cuda").double().view(2, 3, 7, 6) / 100
    x = x.to(memory_format=layout).requires_grad_()
    assert torch.autograd.gradcheck(POOLS[name], [x])


# Precision of float32


@pytest.mark.parametrize("allow_tf32", [False, True])
def test_float32_follows_torchs_tf32_setting(allow_tf32):
    """Without TF32 the matrix units still give float32's accuracy: three products stand for one."""
    x, w, _ = family("implicit_gemm", torch.float32, True, C=256, K=64)
    exact = F.conv2d(x.double(), w.double(), padding=1)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=allow_tf32):
        y = fastconv.conv2d(x, w, padding=1, backend="cuda:implicit_gemm")
        theirs = F.conv2d(x, w, padding=1)
    error, allowed = ((t.double() - exact).norm() / exact.norm() for t in (y, theirs))
    assert error <= 2 * allowed + 1e-7
    assert (error > 1e-5) == allow_tf32


# A network


def losses_and_gradients(model, x, target):
    loss = F.cross_entropy(model(x), target)
    loss.backward()
    return loss.double(), {name: p.grad.double() for name, p in model.named_parameters()}


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
def test_a_training_step_of_resnet18(dtype, channels_last):
    layout = torch.channels_last if channels_last else torch.contiguous_format
    torch.manual_seed(0)
    model = ResNet18().cuda().to(dtype=dtype, memory_format=layout).train()
    converted = fastconv.convert(copy.deepcopy(model))
    reference = copy.deepcopy(model).double()
    x = torch.randn(8, 3, 96, 96, device="cuda", dtype=dtype).to(memory_format=layout)
    target = torch.arange(8, device="cuda")
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        exact_loss, exact = losses_and_gradients(reference, x.double(), target)
        loss, ours = losses_and_gradients(converted, x, target)
        their_loss, theirs = losses_and_gradients(model, x, target)
    floor = 1e-9 if dtype == torch.float64 else 1e-4
    assert abs(loss - exact_loss) <= 3 * abs(their_loss - exact_loss) + floor
    for name, grad in exact.items():
        scale = grad.norm() + 1e-12
        error, allowed = ((g[name] - grad).norm() / scale for g in (ours, theirs))
        assert error <= 3 * allowed + floor, name
    for module, result in ((converted, ours), (model, theirs)):
        torch.optim.SGD(module.parameters(), lr=0.1).step()
        assert all(value.isfinite().all() for value in result.values())


def test_autocast_training_goes_down():
    torch.manual_seed(0)
    model = fastconv.convert(ResNet18()).cuda().to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    x = torch.randn(16, 3, 64, 64, device="cuda").to(memory_format=torch.channels_last)
    target = torch.arange(16, device="cuda") % 10
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        with torch.autocast("cuda", torch.bfloat16):
            loss = F.cross_entropy(model(x), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2


# Graphs, streams, threads


def step(algorithm, x, w, groups):
    """y, dx, dw by one backend; no synchronisation, so that it can be captured."""
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y = fastconv.conv2d(x, w, None, 1, 1, 1, groups, backend=backend_of(algorithm))
    return y, *torch.autograd.grad(y, (x, w), y)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_captured_graph_replays_on_new_inputs(algorithm):
    x, w, groups = family(algorithm, torch.float16, True, C=16)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        step(algorithm, x, w, groups)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = step(algorithm, x, w, groups)
    for _ in range(3):
        x.copy_(torch.randn_like(x))
        w.copy_(torch.randn_like(w))
        for tensor in captured:
            tensor.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        assert all(torch.equal(a, b) for a, b in zip(captured, step(algorithm, x, w, groups)))


def test_pools_are_captured_too():
    x = torch.randn(2, 8, 16, 16, device="cuda")
    for pool in POOLS.values():  # a first launch may load a module, which a capture forbids
        pool(x)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = [pool(x) for pool in POOLS.values()]
    x.copy_(torch.randn_like(x))
    graph.replay()
    assert all(torch.equal(a, pool(x)) for a, pool in zip(captured, POOLS.values()))


def test_a_kernel_proves_itself_before_a_capture_uses_it(monkeypatch):
    monkeypatch.setenv("FASTCONV_SELFTEST", "1")
    monkeypatch.setattr(first_use, "_verdicts", {})
    monkeypatch.setattr(seen_on_gpu, "SEEN", ())
    monkeypatch.delenv("FASTCONV_STRICT")
    x, w, _ = family("direct", torch.float64, C=5, K=7)  # not remembered by another test
    F.conv2d(x, w)
    graph = torch.cuda.CUDAGraph()
    with fastconv.dispatch.recording() as decisions:
        with pytest.warns(UserWarning, match="call it once before"), torch.cuda.graph(graph):
            fastconv.conv2d(x, w)
        fastconv.conv2d(x, w)
        functional_conv2d.known = CallCache()
        with torch.cuda.graph(torch.cuda.CUDAGraph()):
            y = fastconv.conv2d(x, w)
    assert [decision.backend for decision in decisions] == [None, "cuda", "cuda"]
    assert first_use._verdicts and not fastconv.info()["left_out"], fastconv.info()["left_out"]
    assert y.shape == (2, 7, 18, 18)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_work_is_enqueued_on_the_current_stream(algorithm):
    """The input is written late on a side stream; work on another stream would read too early."""
    x, w, groups = family(algorithm, torch.float16, True, C=16)
    late = torch.zeros_like(x)
    expected = step(algorithm, x, w, groups)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(50_000_000)  # some 30 ms
        late.copy_(x)
        got = step(algorithm, late, w, groups)
    side.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, expected))


def test_two_threads_with_a_stream_each():
    calls = [(name, *family(name, torch.float16, True, C=16)) for name in ALGORITHMS]
    expected = [step(*call) for call in calls]
    torch.cuda.synchronize()
    failures = []

    def work(order):
        try:
            with torch.cuda.stream(torch.cuda.Stream()):
                for _ in range(50):
                    for index in order:
                        for got, want in zip(step(*calls[index]), expected[index]):
                            if not torch.equal(got, want):
                                failures.append(calls[index][0])
        except Exception as error:  # a thread's exception is lost otherwise
            failures.append(repr(error))

    threads = [
        threading.Thread(target=work, args=(order,)) for order in ([0, 1, 2, 3], [3, 2, 1, 0])
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures, failures[:5]


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_bitwise_equal_over_runs(algorithm):
    x, w, groups = family(algorithm, torch.bfloat16, True, C=64, K=64, size=40)
    first = step(algorithm, x, w, groups)
    for _ in range(5):
        assert all(torch.equal(a, b) for a, b in zip(first, step(algorithm, x, w, groups)))


# Beyond 2^31 elements: one after the other, for together they would not fit


ALONE = pytest.mark.xdist_group("memory")


def needs_memory(gigabytes):
    torch.cuda.empty_cache()
    if torch.cuda.mem_get_info()[0] < gigabytes * GB:
        pytest.skip(f"needs {gigabytes} GiB of GPU memory")


def assert_same(actual, expected):
    """Up to bfloat16's rounding: the plan may sum in another order. A wrong address is far off."""
    actual, expected = actual.float(), expected.float()
    assert (actual - expected).norm() <= 1e-2 * expected.norm()


def noise(*size):
    """bfloat16 without a float32 copy of everything."""
    return torch.empty(size, dtype=torch.bfloat16, device="cuda").normal_()


@ALONE
@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("algorithm", ["direct", "implicit_gemm", "depthwise"])
def test_more_than_two_to_the_31_elements(algorithm, channels_last):
    """The last image of a batch lies beyond 2^31 elements. Alone it must give the same result."""
    needs_memory(30)
    C, groups = 64, 64 if algorithm == "depthwise" else 1
    x = noise(33, C, 1024, 1024)  # 2.2e9 elements
    if channels_last:
        x = x.view(33, 1024, 1024, C).permute(0, 3, 1, 2)
    w = noise(C if groups > 1 else 8, C // groups, 3, 3)
    if channels_last:
        w = w.to(memory_format=torch.channels_last)
    call = {"padding": 1, "groups": groups, "backend": backend_of(algorithm)}
    y = fastconv.conv2d(x, w, **call)
    assert x.numel() > 2**31
    assert_same(y[-1:], fastconv.conv2d(x[-1:], w, **call))
    # dgrad: dy is the smaller one, dx has x's size.
    dy = y.detach()
    x.requires_grad_()
    (dx,) = torch.autograd.grad(fastconv.conv2d(x, w, **call), x, dy)
    alone = x.detach()[-1:].requires_grad_()
    (expected,) = torch.autograd.grad(fastconv.conv2d(alone, w, **call), alone, dy[-1:])
    assert_same(dx[-1:], expected)


@ALONE
def test_wgrad_over_more_than_two_to_the_31_elements():
    needs_memory(20)
    x, w = noise(33, 64, 1024, 1024), noise(8, 64, 3, 3).requires_grad_()
    dy = torch.zeros(33, 8, 1024, 1024, dtype=torch.bfloat16, device="cuda")
    dy[-1] = torch.randn_like(dy[-1])  # all the gradient comes from beyond
    (dw,) = torch.autograd.grad(fastconv.conv2d(x, w, padding=1, backend="cuda"), w, dy)
    y = F.conv2d(x[-1:].float(), w.float(), padding=1)
    (expected,) = torch.autograd.grad(y, w, dy[-1:].float())
    assert_same(dw, expected)


@ALONE
@pytest.mark.parametrize("name", ["max", "avg"])
def test_pools_of_more_than_two_to_the_31_elements(name):
    needs_memory(20)
    x = noise(33, 64, 1024, 1024)
    y = POOLS[name](x)
    assert_same(y[-1:], POOLS[name](x[-1:]))
    alone = x[-1:].clone().requires_grad_()
    (expected,) = torch.autograd.grad(POOLS[name](alone), alone, y[-1:])
    (dx,) = torch.autograd.grad(POOLS[name](x.requires_grad_()), x, y)
    assert_same(dx[-1:], expected)


@ALONE
def test_one_image_of_more_than_two_to_the_31_elements():
    needs_memory(20)
    x, w = noise(1, 4, 24_000, 24_000), noise(4, 1, 3, 3)
    y = fastconv.conv2d(x, w, groups=4, backend="cuda")
    corner = fastconv.conv2d(x[:, :, -40:, -40:], w, groups=4, backend="cuda")
    assert x.numel() > 2**31
    assert_same(y[:, :, -38:, -38:], corner)


def test_an_error_does_not_stick():
    """After a refused call the next one works."""
    x, w, _ = family("direct", torch.float32)
    with pytest.raises(NotImplementedError):
        fastconv.conv2d(x.long(), w.long(), backend="cuda")
    assert torch.equal(
        fastconv.conv2d(x, w, backend="cuda:direct"), fastconv.conv2d(x, w, backend="cuda:direct")
    )
