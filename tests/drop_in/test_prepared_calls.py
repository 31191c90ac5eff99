"""Calls that were met before (fastconv/prepared.py): the second call with a signature computes what
the first one did, and whatever a signature does not say is looked at in every call."""

import contextlib
import sys
import threading

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv
from fastconv import prepared

CONV2D = sys.modules["fastconv.functional.conv2d"]
CONV_TRANSPOSE2D = sys.modules["fastconv.functional.conv_transpose2d"]
POOL2D = sys.modules["fastconv.functional.pool2d"]
CONV1D = sys.modules["fastconv.functional.conv1d"]
POOL1D = sys.modules["fastconv.functional.pool1d"]
LONG_ROADS = (
    (CONV2D, "_conv2d"),
    (CONV_TRANSPOSE2D, "_conv_transpose2d"),
    (POOL2D, "_max_pool2d"),
    (POOL2D, "_avg_pool2d"),
    (POOL2D, "_adaptive_max_pool2d"),
    (POOL2D, "_adaptive_avg_pool2d"),
    (CONV1D, "_conv1d"),
    (POOL1D, "_max_pool1d"),
    (POOL1D, "_avg_pool1d"),
    (POOL1D, "_adaptive_max_pool1d"),
    (POOL1D, "_adaptive_avg_pool1d"),
)


@pytest.fixture(params=["as torch has it", "older torch"], scope="module", autouse=True)
def torch_functions(request):
    """Older versions of torch have neither DLPack's exchange nor the compiler's allocation."""
    older = {"exchange": None, "empty_strided": prepared._empty_strided}
    prepared.core.connect_torch(prepared.TORCH | (older if "older" in request.param else {}))
    yield
    prepared.core.connect_torch(prepared.TORCH)


@pytest.fixture
def long_calls(monkeypatch):
    """The operators of the calls that took the long road."""
    names = []

    def watched(name, function):
        def call(*args, **kwargs):
            names.append(name)
            return function(*args, **kwargs)

        return call

    for module, name in LONG_ROADS:
        monkeypatch.setattr(module, name, watched(name, getattr(module, name)))
    return names


def conv_tensors(*, requires_grad=False, dtype=torch.float32, size=(2, 4, 7, 9)):
    """x, w, b of a signature that no other test uses: a cache outlives its test."""
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in (size, (6, size[1], 3, 3), (6,))
    ]
    return [tensor.requires_grad_(requires_grad) for tensor in tensors]


CALLS = {
    "conv2d": lambda x, w, b: fastconv.conv2d(x, w, padding=1),
    "bias": lambda x, w, b: fastconv.conv2d(x, w, b, 2, (1, 0)),
    "relu": lambda x, w, b: fastconv.conv2d(x, w, b, padding=[1], activation="relu"),
    "residual": lambda x, w, b: fastconv.conv2d(
        x, w, b, padding=1, residual=x[:, :1].expand(-1, 6, -1, -1), activation="relu6"
    ),
    "plain residual": lambda x, w, b: fastconv.conv2d(
        x, w, b, padding=1, residual=x[:, :1].expand(-1, 6, -1, -1)
    ),
    "algorithm": lambda x, w, b: fastconv.conv2d(x, w, b, backend="cpu:implicit_gemm"),
    "reference": lambda x, w, b: fastconv.conv2d(x, w, b, activation="relu", backend="reference"),
    "transposed": lambda x, w, b: fastconv.conv_transpose2d(x, w[:4], b[:4], (3, 2), 1, (2, 1)),
    "grouped transposed": lambda x, w, b: fastconv.conv_transpose2d(
        x,
        w[:4, :3],
        b,
        groups=2,
        activation="relu6",
        residual=F.pad(x, (1, 1, 1, 1))[:, :1].expand(-1, 6, -1, -1),
    ),
    "max": lambda x, w, b: fastconv.max_pool2d(x, 2),
    "indices": lambda x, w, b: fastconv.max_pool2d(x, (3, 2), 2, 1, return_indices=True),
    "adaptive max": lambda x, w, b: fastconv.adaptive_max_pool2d(x, (2, None)),
    "adaptive indices": lambda x, w, b: fastconv.adaptive_max_pool2d(x, 2, True),
    "avg": lambda x, w, b: fastconv.avg_pool2d(x, 3, 2, 1, False, False),
    "divisor": lambda x, w, b: fastconv.avg_pool2d(x, 2, divisor_override=3),
    "adaptive avg": lambda x, w, b: fastconv.adaptive_avg_pool2d(x, 1),
    "conv1d": lambda x, w, b: fastconv.conv1d(x[:, :, 2], w[:, :, 0], b, padding=1),
    "conv1d, residual": lambda x, w, b: fastconv.conv1d(
        x[:, :, 2], w[:, :, 0], b, 2, activation="relu", residual=x[:, :1, 0, :4].expand(-1, 6, -1)
    ),
    "max of rows": lambda x, w, b: fastconv.max_pool1d(x[:, :, 2], 2),
    "indices of rows": lambda x, w, b: fastconv.max_pool1d(x[:, :, 2], 2, return_indices=True),
    "adaptive max of rows": lambda x, w, b: fastconv.adaptive_max_pool1d(x[:, :, 2], 2),
    "avg of rows": lambda x, w, b: fastconv.avg_pool1d(x[:, :, 2], 3, 2, 1),
    "adaptive avg of rows": lambda x, w, b: fastconv.adaptive_avg_pool1d(x[:, :, 2], 2),
}
parametrize_calls = pytest.mark.parametrize("name", CALLS)


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def same_bits(a, b):
    return a.stride() == b.stride() and torch.equal(a, b)


@parametrize_calls
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_second_call_is_short_and_equal(name, dtype, long_calls):
    tensors = conv_tensors(dtype=dtype)
    call = CALLS[name]
    first = as_tuple(call(*tensors))
    del long_calls[:]
    second = as_tuple(call(*tensors))
    assert not long_calls
    assert all(map(same_bits, first, second))
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(first, second))


CUDA_CALLS = {
    "direct": lambda x, w, b: fastconv.conv2d(x, w, b, padding=1, backend="cuda:direct"),
    "implicit GEMM": lambda x, w, b: fastconv.conv2d(
        x, w, b, 2, 1, activation="relu", backend="cuda:implicit_gemm"
    ),
    "residual": lambda x, w, b: fastconv.conv2d(
        x, w, b, padding=1, residual=x[:, :1].expand(-1, 6, -1, -1), activation="relu6",
        backend="cuda",
    ),
    "depthwise": lambda x, w, b: fastconv.conv2d(
        x, w[:4, :1], b[:4], groups=4, activation="leaky_relu(0.1)", backend="cuda:depthwise"
    ),
    "max": lambda x, w, b: fastconv.max_pool2d(x, 3, 2, 1, backend="cuda"),
    "indices": lambda x, w, b: fastconv.max_pool2d(x, 2, return_indices=True, backend="cuda"),
    "avg": lambda x, w, b: fastconv.avg_pool2d(x, 3, 2, 1, backend="cuda"),
    "adaptive avg": lambda x, w, b: fastconv.adaptive_avg_pool2d(x, 2, backend="cuda"),
}  # fmt: skip


@pytest.mark.parametrize("name", CUDA_CALLS)
@pytest.mark.parametrize("size", [(2, 4, 7, 9), (2, 64, 4, 4)], ids=["small", "workspace"])
def test_cuda_in_the_emulator(name, size, long_calls, monkeypatch):
    """Inference twice and training three times, as the tests above do on the CPU."""
    if not fastconv._native.cuda or not fastconv._native.cuda.is_emulated:
        pytest.skip("needs the emulated CUDA module")
    if name == "depthwise" and size[1] != 4:
        pytest.skip("has no workspace")
    call = CUDA_CALLS[name]
    steps = []
    for step in range(3):
        tensors = conv_tensors(requires_grad=True, size=size)
        with torch.no_grad():
            inferred = as_tuple(call(*tensors))
        if step == 2:
            del long_calls[:]
            monkeypatch.delattr("fastconv.autograd.prepared_conv2d.gradients_through_epilogue")
            monkeypatch.delattr("fastconv.autograd.prepared_pool2d.max_bwd")
            monkeypatch.delattr("fastconv.autograd.prepared_pool2d.avg_bwd")
        y = as_tuple(call(*tensors))[0]
        assert torch.equal(y, inferred[0])
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
        steps.append([*inferred, y.detach(), *(t.grad for t in tensors if t.grad is not None)])
    assert not long_calls
    assert all(map(same_bits, steps[0], steps[1])) and all(map(same_bits, steps[0], steps[2]))


def test_tf32_is_part_of_a_cuda_signature(long_calls):
    x, w, b = conv_tensors(size=(1, 32, 6, 6))
    call = CUDA_CALLS["implicit GEMM"]
    exact, rounded = [], []
    for _ in range(2):
        for flag, results in ((False, exact), (True, rounded)):
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=flag):
                results.append(call(x, w, b))
    assert torch.equal(*exact) and torch.equal(*rounded) and not torch.equal(exact[0], rounded[0])


@parametrize_calls
def test_training(name, long_calls, monkeypatch):
    """Three steps: the second one's forward is prepared, and the third one's backward, too."""
    call = CALLS[name]
    steps = []
    for step in range(3):
        tensors = conv_tensors(requires_grad=True)
        if step == 2:
            del long_calls[:]
            # The gradient of a residual that nothing is done with is dy itself, and not prepared.
            if name != "plain residual":
                monkeypatch.delattr("fastconv.autograd.prepared_conv2d.gradients_through_epilogue")
            monkeypatch.delattr("fastconv.autograd.prepared_pool2d.max_bwd")
            monkeypatch.delattr("fastconv.autograd.prepared_pool2d.avg_bwd")
        y = as_tuple(call(*tensors))[0]
        assert y.requires_grad and y.grad_fn is not None
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
        steps.append([y.detach(), *(t.grad for t in tensors if t.grad is not None)])
    assert not long_calls
    assert len({len(step) for step in steps}) == 1
    assert all(map(same_bits, steps[0], steps[1])) and all(map(same_bits, steps[0], steps[2]))


@pytest.mark.parametrize("wanted", [(0,), (1,), (2,), (0, 2), (1, 2)], ids=str)
def test_any_choice_of_gradients(wanted):
    expected = conv_tensors(requires_grad=True)
    F.conv2d(*expected).relu().sum().backward()
    for _ in range(3):
        tensors = conv_tensors()
        for i in wanted:
            tensors[i].requires_grad_()
        fastconv.conv2d(*tensors, activation="relu").sum().backward()
        assert [i for i in range(3) if tensors[i].grad is not None] == [*wanted]
        for i in wanted:
            torch.testing.assert_close(tensors[i].grad, expected[i].grad, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["residual", "plain residual", "adaptive indices", "divisor"])
def test_derivatives_of_later_calls(name, request):
    if "older" in request.node.name:
        pytest.skip("what a tensor is read by has no influence")
    """Double backward, gradients of other layouts and expanded ones, gradients asked for twice."""
    call = CALLS[name]
    tensors = conv_tensors(requires_grad=True, dtype=torch.float64)
    for _ in range(2):
        used = as_tuple(call(*tensors))[0]
    gradients = torch.autograd.grad(used.sum(), tensors, retain_graph=True, allow_unused=True)
    wanted = [tensor for tensor, grad in zip(tensors, gradients) if grad is not None]
    assert torch.autograd.gradcheck(
        lambda *_: as_tuple(call(*tensors))[0], wanted, check_batched_grad=True
    )
    assert torch.autograd.gradgradcheck(lambda *_: as_tuple(call(*tensors))[0], wanted)
    dy = torch.randn_like(used)
    expected = torch.autograd.grad(used, wanted, dy, retain_graph=True)
    for other in (dy.to(memory_format=torch.channels_last), dy.clone()):
        for _ in range(2):
            found = torch.autograd.grad(used, wanted, other, retain_graph=True)
            for a, b in zip(found, expected):
                torch.testing.assert_close(a, b)


def test_saved_tensors_are_hooked():
    x, w, b = conv_tensors(requires_grad=True)
    packed = []
    for _ in range(2):
        del packed[:]
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: packed.append(t) or t.clone(), lambda t: t
        ):
            y = fastconv.conv2d(x, w, b, activation="relu")
        assert len(packed) == 3
        y.sum().backward()


def test_a_changed_saved_tensor_is_noticed():
    x, w, b = conv_tensors(requires_grad=True)
    for _ in range(2):
        y = fastconv.conv2d(x, w, b)
    with torch.no_grad():
        w.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()


class _Recorder(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.seen = str(function)
        return function(*args, **(kwargs or {}))


@contextlib.contextmanager
def _forward_ad():
    with torch.autograd.forward_ad.dual_level():
        yield


STATES = {
    "dispatch mode": _Recorder,
    "function mode": lambda: torch.device("cpu"),
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
    "forward AD": _forward_ad,
    "backend": lambda: fastconv.backend("reference"),
    "recorder": lambda: fastconv.dispatch.recording(),
    "profiler": lambda: torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("name", ["relu", "max", "avg"])
def test_other_states_take_the_long_road(state, name, long_calls):
    tensors = conv_tensors()
    call = CALLS[name]
    for _ in range(2):
        expected = call(*tensors)
    for _ in range(2):
        del long_calls[:]
        with STATES[state]():
            y = call(*tensors)
        assert len(long_calls) == 1
    torch.testing.assert_close(y.to(expected.dtype), expected, rtol=5e-2, atol=5e-2)
    del long_calls[:]
    assert torch.equal(call(*tensors), expected)
    assert not long_calls


def test_transforms_and_tracers_take_the_long_road(long_calls):
    x, w, b = conv_tensors()
    for _ in range(2):
        expected = CALLS["relu"](x, w, b)
    stacked = torch.func.vmap(lambda one: CALLS["relu"](one, w, b))(torch.stack((x, x)))
    torch.testing.assert_close(stacked[1], expected)
    traced = torch.jit.trace(lambda t: CALLS["relu"](t, w, b), x)
    torch.testing.assert_close(traced(2 * x), CALLS["relu"](2 * x, w, b))
    graph = torch.fx.symbolic_trace(lambda t: fastconv.max_pool2d(t, 2))
    assert any(node.target is fastconv.max_pool2d for node in graph.graph.nodes)


def test_other_tensors_take_the_long_road(long_calls):
    class Subclass(torch.Tensor):
        pass

    x, w, b = conv_tensors()
    for _ in range(2):
        expected = CALLS["bias"](x, w, b)
    for other in (x.as_subclass(Subclass), torch.complex(x, -x).conj().imag):
        del long_calls[:]
        torch.testing.assert_close(CALLS["bias"](other, w, b), expected, check_dtype=False)
        assert long_calls == ["_conv2d"]
    with pytest.raises((RuntimeError, NotImplementedError)):
        fastconv.conv2d(x.to_sparse(), w, b, 2, (1, 0))
    assert fastconv.conv2d(x.to("meta"), w.to("meta"), b.to("meta"), 2, (1, 0)).is_meta


@pytest.mark.parametrize("which", range(3))
def test_a_resized_storage_is_noticed(which):
    tensors = conv_tensors()
    for _ in range(2):
        CALLS["bias"](*tensors)
    tensors[which].untyped_storage().resize_(8)
    with pytest.raises(RuntimeError, match="reaches byte"):
        CALLS["bias"](*tensors)


def test_slices_of_one_storage():
    """Tensors of one signature at different places, the last of which ends with the storage."""
    base = torch.randn(5, 4, 7, 9)
    _, w, b = conv_tensors()
    for n in (0, 3, 1):
        x = base[n : n + 2]
        torch.testing.assert_close(CALLS["bias"](x, w, b), F.conv2d(x, w, b, 2, (1, 0)))


def test_arguments_that_are_equal_but_of_other_types():
    x, w, b = conv_tensors()
    for _ in range(2):
        fastconv.conv2d(x, w, b, (1, 1), (1, 1), (1, 1), 1)
        fastconv.max_pool2d(x, (2, 2), None, 0, 1, False)
    for stride in ((1.0, 1.0), 1.0, (True, 1), "1"):
        with pytest.raises(TypeError):
            fastconv.conv2d(x, w, b, stride, (1, 1), (1, 1), 1)
    with pytest.raises(TypeError):
        fastconv.conv2d(x, w, b, (1, 1), (1, 1), (1, 1), True)
    with pytest.raises(TypeError):
        fastconv.max_pool2d(x, (2, 2), None, 0, 1, 0)
    with pytest.raises(ValueError, match="activation"):
        fastconv.conv2d(x, w, b, activation="Relu")


def test_everything_else_in_a_signature_tells_calls_apart():
    x, w, b = conv_tensors(size=(2, 4, 8, 8))
    w2 = torch.randn(6, 2, 3, 3)
    last = x.to(memory_format=torch.channels_last)
    calls = [
        ((x, w, b), {}),
        ((x, w, None), {}),
        ((last, w, b), {}),
        ((x.transpose(2, 3), w, b), {}),
        ((x[:1], w, b), {}),
        ((x, w.transpose(2, 3), b), {}),
        ((x, w, b), {"stride": 2}),
        ((x, w, b), {"padding": (1, 2)}),
        ((x, w, b), {"padding": "same"}),
        ((x, w, b), {"dilation": 2}),
        ((x, w2, b), {"groups": 2}),
    ]
    for _ in range(2):
        for arguments, options in calls:
            y, expected = fastconv.conv2d(*arguments, **options), F.conv2d(*arguments, **options)
            torch.testing.assert_close(y, expected, rtol=1e-4, atol=1e-5)
            assert y.stride() == expected.stride()


def test_gradients_are_switched_on_and_off(long_calls):
    x, w, b = conv_tensors(requires_grad=True)
    for _ in range(2):
        with torch.no_grad():
            assert not fastconv.conv2d(x, w, b).requires_grad
        assert fastconv.conv2d(x, w, b).requires_grad
        assert not fastconv.conv2d(x.detach(), w.detach(), b.detach()).requires_grad
        with torch.inference_mode():
            assert fastconv.conv2d(x, w, b).is_inference()


def test_more_signatures_than_a_cache_holds():
    w = torch.randn(1, 1, 1, 1)
    for _ in range(2):
        for width in range(1, 1100):
            x = torch.ones(1, 1, 1, width)
            assert fastconv.conv2d(x, w).shape == x.shape


def test_threads():
    _, w, b = conv_tensors()
    inputs = [torch.randn(2, 4, 7, 9) for _ in range(4)]
    expected = [CALLS["relu"](x, w, b) for x in inputs]
    wrong = []

    def work(i):
        for _ in range(200):
            if not torch.equal(CALLS["relu"](inputs[i], w, b), expected[i]):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
