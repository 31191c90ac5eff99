"""How fastconv.fuse traces: by torch.fx, where the call of a layer of torch or fastconv is one
node. A forward that may do something else in a later call than in the traced one is refused."""

import functools
import inspect
import operator
import sys
from contextlib import ExitStack, contextmanager

import torch
import torch.fx as fx
import torch.nn as nn
import torch.nn.functional as F
from torch.fx.proxy import TraceError

from .kinds import has_own_call, is_layer

IN_PLACE_ARITHMETIC = (
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
    operator.imod, operator.ipow, operator.imatmul, operator.iand, operator.ior, operator.ixor,
    operator.ilshift, operator.irshift,
)  # fmt: skip


def _asked_by_torch():
    """Whether the function that calls this one was called by torch's own code."""
    return sys._getframe(2).f_globals.get("__name__", "").split(".")[0] == "torch"


class _Proxy(fx.Proxy):
    """fx's stand-in for a tensor, corrected in two ways. It would record `y += x` as y = y + x,
    which may have another dtype and leaves other references to y unchanged; here it is recorded as
    it is. And it would answer what it cannot know, such as the class of the tensor; here that is
    refused."""

    @property
    def __class__(self):  # what isinstance asks for, where the type does not fit
        if _asked_by_torch():
            return _Proxy
        raise TraceError("it asks what class a tensor is of")

    def __getattr__(self, name):
        if not hasattr(torch.Tensor, name):
            raise TraceError(f"it asks a tensor for {name!r}")
        return super().__getattr__(name)

    def __setattr__(self, name, value):
        if name not in ("tracer", "node"):
            raise TraceError(f"it sets a tensor's {name!r}")
        super().__setattr__(name, value)


def _record_in_place(function):
    def method(self, other):
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _function in IN_PLACE_ARITHMETIC:
    setattr(_Proxy, f"__{_function.__name__}__", _record_in_place(_function))


class Tracer(fx.Tracer):
    """Records a call of a layer of torch or fastconv, or of an opaque module, as one node."""

    proxy_buffer_attributes = True  # else a forward would change its buffers while it is traced

    def __init__(self, opaque=()):
        super().__init__()
        self.opaque = opaque

    def proxy(self, node):
        return _Proxy(node, self)

    def call_module(self, module, forward, args, kwargs):
        if id(module) in self.opaque and has_own_call(module):
            # fx has run that __call__ and recorded what it does beside this call of the module; the
            # graph would do it twice.
            raise TraceError(f"{type(module).__name__} has a __call__ of its own")
        return super().call_module(module, forward, args, kwargs)

    def is_leaf_module(self, module, name):
        return id(module) in self.opaque or is_layer(module)


# What reads or sets a mode of torch: a graph would keep the answer, or not set the mode again. The
# modes of autograd are refused only for training: they change no result of inference.
_AUTOCAST = [(torch.autocast, "__enter__")]
_QUESTIONS = [
    (torch, name)
    for name in ("is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled")
]
_GRADIENTS = [
    (torch.no_grad, "__enter__"),
    (torch.enable_grad, "__enter__"),
    (torch.inference_mode, "__enter__"),
    (torch.set_grad_enabled, "__init__"),
    (torch.autograd.Function, "apply"),
]
# The module of torch in which decorators such as @torch.no_grad() enter their contexts.
_DECORATORS = "torch.utils._contextlib"


def _refusing(owner, name):
    """A context in which only torch's own code may call an attribute of torch: a call from other
    code raises TraceError."""
    original = inspect.getattr_static(owner, name)

    def refuse(*args, **kwargs):
        caller = sys._getframe(1).f_globals.get("__name__", "")
        if caller.split(".")[0] != "torch" or caller == _DECORATORS:
            raise TraceError(f"it calls {getattr(owner, '__name__', owner)}.{name}")
        call = original.__func__ if isinstance(original, classmethod) else original
        return call(*args, **kwargs)

    @contextmanager
    def replaced():
        setattr(owner, name, classmethod(refuse) if isinstance(original, classmethod) else refuse)
        try:
            yield
        finally:
            setattr(owner, name, original)

    return replaced()


@contextmanager
def _recording_batch_norms():
    """A context in which the forward of torch's BatchNorms can be traced, which subclasses may call
    from theirs. It checks the size of the input, which a stand-in does not have; with running
    statistics it is recorded as one call of F.batch_norm."""

    def recording(original):
        @functools.wraps(original)
        def forward(self, input):
            if not isinstance(input, fx.Proxy) or self.training or self.running_mean is None:
                return original(self, input)
            statistics = self.running_mean, self.running_var
            return F.batch_norm(input, *statistics, self.weight, self.bias, eps=self.eps)

        return forward

    kinds = (nn.modules.batchnorm._BatchNorm, nn.SyncBatchNorm)
    originals = [kind.forward for kind in kinds]
    try:
        for kind in kinds:
            kind.forward = recording(kind.forward)
        yield
    finally:
        for kind, original in zip(kinds, originals):
            kind.forward = original


_PLAIN_DEFAULTS = (
    type(None), bool, int, float, str, torch.dtype, torch.device, torch.layout, torch.memory_format
)  # fmt: skip
_CONSTANT = "_tensor_constant"  # how fx names a tensor that it finds in a forward


def trace(module, opaque, trainable):
    """The graph of a module's forward, with its optional arguments at their defaults.

    Raises whatever the forward raises for fx's stand-ins, and TraceError where another call may
    take another path or where the forward has side effects.
    """
    for name in [name for name in vars(module) if name.startswith(_CONSTANT)]:
        delattr(module, name)  # of an earlier trace
    parameters = inspect.signature(module.forward).parameters.values()
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    for name, default in defaults.items():
        if not isinstance(default, _PLAIN_DEFAULTS):
            raise TraceError(f"{name} has a default of class {type(default).__name__}")
    with ExitStack() as stack:
        for owner, name in _AUTOCAST + _QUESTIONS + (_GRADIENTS if trainable else []):
            stack.enter_context(_refusing(owner, name))
        stack.enter_context(_recording_batch_norms())
        stack.enter_context(_leaving_no_traces(module))
        graph = Tracer(opaque).trace(module, defaults)
    for node in graph.nodes:
        # fx appends a number to the names of optional arguments, which callers pass by keyword.
        if node.op == "placeholder" and node.target.rpartition("_")[0] in defaults:
            node.target = node.target.rpartition("_")[0]
    return graph


@contextmanager
def _leaving_no_traces(module):
    """Refuses, and undoes, what a forward does to its modules and to the random numbers."""
    random = torch.random.get_rng_state()
    before = [
        (part, dict(vars(part)), dict(part._buffers))
        for part in module.modules()
        if not isinstance(part, torch.jit.ScriptModule)
    ]
    plain_tensors = [
        (value, value._version, value.clone())
        for _, attributes, _ in before
        for value in attributes.values()
        if isinstance(value, torch.Tensor) and not value.is_inference()
    ]
    changed = None
    try:
        yield
    finally:
        for part, attributes, buffers in before:
            now = {n: v for n, v in vars(part).items() if not n.startswith(_CONSTANT)}
            if now.keys() != attributes.keys() or any(now[n] is not attributes[n] for n in now):
                changed = changed or "it sets an attribute"
                vars(part).clear()
                vars(part).update(attributes)
            if any(part._buffers.get(n) is not buffer for n, buffer in buffers.items()):
                changed = changed or "it sets a buffer"
                part._buffers.update(buffers)
        for tensor, version, value in plain_tensors:
            if tensor._version != version:
                changed = "it changes a tensor"
                with torch.no_grad():
                    tensor.copy_(value)
        if not torch.equal(random, torch.random.get_rng_state()):
            changed = changed or "it draws random numbers"
            torch.random.set_rng_state(random)
    if changed:
        raise TraceError(changed)
