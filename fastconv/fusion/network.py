"""The network that fastconv.fuse makes for inference: a GraphModule that runs calls which it has
met before by programs. Programs are no part of its state; they live as long as it does."""

import weakref

import torch.fx as fx
from torch.fx.graph_module import reduce_graph_module

from .._native import core
from ..prepared import is_traced
from .program import is_hooked, record

_programs: weakref.WeakKeyDictionary = weakref.WeakKeyDictionary()


def programs_of(network):
    programs = _programs.get(network)
    return _programs.setdefault(network, core.Programs()) if programs is None else programs


class FusedNetwork(fx.GraphModule):
    """A torch.fx.GraphModule. On the CPU, under torch.no_grad or torch.inference_mode, the second
    call with inputs of the same sizes, strides and dtypes makes a program, and later ones run it:
    the same kernels with the same results, whose inner ones share one block of memory.

    Changes of weights in place are seen at once. After any other change, and wherever torch does
    more than compute (hooks, modes, autocast, profilers, ...), the graph runs layer by layer.
    """

    def __call__(self, *args, **kwargs):
        if is_traced() or kwargs or "forward" in vars(self):
            return super().__call__(*args, **kwargs)
        programs = programs_of(self)
        result = programs.run(args)
        if result is not None:
            return result
        if programs.is_met(args) and not is_hooked(self):
            result, program = record(self, args)
            programs.add(args, program)
        else:
            result = super().__call__(*args)
            programs.meet(args)
        return result

    def recompile(self):
        if (programs := _programs.get(self)) is not None:
            programs.clear()
        return super().recompile()

    def __reduce__(self):
        _, state = super().__reduce__()
        return _restored, state


def _restored(body, imports):
    """The FusedNetwork of what __reduce__ has returned."""
    loaded = reduce_graph_module(body, imports)
    network = FusedNetwork.__new__(FusedNetwork)
    vars(network).update(vars(loaded))
    network.graph = loaded.graph
    return network


def empty_cache() -> None:
    """Gives back the memory that networks of fastconv.fuse keep for the inner results of their
    next calls on the CPU. Calls that run meanwhile keep theirs."""
    core.empty_arenas()
