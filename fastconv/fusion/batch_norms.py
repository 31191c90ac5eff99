"""The BatchNorms of a graph: calls of layers, and calls of F.batch_norm with running statistics,
which come from the forward of any module."""

import inspect

import torch.fx as fx
import torch.nn as nn
import torch.nn.functional as F

from .. import nn as fast
from .fold_batch_norm import fold_constants
from .frozen_batch_norm import why_not_frozen
from .kinds import FOLDABLE, computes_as, recast, why_not_plain
from .report import class_before, type_name

ANY_BATCH_NORM = nn.modules.batchnorm._BatchNorm
_SIGNATURE = inspect.signature(F.batch_norm)
_AXES = {nn.BatchNorm1d: 1, nn.BatchNorm2d: 2}  # of an input behind N and C; SyncBatchNorm: any
_TENSORS = ("running_mean", "running_var", "weight", "bias")


def _arguments(node):
    """{name: value} of the arguments of a call of F.batch_norm; None for other nodes."""
    if node.op != "call_function" or node.target is not F.batch_norm:
        return None
    bound = _SIGNATURE.bind(*node.args, **node.kwargs)
    bound.apply_defaults()
    return bound.arguments


def _uses_running_statistics(node):
    values = _arguments(node)
    return values is not None and values["training"] is False


def _is_read(value):
    """Whether an argument is a tensor that the graph reads from a module."""
    return isinstance(value, fx.Node) and value.op == "get_attr"


def _has_constants(node):
    """Whether the tensors and eps of a call of F.batch_norm are a module's, and not computed."""
    values = _arguments(node)
    tensors = [values[name] for name in _TENSORS if values[name] is not None]
    return all(map(_is_read, tensors)) and isinstance(values["eps"], (int, float))


def freeze_calls(training, evaluation):
    """Freezes the calls of F.batch_norm in the graphs of both modes: one that normalises by running
    statistics in evaluation does so in training too."""
    running = {node.name for node in filter(_uses_running_statistics, evaluation.nodes)}
    for node in (*training.nodes, *evaluation.nodes):
        if node.name in running and (values := _arguments(node)):
            # The momentum, which may differ between the modes, is not used then.
            node.args, node.kwargs = (), {**values, "training": False, "momentum": 0.1}


class BatchNorms:
    """The BatchNorms of one graph; `modules` are the network's, by name."""

    def __init__(self, graph, modules, trainable):
        self.graph, self.modules, self.trainable = graph, modules, trainable
        self.replaced = {}  # name of a module -> the module that is to take its place
        self.read = {  # ids of tensors that others than BatchNorms read
            id(self._tensor(node))
            for node in graph.nodes
            if node.op == "get_attr" and not all(map(_uses_running_statistics, node.users))
        }
        if trainable:
            for node in list(graph.nodes):
                self._call_as_layer(node)

    def __contains__(self, node):
        values = _arguments(node)
        keeps_statistics = values is not None and values["running_mean"] is not None
        return keeps_statistics or isinstance(self._module(node), ANY_BATCH_NORM)

    def owner(self, node):
        """Name of the BatchNorm that a node calls, or whose statistics it reads, or None."""
        if node.op == "call_module":
            return node.target
        mean = _arguments(node)["running_mean"]
        name = mean.target.rpartition(".")[0] if _is_read(mean) else None
        return name if isinstance(self.modules.get(name), ANY_BATCH_NORM) else None

    def why_left(self, node):
        """Why no convolution may take a BatchNorm, or None."""
        module = self._module(node)
        frozen = ", and is not frozen" if self.trainable else ""
        if module is not None:
            if isinstance(module, nn.modules.lazy.LazyModuleMixin):
                return f"it {why_not_frozen(module)}{frozen}"
            if reason := why_not_frozen(module) or why_not_plain(module):
                return f"it {reason}"
            if not computes_as(module, *FOLDABLE):
                return f"{type_name(type(module))} does not compute as torch's"
        elif not _uses_running_statistics(node):
            return f"it normalises by the batch in evaluation too{frozen}"
        elif not _has_constants(node):
            return "its statistics, weights or eps are computed"
        elif self.trainable:
            return "its statistics and weights are not those of one BatchNorm"
        if any(id(tensor) in self.read for tensor in self._constants(node)[:4]):
            return "its statistics or weights are read elsewhere"
        return None

    def fits(self, node, conv):
        """Whether a BatchNorm without a reason to be left takes a convolution's results and has its
        channels."""
        kind, axes = class_before(type(self._module(node))), len(conv.kernel_size)
        if any(issubclass(kind, norm) and axes != takes for norm, takes in _AXES.items()):
            return False
        return self._constants(node)[0].numel() == conv.out_channels

    def fold(self, node, conv):
        fold_constants(conv, *self._constants(node))

    def erase(self, node):
        """Removes a node from the graph, and the reading of tensors that only it has used."""
        tensors = [value for value in node.all_input_nodes if value.op == "get_attr"]
        self.graph.erase_node(node)
        for tensor in tensors:
            if not tensor.users:
                self.graph.erase_node(tensor)

    def _call_as_layer(self, node):
        """A call of F.batch_norm on a BatchNorm's tensors becomes a call of a frozen one, which
        keeps all of them in the network's state_dict."""
        if not _uses_running_statistics(node) or not _has_constants(node):
            return
        name, values = self.owner(node), _arguments(node)
        module = self.modules.get(name or None)  # a graph does not call its own module
        if module is not None and values["eps"] == module.eps:
            if all(self._tensor(values[n]) is getattr(module, n) for n in _TENSORS):
                along_one = isinstance(module, nn.BatchNorm1d)
                kind = fast.FrozenBatchNorm1d if along_one else fast.FrozenBatchNorm2d
                self.replaced[name] = recast(module, kind)
                with self.graph.inserting_before(node):
                    call = self.graph.call_module(name, (values["input"],))
                node.replace_all_uses_with(call)
                self.erase(node)

    def _module(self, node):
        if node.op != "call_module":
            return None
        return self.replaced.get(node.target, self.modules[node.target])

    def _tensor(self, node):
        """The tensor that a node reads from a module; None for None."""
        if node is None:
            return None
        parent, _, name = node.target.rpartition(".")
        return getattr(self.modules[parent], name)

    def _constants(self, node):
        """(mean, variance, weight, bias, eps) of a BatchNorm's node."""
        module = self._module(node)
        if module is not None:
            return (*(getattr(module, name) for name in _TENSORS), module.eps)
        values = _arguments(node)
        return (*(self._tensor(values[name]) for name in _TENSORS), values["eps"])
