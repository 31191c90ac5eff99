"""The first step of a call that was not met before. It looks at the classes of the arguments,
before anything looks at their values, and decides who gets the call: the function that checks them,
torch's function, or a tracer such as torch.fx, which records the public function."""

import functools
import sys
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch
from torch.overrides import handle_torch_function

from ..dispatch import TRACED, leave_to_aten, state, why_foreign

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_NO_STAND_INS = frozenset(
    (torch.Tensor, torch.nn.Parameter, type(None), bool, int, float, str, tuple, list)
)
# Not None while torch.jit.trace runs, which torch.onnx.export may use too.
_tracing_state = torch._C._get_tracing_state


def _refuse_quantisation(operator, stand_in):
    """TypeError for a stand-in of torch's quantisation in FX mode, which leaves a function that it
    does not know in floating point and says nothing."""
    tracer = getattr(stand_in, "tracer", None)
    if type(tracer).__module__.startswith("torch.ao.quantization."):
        raise TypeError(
            f"{operator}(): torch.ao.quantization knows torch's own layers and functions "
            "only: give it fastconv.unconvert(model)"
        )


def traceable(
    operator: str, aten: Callable
) -> Callable[[Callable[Arguments, Result]], Callable[Arguments, Result]]:
    """Decorates what the public function fastconv.<operator> does with a call: one with an object
    that is no tensor but has __torch_function__, as torch.fx.Proxy has, is left to that object; and
    one with a tensor subclass that redefines operations, or under torch.jit.trace, to `aten`: a
    function with the same parameters but `backend`."""

    def decorate(function):
        @functools.wraps(function)
        def call(*args, **kwargs):
            reason = None if _tracing_state() is None else TRACED
            for arg in (*args, *kwargs.values()):
                kind = type(arg)
                if kind in _NO_STAND_INS:
                    continue
                if isinstance(arg, torch.Tensor):
                    reason = reason or why_foreign(kind)
                elif hasattr(kind, "__torch_function__"):
                    _refuse_quantisation(operator, arg)
                    public = getattr(sys.modules[__package__], operator)
                    return handle_torch_function(public, (arg,), *args, **kwargs)
            run = function if reason is None else functools.partial(by_aten, reason)
            if state.observer is not None and not torch.compiler.is_compiling():
                return state.observer(run, args, kwargs)
            return run(*args, **kwargs)

        def by_aten(reason, *args, backend=None, **kwargs):
            x = args[0] if args else kwargs["input"]
            leave_to_aten(operator, x, reason, backend)
            return aten(*args, **kwargs)

        return call

    return decorate
