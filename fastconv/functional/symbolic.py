"""What stands before every function of fastconv: torch.fx and other tracers hand over stand-ins for
tensors, and the function becomes a node; fastconv.explain looks on."""

import functools

import torch
from torch.overrides import handle_torch_function

from ..dispatch import state

_NO_STAND_INS = frozenset(
    (torch.Tensor, torch.nn.Parameter, type(None), bool, int, float, str, tuple, list)
)


def traceable(function):
    """Lets objects that are no tensors but define __torch_function__, as torch.fx.Proxy does,
    decide what a call with them means."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        for arg in (*args, *kwargs.values()):
            kind = type(arg)
            if kind in _NO_STAND_INS:
                continue
            if not isinstance(arg, torch.Tensor) and hasattr(kind, "__torch_function__"):
                return handle_torch_function(call, (arg,), *args, **kwargs)
        if state.observer is not None and not torch.compiler.is_compiling():
            return state.observer(function, args, kwargs)
        return function(*args, **kwargs)

    return call
