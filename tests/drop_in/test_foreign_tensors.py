"""Tensors whose class defines its own operations go to ATen as they came: every function gives what
torch's does."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.utils._per_sample_grad import call_for_per_sample_grads
from torch.testing._internal.two_tensor import TwoTensor
from torch.utils import _pytree as pytree

import fastconv

FUNCTIONS = {
    "conv2d": lambda m, x, w: m.conv2d(x, w, padding="same"),
    "max_pool2d": lambda m, x, w: m.max_pool2d(x, 2),
    "max_pool2d with indices": lambda m, x, w: m.max_pool2d(x, 2, return_indices=True),
    "avg_pool2d": lambda m, x, w: m.avg_pool2d(input=x, kernel_size=2),
    "adaptive_avg_pool2d": lambda m, x, w: m.adaptive_avg_pool2d(x, (None, 2)),
    "adaptive_max_pool2d": lambda m, x, w: m.adaptive_max_pool2d(x, 2),
}


class Plain(torch.Tensor):
    """Results have its class."""


class Named(torch.Tensor):
    """Writes down which functions are called with it, and says nothing about itself."""

    calls = ()

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if getattr(function, "__name__", "") in ("__get__", "dim", "size"):
            raise RuntimeError("not to be looked at")
        cls.calls += (function,)
        with torch._C.DisableTorchFunctionSubclass():
            return function(*args, **(kwargs or {}))


class Wrapped(torch.Tensor):
    """Holds its elements elsewhere, as DTensor does."""

    @staticmethod
    def __new__(cls, inner):
        return torch.Tensor._make_wrapper_subclass(cls, inner.shape, dtype=inner.dtype)

    def __init__(self, inner):
        self.inner = inner

    @classmethod
    def __torch_dispatch__(cls, function, types, args=(), kwargs=None):
        args, kwargs = pytree.tree_map_only(cls, lambda t: t.inner, (args, kwargs or {}))
        return pytree.tree_map_only(torch.Tensor, cls, function(*args, **kwargs))


MAKE = {
    "plain": lambda t: t.as_subclass(Plain),
    "named": lambda t: t.as_subclass(Named),
    "wrapped": Wrapped,
    "two": lambda t: TwoTensor(t, t.clone()),
    "nested in two": lambda t: TwoTensor(TwoTensor(t, t), TwoTensor(t, t)),
    "jagged": lambda t: torch.nested.nested_tensor(list(t), layout=torch.jagged),
    "nested": lambda t: torch.nested.nested_tensor(list(t)),
}


def elements(result):
    """The plain tensors in a result."""
    if isinstance(result, tuple):
        return [t for part in result for t in elements(part)]
    if isinstance(result, TwoTensor):
        return [*elements(result.a), *elements(result.b)]
    if result.is_nested:
        return list(result.unbind())
    inner = result.inner if isinstance(result, Wrapped) else result
    with torch._C.DisableTorchFunctionSubclass():
        return [inner.as_subclass(torch.Tensor)]


def answer(function, *args):
    try:
        result = function(*args)
    except Exception as error:
        return type(error), []
    return type(result), elements(result)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("kind", MAKE)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_tensors_of_other_classes(name, kind):
    x, w = torch.randn(2, 4, 6, 6), torch.randn(6, 4, 3, 3)
    for make_x, make_w in ((MAKE[kind], lambda w: w), (lambda x: x, MAKE[kind])):
        if make_w is MAKE[kind] and name != "conv2d":
            continue
        expected = answer(FUNCTIONS[name], F, make_x(x), make_w(w))
        got = answer(FUNCTIONS[name], fastconv, make_x(x), make_w(w))
        if issubclass(expected[0], Exception):
            assert issubclass(got[0], expected[0])
        else:
            assert got[0] is expected[0] and len(got[1]) == len(expected[1]) > 0
            assert all(map(torch.equal, got[1], expected[1]))


def test_a_class_sees_torchs_function():
    Named.calls = ()
    x = torch.randn(1, 2, 4, 4).as_subclass(Named)
    fastconv.conv2d(x, torch.randn(3, 2, 3, 3))
    assert Named.calls[0] is F.conv2d


def test_activation_and_residual_follow():
    x, w, z = torch.randn(1, 2, 4, 4), torch.randn(3, 2, 3, 3), torch.randn(1, 3, 2, 2)
    y = fastconv.conv2d(x.as_subclass(Plain), w, residual=z, activation="silu")
    assert type(y) is Plain
    torch.testing.assert_close(y.as_subclass(torch.Tensor), F.silu(F.conv2d(x, w) + z))
    with pytest.raises(ValueError, match=r"activation.*'sine'"):
        fastconv.conv2d(x.as_subclass(Plain), w, activation="sine")


def test_reasons_and_refusals(monkeypatch):
    x = torch.randn(1, 2, 4, 4).as_subclass(Plain)
    net = nn.Sequential(fastconv.MaxPool2d(2), fastconv.AdaptiveAvgPool2d(1))
    explanation = fastconv.explain(net, x)
    assert [decision.backend for decision in explanation] == [None, None]
    assert "0: auto: tensor subclass" in str(explanation) and ".Plain" in str(explanation)
    assert any(".Plain defines" in reason for reason in fastconv.info()["fallbacks"])
    with pytest.raises(NotImplementedError, match="subclass"):
        fastconv.max_pool2d(x, 2, backend="cpu")
    with pytest.raises(ValueError, match="cudnn"):
        fastconv.max_pool2d(x, 2, backend="cudnn")
    monkeypatch.setenv("FASTCONV_STRICT", "1")
    with pytest.raises(NotImplementedError, match="subclass"):
        fastconv.max_pool2d(x, 2)


@pytest.mark.parametrize(
    "padding, padding_mode", [(1, "zeros"), ("same", "zeros"), (1, "circular")]
)
def test_per_sample_gradients_by_expanded_weights(padding, padding_mode):
    theirs = nn.Conv2d(4, 6, 3, padding=padding, padding_mode=padding_mode, groups=2)
    ours = fastconv.convert(copy.deepcopy(theirs))
    x = torch.randn(3, 4, 6, 6)
    samples = []
    for layer in (ours, theirs):
        call_for_per_sample_grads(layer)(x).square().sum().backward()
        samples.append((layer.weight.grad_sample, layer.bias.grad_sample))
    for got, expected in zip(*samples):
        torch.testing.assert_close(got, expected)
