"""How fastconv.fuse traces: torch.fx with the layers of torch and fastconv for leaves."""

import operator

import torch.fx as fx
import torch.nn as nn

from . import nn as fast

IN_PLACE_ARITHMETIC = (
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
    operator.imod, operator.ipow, operator.imatmul, operator.iand, operator.ior, operator.ixor,
    operator.ilshift, operator.irshift,
)  # fmt: skip


class _Proxy(fx.Proxy):
    """fx's stand-in for a tensor records `y += x` as y = y + x: other dtypes, other aliases."""


def _record_in_place(function):
    def method(self, other):
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _function in IN_PLACE_ARITHMETIC:
    setattr(_Proxy, f"__{_function.__name__}__", _record_in_place(_function))


class Tracer(fx.Tracer):
    """Layers of torch and fastconv are leaves, and whatever is opaque."""

    def __init__(self, opaque=()):
        super().__init__()
        self.opaque = opaque

    def proxy(self, node):
        return _Proxy(node, self)

    def is_leaf_module(self, module, name):
        is_fast = type(module).__module__ == fast.__name__
        return id(module) in self.opaque or is_fast or super().is_leaf_module(module, name)


# Modules of torch that are not layers: they hold others.
LISTS = (nn.ModuleList, nn.ModuleDict)
WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def is_layer(module):
    if isinstance(module, (*LISTS, *WRAPPERS)):
        return False
    return fx.Tracer().is_leaf_module(module, "") or type(module).__module__ == fast.__name__


def has_hooks(module):
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in names)
