"""One run of a function, watched: which layer made each call of fastconv, and how long it took."""

import threading
import time

import torch
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

from ..dispatch import PLAIN_TYPES, observing, recording


def observe(function):
    """The Decisions of fastconv's calls while function() runs, each with its layer's name and its
    time in microseconds; None for calls on stand-ins for tensors, which take none.

    On a CPU that is the wall time of the whole call, from Python into the kernel and back; on a GPU
    the time between two events in its current stream, before and after the call.
    """
    layers = _Layers()
    with recording() as decisions:
        observer = _Observer(decisions, layers)
        hooks = (
            register_module_forward_pre_hook(layers.enter),
            register_module_forward_hook(layers.leave, always_call=True),
        )
        try:
            with observing(observer):
                function()
        finally:
            for hook in hooks:
                hook.remove()
    observer.read_clocks()
    return decisions


class _Layers(threading.local):
    """The names of the modules whose forward is running, outermost first. The outermost module
    names all inside it; a module that is not among them has the name of the one that calls it."""

    def __init__(self):
        self.names = {}
        self.running = []

    def enter(self, module, args):
        if not self.running:
            for name, inner in module.named_modules():
                self.names.setdefault(inner, name)
        self.running.append(self.names.get(module, self.innermost()))

    def leave(self, module, args, result):
        self.running.pop()

    def innermost(self):
        return self.running[-1] if self.running else ""


class _Observer:
    def __init__(self, decisions, layers):
        self.decisions = decisions
        self.layers = layers
        self.clocks = []  # (Decision, begin, end)

    def __call__(self, function, args, kwargs):
        first = len(self.decisions)
        device = _device((*args, *kwargs.values()))
        begin = _mark(device)
        try:
            return function(*args, **kwargs)
        finally:
            end = _mark(device)
            for decision in self.decisions[first:]:
                decision.layer = self.layers.innermost()
                self.clocks.append((decision, begin, end))

    def read_clocks(self):
        for decision, begin, end in self.clocks:
            decision.time_us = _microseconds(begin, end)


def _device(args):
    """The device whose time a call with these arguments takes; None for fake or meta tensors, and
    under a dispatch mode, which may run something else."""
    tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
    if not tensors or torch._C._len_torch_dispatch_stack():
        return None
    real = all(type(tensor) in PLAIN_TYPES and not tensor.is_meta for tensor in tensors)
    return tensors[0].device if real else None


def _mark(device):
    if device is None:
        return None
    if device.type != "cuda":
        return time.perf_counter_ns()
    with torch.cuda.device(device):
        event = torch.cuda.Event(enable_timing=True)
        event.record()
    return event


def _microseconds(begin, end):
    if begin is None:
        return None
    if isinstance(begin, int):
        return (end - begin) / 1e3
    end.synchronize()
    return begin.elapsed_time(end) * 1e3
