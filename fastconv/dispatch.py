"""Which backend runs a call, and why.

A backend is named "cpu", "reference", ... or "cpu:direct" where one algorithm is wanted. A backend
that the caller names runs the call, or the reason why it cannot is raised. Where none is named the
device decides; a call that no kernel supports goes to ATen, with a warning for each new reason. The
reason is counted (`fastconv.info()`) and shown (`fastconv.explain`), or raised where
FASTCONV_STRICT=1. That a kernel was left out because it failed its check (first_use.py) is such a
reason.
"""

import contextlib
import logging
import sys
import warnings
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from . import first_use
from .backends import BACKENDS
from .problem import suggests_channels_last
from .variables import is_set

_log = logging.getLogger(__name__)

# Reason -> number of calls that went to ATen for it.
fallbacks: Counter[str] = Counter()

# Reasons that whoever exports a network expects: these are logged, without a warning.
TRACED = "torch.jit.trace records ATen's operators"
_EXPORTED = "torch.onnx.export knows ATen's operators"

# Type of device -> the backends that are tried for its tensors, in this order.
_CANDIDATES = {"cpu": ("cpu",), "meta": ("cpu",), "cuda": ("cuda", "triton")}


@dataclass
class Decision:
    """One dispatched call: what was asked for and who runs it (None: ATen)."""

    operator: str
    call: tuple | None  # sizes, as in the backends' supports(); None where nobody looked at them
    dtype: torch.dtype
    device: str
    backend: str | None
    rejected: dict = field(default_factory=dict)  # backend name -> reason
    channels_last: bool = False
    layer: str = ""  # qualified name of the module that made the call; "" outside of modules
    time_us: float | None = None  # of the whole call, where explain measured it


class _State:
    """Process-wide, like the flags of torch.backends: what a `with` in one thread sets, all threads
    see."""

    backend: str | None = None  # set by the `backend` context manager
    recorder: list[Decision] | None = None  # receives Decisions while `explain` runs
    observer: Callable | None = None  # called with (function, args, kwargs) in an operator's place


state = _State()


class backend:
    """Names the backend of every call inside the `with` block that does not name its own.

    A class, since a generator's context manager cannot be compiled by older versions of torch.

    Args:
        name: "cpu", "reference", "cpu:implicit_gemm", ... or None for the automatic choice.
    Raises:
        ValueError: there is no backend of that name.
    """

    def __init__(self, name: str | None):
        get_backend(name)
        self.name = name

    def __enter__(self) -> None:
        self.before, state.backend = state.backend, self.name

    def __exit__(self, *error: object) -> None:
        state.backend = self.before


def get_backend(name):
    """The backend object of a name, None for None. ValueError for an unknown name."""
    if name is None:
        return None
    if name not in BACKENDS:
        raise ValueError(f"backend must be None or one of {sorted(BACKENDS)}, got {name!r}")
    return BACKENDS[name]


@contextlib.contextmanager
def recording():
    """Collects the Decision of every call inside the `with` block."""
    before, state.recorder = state.recorder, []
    try:
        yield state.recorder
    finally:
        state.recorder = before


@contextlib.contextmanager
def observing(observer):
    """Inside the `with` block every operator that runs now, and is not compiled, is left to
    observer(function, args, kwargs), which calls it."""
    before, state.observer = state.observer, observer
    try:
        yield
    finally:
        state.observer = before


PLAIN_TYPES = (torch.Tensor, torch.nn.Parameter)
# False for tensors that only wrap another one: those that torch.autograd.grad batches with
# is_grads_batched=True, and those that a function which torch.func.vjp returned has kept from a
# transform that is over.
_has_storage = torch._C._has_storage
_is_transformed = torch._C._are_functorch_transforms_active


def runs_eagerly(*args):
    """Whether a call may go straight to its kernel: nobody is tracing, no dispatch mode and no
    transform of torch.func is active, and the tensors are real ones. Any other call must go through
    torch's dispatcher, which knows the operator's rule for each of these cases."""
    if torch.compiler.is_compiling():
        return False
    if torch._C._len_torch_dispatch_stack() or _is_transformed():
        return False
    for arg in args:  # not any(...): a generator would cost more than the tests
        if type(arg) in PLAIN_TYPES:
            if arg.is_meta or not _has_storage(arg):
                return False
        elif isinstance(arg, torch.Tensor):
            return False
    return True


def is_inference(*args):
    """Whether nobody seems to differentiate or transform a call with these tensors (or None)."""
    if torch.compiler.is_compiling():
        return not torch.is_grad_enabled()
    if torch.is_grad_enabled():
        for arg in args:
            if arg is not None and arg.requires_grad:
                return False
    return not _is_transformed() and torch.autograd.forward_ad._current_level < 0


def why_foreign(kind):
    """Why a call with a tensor of this class must go to ATen, or None. The class may redefine what
    operations on its tensors mean; or an ONNX exporter, which knows ATen's operators alone, records
    the operations by means of it."""
    if kind in PLAIN_TYPES:
        return None
    if not kind.__module__.startswith("torch._subclasses."):
        return f"tensor subclass {kind.__module__}.{kind.__qualname__} defines its own operations"
    # Fake and functional tensors stand for plain ones, except while torch.onnx exports. It is in
    # sys.modules then; an import here would slow all other programs down.
    if "torch.onnx" in sys.modules and torch.onnx.is_in_onnx_export():
        return _EXPORTED
    return None


def why_unfit(tensors):
    """Why no kernel takes these tensors (None allowed) together, or None."""
    device = tensors[0].device
    for tensor in tensors:
        if tensor is None:
            continue
        if tensor.layout != torch.strided:
            return f"layout {tensor.layout}: kernels take strided tensors"
        if tensor.device != device:
            return f"tensors on different devices: {device} and {tensor.device}"
    return None


def _left_out(name, operator, tensors, call):
    """Why a backend that supports a call is not to run it all the same, or None: one of the kernels
    that it needs, those of backward included, failed its check (first_use.py)."""
    family, device = name.partition(":")[0], tensors[0].device
    if family not in first_use.FAMILIES:
        return None
    if torch.compiler.is_compiling():
        return first_use.known_refusal(family, device.index)
    if any(tensor is not None and type(tensor) not in PLAIN_TYPES for tensor in tensors):
        return None  # fake tensors: nothing runs
    if not first_use.applies(device):
        return None
    kernels = BACKENDS[name].kernels(operator, call, tensors, not is_inference(*tensors))
    return first_use.refusal(BACKENDS[name], kernels, device)


def leave_to_aten(operator, x, reason, requested):
    """Counts a call that goes to ATen with its arguments unchecked, and records it without sizes.

    Raises:
        ValueError, NotImplementedError: as select().
    """
    requested = requested if requested is not None else state.backend
    get_backend(requested)
    rejected = {requested or "auto": reason}
    _go_to_aten(operator, rejected, requested)
    if state.recorder is not None:
        with torch._C.DisableTorchFunctionSubclass():  # the class may refuse to tell
            state.recorder.append(Decision(operator, None, x.dtype, str(x.device), None, rejected))


def _go_to_aten(operator, rejected, requested):
    reasons = "; ".join(f"{name}: {reason}" for name, reason in rejected.items())
    if requested is not None or is_set("FASTCONV_STRICT"):
        raise NotImplementedError(f"fastconv.{operator}: no kernel for this call: {reasons}")
    if torch.compiler.is_compiling():
        return
    if reasons not in fallbacks:
        if rejected.keys() == {"auto"} and rejected["auto"] in (TRACED, _EXPORTED):
            _log.info("%s goes to ATen: %s", operator, reasons)
        else:
            _warn(operator, reasons)
    fallbacks[reasons] += 1


def _warn(operator, reasons):
    """A warning at the line of the first caller that is neither fastconv's nor torch's code."""
    level, frame = 2, sys._getframe(2)
    while frame.f_back is not None and _is_library(frame):
        level, frame = level + 1, frame.f_back
    warnings.warn(
        f"fastconv.{operator}: this call goes to ATen: {reasons}. Further calls for this reason do "
        "so without a warning. fastconv.explain(model, input) names the layers, fastconv.info() "
        "counts the calls, and FASTCONV_STRICT=1 makes them errors.",
        stacklevel=level + 1,
    )


def _is_library(frame):
    return frame.f_globals.get("__name__", "").partition(".")[0] in ("fastconv", "torch")


def select(operator, tensors, call, requested):
    """The name of the backend for a call, or None for ATen.

    Args:
        operator: "conv2d", "max_pool2d", ...
        tensors: the tensor arguments (None allowed); the first decides device and dtype.
        call: the sizes, as in the backends' supports().
        requested: the name given by the caller, or None.
    Raises:
        ValueError: unknown name. NotImplementedError: the named backend cannot run the call, or
            none can and FASTCONV_STRICT=1.
    """
    requested = requested if requested is not None else state.backend
    if requested is not None:
        get_backend(requested)
    x = tensors[0]
    device = x.device
    device_type = device.type
    rejected = {}
    unfit = why_unfit(tensors)
    names = (requested,) if requested is not None else _CANDIDATES.get(device_type, ())
    chosen = None
    for name in names:
        reason = unfit
        if reason is None and name in BACKENDS:
            reason = BACKENDS[name].supports(operator, call, x.dtype, device_type, device.index)
            reason = reason or _left_out(name, operator, tensors, call)
        elif reason is None:
            reason = f"backend {name} is not in this build"
        if reason is None:
            chosen = name
            break
        rejected[name] = reason
    if not names:
        rejected["auto"] = f"no backend for device {device_type}"
    if chosen is None:
        _go_to_aten(operator, rejected, requested)
    if state.recorder is not None:
        channels_last = x.dim() == 4 and suggests_channels_last(x)
        state.recorder.append(
            Decision(operator, call, x.dtype, str(x.device), chosen, rejected, channels_last)
        )
    return chosen
