"""Which nodes of a fused network's graph are native calls, and which compute nothing."""

import operator
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F

from .. import nn as fast
from .._native import core
from ..dispatch import PLAIN_TYPES
from ..functional.conv2d import known as known_conv2d
from ..functional.pool2d import known_adaptive_avg, known_adaptive_max, known_avg, known_max
from ..problem import DTYPES
from .kinds import why_not_plain

DIMENSIONS = 4  # at most, of a tensor that native calls take
_ELEMENTWISE = {
    **dict.fromkeys((operator.add, torch.add, "add"), core.ElementwiseOp.add),
    **dict.fromkeys((operator.mul, torch.mul, "mul"), core.ElementwiseOp.multiply),
}
_CONCATENATIONS = (torch.cat, torch.concat, torch.concatenate)
_IDENTITIES = (
    nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, F.dropout,
    F.dropout2d, "contiguous",
)  # fmt: skip
_VIEWS = (
    nn.Flatten, nn.Unflatten, torch.flatten, torch.reshape, torch.squeeze, torch.unsqueeze,
    "flatten", "reshape", "view", "squeeze", "unsqueeze",
)  # fmt: skip


@dataclass(frozen=True)
class Parameter:
    """A tensor that a call finds in its module's dictionary of parameters."""

    module: nn.Module
    name: str


@dataclass(frozen=True)
class NativeCall:
    """A prepared call, and where its tensors are.

    Attributes:
        operands: arguments of the node, each a tensor, or Parameters.
        offset: in bytes, of what it writes in the node's result.
        result_strides: where the call copies its operand, the strides that it writes with.
    """

    call: object
    operands: tuple
    offset: int = 0
    result_strides: tuple | None = None


def native_calls(target, args, kwargs, result):
    """The NativeCalls that compute a node's result, or None. `target` is the module, the function
    or the name of the method that the node calls; args, kwargs and result are values."""
    if not is_plain(result) or result.numel() == 0:
        return None
    if isinstance(target, nn.Module):
        find = _LAYERS.get(type(target))
        if find is None or why_not_plain(target):
            return None
        return find(target, *args, **kwargs)
    if target in _ELEMENTWISE and not kwargs:
        return _elementwise(_ELEMENTWISE[target], args, result)
    if target in _CONCATENATIONS and kwargs.keys() <= {"tensors", "dim"}:
        return _concatenation(result, *args, **kwargs)
    return None


def is_identity(target, args, result):
    """Whether a node's result is the tensor that it was given, unchanged."""
    return _is_of(target, _IDENTITIES) and len(args) > 0 and result is args[0]


def is_view(target, args, result):
    """Whether a node's result is all of the tensor that it was given, with other sizes."""
    if not _is_of(target, _VIEWS) or not args or not is_plain(args[0]) or not is_plain(result):
        return False
    x = args[0]
    return x.numel() == result.numel() > 0 and x.data_ptr() == result.data_ptr()


def is_plain(value):
    """Whether a value is a tensor whose address native calls may take."""
    return (
        type(value) in PLAIN_TYPES
        and value.layout == torch.strided
        and value.device.type == "cpu"
        and value.dim() <= DIMENSIONS
        and not value.is_neg()
        and not value._is_zerotensor()
    )


def _is_of(target, known):
    if isinstance(target, nn.Module):
        return type(target) in known and why_not_plain(target) is None
    return target in known


def _convolution(layer, input, residual=None, norm=None, activation=None, in_place=False):
    if layer.padding_mode != "zeros" or norm is not None:
        return None
    if type(layer) is fast.ConvReLU2d:
        activation = "relu"
    settings = layer.stride, layer.padding, layer.dilation, layer.groups
    arguments = (input, layer.weight, layer.bias, *settings, activation, residual, None)
    names = ("weight",) if layer.bias is None else ("weight", "bias")
    operands = (input, *(Parameter(layer, name) for name in names))
    return _found(known_conv2d, arguments, operands if residual is None else (*operands, residual))


def _max_pool(layer, input):
    settings = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    arguments = (input, *settings, layer.ceil_mode, layer.return_indices, None)
    return _found(known_max, arguments, (input,))


def _avg_pool(layer, input):
    settings = layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode
    arguments = (input, *settings, layer.count_include_pad, layer.divisor_override, None)
    return _found(known_avg, arguments, (input,))


def _adaptive_avg_pool(layer, input):
    return _found(known_adaptive_avg, (input, layer.output_size, None), (input,))


def _adaptive_max_pool(layer, input):
    arguments = (input, layer.output_size, layer.return_indices, None)
    return _found(known_adaptive_max, arguments, (input,))


_LAYERS = {
    fast.Conv2d: _convolution,
    fast.ConvReLU2d: _convolution,
    fast.FusedConv2d: _convolution,
    fast.MaxPool2d: _max_pool,
    fast.AvgPool2d: _avg_pool,
    fast.AdaptiveAvgPool2d: _adaptive_avg_pool,
    fast.AdaptiveMaxPool2d: _adaptive_max_pool,
}


def _found(cache, arguments, operands):
    if any(isinstance(argument, list) for argument in arguments):
        return None  # it may change without being replaced
    call = core.find_call(cache, arguments)
    return None if call is None else [NativeCall(call, operands)]


def _elementwise(op, args, result):
    if len(args) != 2 or not all(map(is_plain, args)) or result.dtype not in DTYPES:
        return None
    if any(operand.dtype != result.dtype for operand in args):
        return None
    strides = [_four(operand.expand(result.shape).stride(), 0) for operand in args]
    size, y = _four(result.shape, 1), _four(result.stride(), 0)
    return [NativeCall(core.prepare_elementwise(op, DTYPES[result.dtype], size, *strides, y), args)]


def _concatenation(result, tensors, dim=0):
    if result.dtype not in DTYPES or not isinstance(dim, int):
        return None
    if not all(is_plain(t) and t.dtype == result.dtype and t.numel() > 0 for t in tensors):
        return None
    calls, position, y = [], 0, _four(result.stride(), 0)
    for tensor in tensors:
        size, x = _four(tensor.shape, 1), _four(tensor.stride(), 0)
        copy = core.prepare_elementwise(
            core.ElementwiseOp.copy, DTYPES[result.dtype], size, x, x, y
        )
        offset = position * result.stride(dim) * result.element_size()
        calls.append(NativeCall(copy, (tensor,), offset, y))
        position += tensor.shape[dim]
    return calls


def _four(values, filler):
    """Sizes or strides of four dimensions: those before the tensor's own are `filler`."""
    return (*[filler] * (DIMENSIONS - len(values)), *values)
