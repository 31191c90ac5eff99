"""Which calls were met before (fastconv/prepared.py): everything in a signature tells calls apart,
and what it does not say is looked at in every call."""

import contextlib
import threading

import pytest
import torch
import torch.nn.functional as F
from prepared_calls import (
    CALLS,
    conv_tensors,
)
from torch.utils._python_dispatch import TorchDispatchMode

import fastconv

pytestmark = pytest.mark.usefixtures("torch_functions")


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
