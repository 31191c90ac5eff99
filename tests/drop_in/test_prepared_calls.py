"""A call that was met before (fastconv/prepared.py) computes what the long road does, forward and
backward, bit by bit, on the CPU and by the emulated CUDA kernels."""

import contextlib

import pytest
import torch
import torch.nn.functional as F
from prepared_calls import (
    CALLS,
    as_tuple,
    conv_tensors,
    on_the_long_road,
    parametrize_calls,
    same_bits,
)

import fastconv

pytestmark = pytest.mark.usefixtures("torch_functions")


@parametrize_calls
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_second_call_is_short_and_equal(name, dtype, long_calls):
    tensors = conv_tensors(dtype=dtype)
    call = CALLS[name]
    with on_the_long_road():
        expected = as_tuple(call(*tensors))
    assert len(long_calls) == 1
    call(*tensors)
    del long_calls[:]
    second = as_tuple(call(*tensors))
    assert not long_calls
    assert all(map(same_bits, expected, second))
    assert all(a.data_ptr() != b.data_ptr() for a, b in zip(expected, second))


@parametrize_calls
def test_training(name, long_calls, monkeypatch):
    """Four steps: the first one takes the long road, the third one's forward is prepared for
    certain, and the fourth one's backward, too."""
    call = CALLS[name]
    steps = []
    for step in range(4):
        tensors = conv_tensors(requires_grad=True)
        if step == 3:
            del long_calls[:]
            # The gradient of a residual that nothing is done with is dy itself, and not prepared.
            if name != "plain residual":
                monkeypatch.delattr("fastconv.autograd.prepared_conv2d.gradients_through_epilogue")
            monkeypatch.delattr("fastconv.autograd.prepared_pool2d.max_bwd")
            monkeypatch.delattr("fastconv.autograd.prepared_pool2d.avg_bwd")
        with on_the_long_road() if step == 0 else contextlib.nullcontext():
            y = as_tuple(call(*tensors))[0]
        assert y.requires_grad and y.grad_fn is not None
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
        steps.append([y.detach(), *(t.grad for t in tensors if t.grad is not None)])
    assert not long_calls
    assert len({len(step) for step in steps}) == 1
    assert all(all(map(same_bits, steps[0], step)) for step in steps[1:])


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
    """Inference and training, the first time on the long road, as the tests above on the CPU."""
    if not fastconv._native.cuda or not fastconv._native.cuda.is_emulated:
        pytest.skip("needs the emulated CUDA module")
    if name == "depthwise" and size[1] != 4:
        pytest.skip("has no workspace")
    call = CUDA_CALLS[name]
    steps = []
    for step in range(4):
        tensors = conv_tensors(requires_grad=True, size=size)
        road = on_the_long_road() if step == 0 else contextlib.nullcontext()
        with road, torch.no_grad():
            inferred = as_tuple(call(*tensors))
        if step == 3:
            del long_calls[:]
            monkeypatch.delattr("fastconv.autograd.prepared_conv2d.gradients_through_epilogue")
            monkeypatch.delattr("fastconv.autograd.prepared_pool2d.max_bwd")
            monkeypatch.delattr("fastconv.autograd.prepared_pool2d.avg_bwd")
        with on_the_long_road() if step == 0 else contextlib.nullcontext():
            y = as_tuple(call(*tensors))[0]
        assert torch.equal(y, inferred[0])
        y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).view_as(y))
        steps.append([*inferred, y.detach(), *(t.grad for t in tensors if t.grad is not None)])
    assert not long_calls
    assert all(all(map(same_bits, steps[0], step)) for step in steps[1:])


def test_tf32_is_part_of_a_cuda_signature(long_calls):
    x, w, b = conv_tensors(size=(1, 32, 6, 6))
    call = CUDA_CALLS["implicit GEMM"]
    exact, rounded = [], []
    for _ in range(2):
        for flag, results in ((False, exact), (True, rounded)):
            with torch.backends.cudnn.flags(enabled=True, allow_tf32=flag):
                results.append(call(x, w, b))
    assert torch.equal(*exact) and torch.equal(*rounded) and not torch.equal(exact[0], rounded[0])
