"""torch.fx and other tracers hand over stand-ins for tensors; the function becomes a node then."""

import functools

import torch
from torch.overrides import handle_torch_function


def traceable(function):
    """Lets objects that are no tensors but define __torch_function__, as torch.fx.Proxy does,
    decide what a call with them means."""

    @functools.wraps(function)
    def call(*args, **kwargs):
        for arg in (*args, *kwargs.values()):
            if not isinstance(arg, torch.Tensor) and hasattr(type(arg), "__torch_function__"):
                return handle_torch_function(call, (arg,), *args, **kwargs)
        return function(*args, **kwargs)

    return call
