"""What a module computes, which isinstance does not tell: a subclass that inherits all methods
computes what its base does, one with a forward of its own may compute anything."""

import copy
import functools
import inspect
import types

import torch.fx as fx
import torch.nn as nn

from .. import nn as fast
from ..layer import is_ours

# Modules of torch that hold other modules and are not called themselves.
LISTS = (nn.ModuleList, nn.ModuleDict)
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)
# The convolutions that calls can be put into -> what takes their places then.
FUSED = {
    nn.Conv1d: fast.FusedConv1d,
    nn.Conv2d: fast.FusedConv2d,
    nn.ConvTranspose1d: fast.FusedConvTranspose1d,
    nn.ConvTranspose2d: fast.FusedConvTranspose2d,
}
CONVOLUTIONS = (fast.Conv1d, fast.Conv2d, fast.ConvTranspose1d, fast.ConvTranspose2d, *FUSED)
# BatchNorms that can follow a convolution and be folded into it.
FOLDABLE = (
    *(fast.FrozenBatchNorm1d, nn.BatchNorm1d),
    *(fast.FrozenBatchNorm2d, nn.BatchNorm2d, nn.SyncBatchNorm),
)
_TRACER = fx.Tracer()
_DESCRIBING = ("__init__", "__repr__", "extra_repr")
_CALLING = (
    "__call__",
    "_call_impl",
    "_wrapped_call_impl",
    "__getattr__",
    "__getattribute__",
    "__iter__",
)


def computes_as(module, *bases):
    """Whether a call of a module runs the code of one of these classes and no other. Its class may
    be derived from that class, if it overrides nothing that this code uses."""
    kind = type(module)
    return any(
        kind is base
        or (isinstance(module, base) and all(_is_same(kind, base, n) for n in _names_read(base)))
        for base in bases
    )


def _is_same(kind, base, name):
    return inspect.getattr_static(kind, name, None) is inspect.getattr_static(base, name, None)


@functools.cache
def _names_read(base):
    """The names of all attributes that a call of a module of this class may use."""
    names, waiting = set(_CALLING), ["forward"]
    while waiting:
        name = waiting.pop()
        if name not in names:
            names.add(name)
            function = inspect.unwrap(inspect.getattr_static(base, name, None))
            waiting += getattr(getattr(function, "__code__", None), "co_names", ())
    return frozenset(names)


def is_list(module):
    """Whether a module is a ModuleList or ModuleDict that gives access to its parts as torch's do,
    without methods of its own."""
    for base in LISTS:
        if isinstance(module, base):
            own = [n for n, value in vars(base).items() if isinstance(value, types.FunctionType)]
            same = (_is_same(type(module), base, name) for name in own if name not in _DESCRIBING)
            return computes_as(module, base) and all(same)
    return False


def is_layer(module):
    """Whether a trace records a call of a module as one node."""
    if isinstance(module, (*LISTS, *WRAPPERS)):
        return False
    if _TRACER.is_leaf_module(module, "") or is_ours(type(module)):
        return True
    return computes_as(module, *CONVOLUTIONS, *FOLDABLE)


def has_hooks(module):
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in names)


def why_not_plain(module):
    """Why a call of a module is more than its class's forward, or None."""
    if has_hooks(module):
        return "has hooks; remove them before fastconv.fuse"
    if {"forward", "_conv_forward"} & vars(module).keys():
        return "has a forward of its own, unlike others of its class"
    return None


def has_own_call(module):
    return type(module).__call__ is not nn.Module.__call__ and not isinstance(
        module, fx.GraphModule
    )


def recast(module, kind):
    """A module of another class with the same Parameters, buffers, parts and other attributes."""
    made = object.__new__(kind)
    for name, value in vars(module).items():
        vars(made)[name] = copy.copy(value) if isinstance(value, (dict, set)) else value
    return made
