"""A kernel proves itself before its first use on a GPU. Without one the emulated and interpreted
kernels stand for it: their CPU tensors are taken for a GPU's."""

import contextlib
import importlib
import logging
import threading
import time

import pytest
import torch
import torch.nn.functional as F
from devices import CUDA, TRITON, device_of
from problems import integers
from torch._subclasses import FakeTensorMode

import fastconv
from fastconv import dispatch, first_use, seen_on_gpu
from fastconv._native import cuda
from fastconv.backends import BACKENDS
from fastconv.backends.cuda import conv2d as cuda_conv2d
from fastconv.backends.triton.launch import kernels
from fastconv.geometry import Conv2dGeometry
from fastconv.prepared import CallCache
from fastconv.selftest import problems

# Modules; their package has functions of these names.
functional_conv2d, functional_pool2d = (
    importlib.import_module(f"fastconv.functional.{name}") for name in ("conv2d", "pool2d")
)
CAPABILITY = (9, 0)
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's kernels are as they are")


@pytest.fixture(autouse=True)
def on_a_gpu(monkeypatch):
    """CPU tensors are a GPU's, on which no kernel was used yet, and the CUDA backend is theirs."""
    monkeypatch.setenv("FASTCONV_SELFTEST", "1")
    monkeypatch.setattr(first_use, "capability", lambda device: CAPABILITY)
    monkeypatch.setattr(first_use, "_verdicts", {})
    monkeypatch.setitem(dispatch._CANDIDATES, "cpu", ("cuda",))
    monkeypatch.setattr(functional_conv2d, "known", CallCache())
    monkeypatch.setattr(functional_pool2d, "known_max", CallCache())
    before = dict(dispatch.fallbacks)
    dispatch.fallbacks.clear()  # each new reason gives a warning
    yield
    dispatch.fallbacks.clear()
    dispatch.fallbacks.update(before)


class Launches:
    """The native module, of which one function is counted, and faulty where asked."""

    def __init__(self, name, fault=None):
        self.name, self.fault, self.count = name, fault, 0

    def __getattr__(self, name):
        function = getattr(cuda, name)
        if name != self.name:
            return function

        def call(*args):
            self.count += 1
            return self.fault(function, *args) if self.fault else function(*args)

        return call


def writes_nothing(function, *args):
    pass


def is_off_by_one(function, op, sizes, dtype, plan, x, x_strides, w, w_strides, y, *rest):
    """A convolution that reads x one element too far."""
    function(op, sizes, dtype, plan, x + 4, x_strides, w, w_strides, y, *rest)


def raises(function, *args):
    raise RuntimeError("conv2d: an illegal instruction was encountered")


@pytest.fixture
def planted(monkeypatch):
    """planted(name, fault): the Launches in the place of the native module, in every backend."""

    def plant(name, fault=None):
        launches = Launches(name, fault)
        for module in ("conv2d", "pool2d", "im2col"):
            monkeypatch.setattr(f"fastconv.backends.cuda.{module}.cuda", launches)
        return launches

    return plant


def call_of():
    """(x, w, F.conv2d's result) of a small call on the implicit GEMM."""
    x, w = integers((2, 16, 8, 8), torch.float32), integers((24, 16, 3, 3), torch.float32)
    return x, w, F.conv2d(x, w, padding=1)


needs_cuda = pytest.mark.parametrize("backend", [CUDA])


@needs_cuda
def test_a_sound_kernel_is_checked_once(backend, planted):
    launches = planted("conv2d")
    x, w, expected = call_of()
    with torch.no_grad():
        torch.testing.assert_close(fastconv.conv2d(x, w, padding=1), expected)
        first = launches.count
        (kernel,) = [kernel for _, _, kernel in first_use._verdicts]
        assert str(kernel) == "implicit_gemm fprop float32"
        fastconv.conv2d(x + 1, w, padding=1)  # prepared
        functional_conv2d.known = CallCache()
        fastconv.conv2d(x, w, padding=1)  # the long road again, without a check
    assert first == 3 and launches.count == 4  # bare, with an epilogue, and the call itself
    assert fastconv.info()["left_out"] == {} and not fastconv.info()["fallbacks"]


@needs_cuda
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (writes_nothing, "elements differ"),
        (is_off_by_one, "elements differ"),
        (raises, "RuntimeError: conv2d: an illegal instruction"),
    ],
)
def test_a_faulty_kernel_is_left_out(backend, planted, fault, reason, caplog):
    planted("conv2d", fault)
    x, w, expected = call_of()
    w.requires_grad_()
    with caplog.at_level(logging.WARNING, "fastconv"), pytest.warns(UserWarning, match="is left"):
        y = fastconv.conv2d(x, w, padding=1)
    torch.testing.assert_close(y, expected)
    assert "implicit_gemm fprop float32 is left out on cpu: " in caplog.text
    y.sum().backward()  # by ATen
    (name,) = fastconv.info()["left_out"]
    assert name == "cuda implicit_gemm fprop float32 on device 0"
    assert reason in fastconv.info()["left_out"][name]
    (fallback,) = fastconv.info()["fallbacks"]
    assert "is left out" in fallback and reason in fallback
    assert f"not cuda: {fallback.removeprefix('cuda: ')}" in str(
        fastconv.explain(fastconv.conv2d, x, w.detach(), None, 1, 1)
    )
    # Another algorithm is another matter, and a backend that is named raises.
    assert fastconv.conv2d(x.double(), w.double(), padding=1, backend="reference").isfinite().all()
    with pytest.raises(NotImplementedError, match="is left out on cpu"):
        fastconv.conv2d(x, w, padding=1, backend="cuda")


@needs_cuda
def test_backward_is_checked_before_forward_is_chosen(backend, planted):
    """Where only wgrad is faulty, inference stays, and training goes to ATen."""

    def no_wgrad(function, op, *args):
        if op != 2:
            function(op, *args)

    planted("conv2d", no_wgrad)
    x, w, expected = call_of()
    with torch.no_grad(), fastconv.dispatch.recording() as decisions:
        torch.testing.assert_close(fastconv.conv2d(x, w, padding=1), expected)
    assert [decision.backend for decision in decisions] == ["cuda"]
    w.requires_grad_()
    with pytest.warns(UserWarning, match="wgrad float32 is left out"):
        (dw,) = torch.autograd.grad(fastconv.conv2d(x, w, padding=1).sum(), w)
    (right,) = torch.autograd.grad(F.conv2d(x, w, padding=1).sum(), w)
    torch.testing.assert_close(dw, right)


@needs_cuda
def test_faulty_pools_are_left_out(backend, planted):
    planted("pool2d_max", writes_nothing)
    x = torch.randn(2, 16, 9, 8, requires_grad=True)
    with pytest.warns(UserWarning, match="max_fwd float32 is left out"):
        y = fastconv.max_pool2d(x, 3, 2, 1)
    torch.testing.assert_close(y, F.max_pool2d(x, 3, 2, 1))


@needs_cuda
def test_a_call_that_was_recorded_raises_rather_than_be_wrong(backend, planted):
    """torch.compile traces without a check: the kernel that starts asks."""
    planted("conv2d", writes_nothing)
    x, w, expected = call_of()

    def network(x, w):
        return fastconv.conv2d(x, w, padding=1)

    compiled = torch.compile(network, backend="aot_eager", fullgraph=True)
    with torch.no_grad(), pytest.raises(NotImplementedError, match="is left out"):
        compiled(x, w)
    torch._dynamo.reset()  # the next trace knows, and records ATen's operators
    with torch.no_grad():
        torch.testing.assert_close(compiled(x, w), expected)


@needs_cuda
def test_nothing_is_checked_while_tracing_with_fake_tensors(backend, planted):
    launches = planted("conv2d")
    with FakeTensorMode():
        x, w = torch.empty(2, 16, 8, 8), torch.empty(24, 16, 3, 3)
        assert fastconv.conv2d(x, w, padding=1).shape == (2, 24, 8, 8)
    assert launches.count == 0 and not first_use._verdicts


@needs_cuda
@pytest.mark.parametrize(
    "context",
    [
        torch.inference_mode,
        lambda: torch.autocast("cpu", torch.bfloat16),
        lambda: torch.device("meta"),
        lambda: torch.utils.flop_counter.FlopCounterMode(display=False),
    ],
    ids=["inference", "autocast", "device", "mode"],
)
def test_the_callers_modes_do_not_reach_the_check(backend, context):
    x, w, expected = call_of()
    with context():
        y = fastconv.conv2d(x, w, padding=1)
    torch.testing.assert_close(y.float(), expected, rtol=2e-2, atol=2e-1)
    assert first_use._verdicts and not any(first_use._verdicts.values())


@needs_cuda
def test_transforms_do_not_reach_the_check(backend):
    x, w, _ = call_of()
    per_sample = torch.func.vmap(
        torch.func.grad(lambda w, x: fastconv.conv2d(x, w, padding=1).square().sum()), (None, 0)
    )
    expected = torch.func.vmap(
        torch.func.grad(lambda w, x: F.conv2d(x, w, padding=1).square().sum()), (None, 0)
    )
    torch.testing.assert_close(per_sample(w, x), expected(w, x), rtol=1e-4, atol=1e-3)
    assert first_use._verdicts and not any(first_use._verdicts.values())


@needs_cuda
def test_capture_takes_what_was_checked_before(backend, monkeypatch):
    x, w, expected = call_of()
    small = torch.randn(2, 4, 6, 6), torch.randn(3, 4, 3, 3)
    with torch.no_grad():
        fastconv.conv2d(x, w, padding=1)
        monkeypatch.setattr(first_use, "_is_captured", lambda device: True)
        functional_conv2d.known = CallCache()
        with fastconv.dispatch.recording() as decisions:
            torch.testing.assert_close(fastconv.conv2d(x, w, padding=1), expected)
            with pytest.warns(UserWarning, match="call it once before"):
                fastconv.conv2d(*small)
        assert [decision.backend for decision in decisions] == ["cuda", None]
        monkeypatch.setattr(first_use, "_is_captured", lambda device: False)
        with fastconv.dispatch.recording() as decisions:
            fastconv.conv2d(*small)  # it was not judged
        assert decisions[0].backend == "cuda"


@needs_cuda
def test_what_was_seen_on_this_capability_is_not_checked(backend, planted, monkeypatch):
    launches = planted("conv2d")
    x, w, _ = call_of()
    for capability, count in ((CAPABILITY, 1), ((8, 0), 3)):
        seen = seen_on_gpu.Seen(capability, "cuda", "implicit_gemm", "0123abc", "h100.csv")
        monkeypatch.setattr(seen_on_gpu, "SEEN", (seen,))
        functional_conv2d.known, launches.count = CallCache(), 0
        with torch.no_grad():
            fastconv.conv2d(x, w, padding=1)
        assert launches.count == count


@needs_cuda
def test_the_check_can_be_turned_off(backend, planted, monkeypatch):
    monkeypatch.setenv("FASTCONV_SELFTEST", "0")
    launches = planted("conv2d", writes_nothing)
    x, w, _ = call_of()
    with torch.no_grad():
        fastconv.conv2d(x, w, padding=1)
    assert launches.count == 1 and not first_use._verdicts


@needs_cuda
def test_no_memory_is_no_verdict(backend, planted):
    def exhausted(function, *args):
        raise torch.cuda.OutOfMemoryError("out of memory")

    launches = planted("conv2d", exhausted)
    x, w, expected = call_of()
    with torch.no_grad():
        with pytest.warns(UserWarning, match="no memory is left to check it"):
            torch.testing.assert_close(fastconv.conv2d(x, w, padding=1), expected)
        launches.fault = None
        with fastconv.dispatch.recording() as decisions:
            fastconv.conv2d(x, w, padding=1)
    assert decisions[0].backend == "cuda"


@needs_cuda
def test_threads_check_a_kernel_once(backend, planted):
    launches = planted("conv2d")
    x, w, _ = call_of()

    def work(height):  # a call like one before would be prepared, and not be counted
        with torch.no_grad():
            fastconv.conv2d(x[:, :, :height], w, padding=1)

    threads = [threading.Thread(target=work, args=(height,)) for height in (5, 6, 7, 8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
        assert not thread.is_alive()
    assert launches.count == 2 + len(threads)


@pytest.mark.parametrize("backend", [TRITON])
def test_triton_kernels_are_checked_too(backend, monkeypatch):
    monkeypatch.setitem(dispatch._CANDIDATES, device_of(backend), ("triton",))
    x, w = torch.randn(1, 4, 6, 6), torch.randn(3, 4, 3, 3)  # direct
    with torch.no_grad():
        torch.testing.assert_close(fastconv.conv2d(x, w), F.conv2d(x, w))
        (kernel,) = [kernel for _, _, kernel in first_use._verdicts]
        assert str(kernel) == "direct fprop float32"
        first_use._verdicts.clear()
        functional_conv2d.known = CallCache()
        module = kernels("conv2d_gather_direct")
        monkeypatch.setattr(module, "launch_conv2d", lambda *args: None)
        with pytest.warns(UserWarning, match="direct fprop float32 is left out"):
            torch.testing.assert_close(fastconv.conv2d(x, w), F.conv2d(x, w))


def test_the_list_of_what_was_seen_names_its_evidence():
    folder = seen_on_gpu.__file__.replace("fastconv/seen_on_gpu.py", "bench/results")
    for seen in seen_on_gpu.SEEN:
        assert f"{seen.family}:{seen.algorithm}" in BACKENDS or seen.algorithm == "epilogue"
        with contextlib.closing(open(f"{folder}/{seen.evidence}")) as file:
            assert seen.commit[:7] in file.read()


@needs_cuda
def test_what_a_check_costs_beside_the_kernel(backend, planted, monkeypatch):
    """On a GPU the kernel takes microseconds; planning, inputs and the oracle are the CPU's, and
    stay far below 50 ms: the best of some, since other programs run here."""

    def by_aten(self, x, w, b, residual, geometry, activation):
        y = F.conv2d(x, w, b, *geometry)
        return y if activation == "none" else (y + residual).relu()

    monkeypatch.setattr(cuda_conv2d.CudaBackend, "conv2d_fprop", by_aten)
    call = (2, 72, 8, 8), (80, 72, 3, 3), Conv2dGeometry(*[(1, 1)] * 3, 1)
    kernel = BACKENDS["cuda:implicit_gemm"].kernel("fprop", call, torch.bfloat16, True, None)
    seconds = []
    for _ in range(5):
        first_use._verdicts.clear()
        problems._expected.cache_clear()
        problems.integers.cache_clear()
        begin = time.perf_counter()
        assert first_use.refusal(BACKENDS["cuda"], [kernel], torch.device("cpu")) is None
        seconds.append(time.perf_counter() - begin)
    assert min(seconds) < 0.05, seconds
