"""Which nodes of a fused network's graph are native calls, and which compute nothing."""

import operator
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F

from .. import nn as fast
from .._native import core
from ..dispatch import PLAIN_TYPES
from ..functional import pool1d, pool2d
from ..functional.conv1d import known as known_conv1d
from ..functional.conv2d import known as known_conv2d
from ..functional.conv_transpose1d import known as known_conv_transpose1d
from ..functional.conv_transpose2d import known as known_conv_transpose2d
from ..geometry import to_planes
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
        result_strides: where the call copies its operand, the strides that a convolution would
            write there with.
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


def _convolution(cache, layer, input, residual=None, norm=None, activation=None, in_place=False):
    if layer.padding_mode != "zeros" or norm is not None:
        return None
    if isinstance(layer, (fast.ConvReLU1d, fast.ConvReLU2d)):
        activation = "relu"
    settings = layer.stride, layer.padding, layer.dilation, layer.groups
    if layer.transposed:
        settings = *settings[:2], layer.output_padding, layer.groups, layer.dilation
    arguments = (input, layer.weight, layer.bias, *settings, activation, residual, None)
    names = ("weight",) if layer.bias is None else ("weight", "bias")
    operands = (input, *(Parameter(layer, name) for name in names))
    return _found(cache, arguments, operands if residual is None else (*operands, residual))


def _max_pool(cache, layer, input):
    settings = layer.kernel_size, layer.stride, layer.padding, layer.dilation
    arguments = (input, *settings, layer.ceil_mode, layer.return_indices, None)
    return _found(cache, arguments, (input,))


def _avg_pool(cache, layer, input):
    settings = layer.kernel_size, layer.stride, layer.padding, layer.ceil_mode
    divisor = (layer.divisor_override,) if isinstance(layer, fast.AvgPool2d) else ()
    return _found(cache, (input, *settings, layer.count_include_pad, *divisor, None), (input,))


def _adaptive_avg_pool(cache, layer, input):
    return _found(cache, (input, layer.output_size, None), (input,))


def _adaptive_max_pool(cache, layer, input):
    return _found(cache, (input, layer.output_size, layer.return_indices, None), (input,))


_LAYERS = {
    fast.Conv1d: partial(_convolution, known_conv1d),
    fast.ConvReLU1d: partial(_convolution, known_conv1d),
    fast.FusedConv1d: partial(_convolution, known_conv1d),
    fast.Conv2d: partial(_convolution, known_conv2d),
    fast.ConvReLU2d: partial(_convolution, known_conv2d),
    fast.FusedConv2d: partial(_convolution, known_conv2d),
    fast.ConvTranspose1d: partial(_convolution, known_conv_transpose1d),
    fast.FusedConvTranspose1d: partial(_convolution, known_conv_transpose1d),
    fast.ConvTranspose2d: partial(_convolution, known_conv_transpose2d),
    fast.FusedConvTranspose2d: partial(_convolution, known_conv_transpose2d),
    fast.MaxPool1d: partial(_max_pool, pool1d.known_max),
    fast.MaxPool2d: partial(_max_pool, pool2d.known_max),
    fast.AvgPool1d: partial(_avg_pool, pool1d.known_avg),
    fast.AvgPool2d: partial(_avg_pool, pool2d.known_avg),
    fast.AdaptiveAvgPool1d: partial(_adaptive_avg_pool, pool1d.known_adaptive_avg),
    fast.AdaptiveAvgPool2d: partial(_adaptive_avg_pool, pool2d.known_adaptive_avg),
    fast.AdaptiveMaxPool1d: partial(_adaptive_max_pool, pool1d.known_adaptive_max),
    fast.AdaptiveMaxPool2d: partial(_adaptive_max_pool, pool2d.known_adaptive_max),
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
    planes = _four(to_planes(result, 1).stride(), 0) if result.dim() == 3 else y
    for tensor in tensors:
        size, x = _four(tensor.shape, 1), _four(tensor.stride(), 0)
        copy = core.prepare_elementwise(
            core.ElementwiseOp.copy, DTYPES[result.dtype], size, x, x, y
        )
        offset = position * result.stride(dim) * result.element_size()
        calls.append(NativeCall(copy, (tensor,), offset, planes))
        position += tensor.shape[dim]
    return calls


def _four(values, filler):
    """Sizes or strides of four dimensions: those before the tensor's own are `filler`."""
    return (*[filler] * (DIMENSIONS - len(values)), *values)
