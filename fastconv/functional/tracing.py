"""What stands before every function of fastconv: torch.fx and other tracers hand over stand-ins for
tensors, and the function becomes a node; what ATen must see itself goes there before anything looks
at the arguments; fastconv.explain looks on."""

import functools

import torch
from torch.overrides import handle_torch_function

from ..dispatch import leave_to_aten, state, why_foreign

_NO_STAND_INS = frozenset(
    (torch.Tensor, torch.nn.Parameter, type(None), bool, int, float, str, tuple, list)
)
# Of torch.jit.trace and the ONNX exporter behind it.
_tracing_state = torch._C._get_tracing_state
_TRACED = "torch.jit.trace records ATen's operators"


def _refuse_quantisation(function, stand_in):
    """torch's quantisation in FX mode leaves functions that it does not know in floating point, and
    says nothing."""
    tracer = getattr(stand_in, "tracer", None)
    if type(tracer).__module__.startswith("torch.ao.quantization."):
        raise TypeError(
            f"{function.__name__}(): torch.ao.quantization knows torch's own layers and functions "
            "only: give it fastconv.unconvert(model)"
        )


def traceable(aten):
    """Lets objects that are no tensors but define __torch_function__, as torch.fx.Proxy does,
    decide what a call with them means; and aten, a function of the same arguments but `backend`,
    run calls with tensors of foreign classes, and those that are recorded as ATen's operators."""

    def decorate(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            reason = None if _tracing_state() is None else _TRACED
            for arg in (*args, *kwargs.values()):
                kind = type(arg)
                if kind in _NO_STAND_INS:
                    continue
                if isinstance(arg, torch.Tensor):
                    reason = reason or why_foreign(kind)
                elif hasattr(kind, "__torch_function__"):
                    _refuse_quantisation(function, arg)
                    return handle_torch_function(call, (arg,), *args, **kwargs)
            run = function if reason is None else functools.partial(by_aten, reason)
            if state.observer is not None and not torch.compiler.is_compiling():
                return state.observer(run, args, kwargs)
            return run(*args, **kwargs)

        def by_aten(reason, *args, backend=None, **kwargs):
            x = args[0] if args else kwargs["input"]
            leave_to_aten(function.__name__, x, reason, backend)
            return aten(*args, **kwargs)

        return call

    return decorate
