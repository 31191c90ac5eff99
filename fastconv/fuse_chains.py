"""What fastconv.fuse makes of one graph: a convolution takes what follows it, as far as it is the
only reader: its BatchNorm, a sum, an activation. The fused call stands where the last of them
stood, so that a residual is read when it was read before. It is a new module's: others than this
graph may go on calling the old one."""

import copy
import operator
from dataclasses import dataclass, field

import torch
import torch.fx as fx
import torch.nn as nn
import torch.nn.functional as F

from . import nn as fast
from .fold_batch_norm import fold_batch_norm
from .fuse_report import FusionReport, join, type_name
from .fuse_tracer import IN_PLACE_ARITHMETIC, is_layer, why_not_plain

_ACTIVATION_MODULES = {
    nn.ReLU: "relu",
    nn.ReLU6: "relu6",
    nn.SiLU: "silu",
    nn.GELU: "gelu",
    nn.Hardswish: "hardswish",
}
_ACTIVATION_FUNCTIONS = {
    F.relu: "relu",
    F.relu_: "relu",
    torch.relu: "relu",
    torch.relu_: "relu",
    F.relu6: "relu6",
    F.silu: "silu",
    F.gelu: "gelu",
    F.hardswish: "hardswish",
}
_ACTIVATION_METHODS = {"relu": "relu", "relu_": "relu"}
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_IN_PLACE_ADDITIONS = (operator.iadd, "add_")
_IN_PLACE_OPERATORS = (*IN_PLACE_ARITHMETIC, operator.setitem, operator.delitem)
# Whose functions work in place only where their name or an argument says so.
_KNOWN_PACKAGES = (None, "torch", "_operator", "math", "builtins")
BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, fast.FrozenBatchNorm2d)


@dataclass
class _Chain:
    """A convolution's node and the nodes that go into its call."""

    nodes: list
    names: list = field(default_factory=list)  # of what was taken, for the report
    norm: fx.Node | None = None
    residual: fx.Node | None = None
    activation: str | None = None
    reason: str = ""


class Chains:
    """The chains of one graph, found and replaced one by one."""

    def __init__(self, root, graph, prefix, trainable):
        self.graph, self.prefix, self.trainable = graph, prefix, trainable
        self.modules = dict(root.named_modules(remove_duplicate=False))
        self.fused = {}  # target of a convolution -> the module that is to take its place
        self.calls = {}  # id of a module -> its nodes
        self.read = set()  # ids of tensors that the graph itself reads
        for node in graph.nodes:
            if node.op == "call_module":
                self.calls.setdefault(id(self.modules[node.target]), []).append(node)
            elif node.op == "get_attr":
                parent, _, name = node.target.rpartition(".")
                self.read.add(id(getattr(self.modules[parent], name)))

    def fuse(self):
        """Changes the graph; returns the FusionReports."""
        reports = []
        for node in list(self.graph.nodes):
            module = self._module(node)
            if isinstance(module, nn.Conv2d):
                chain = _Chain([node])
                chain.reason = self._why_not(module) or self._follow(chain)
                if len(chain.nodes) > 1:
                    self._replace(chain)
                reports.append(
                    FusionReport(
                        join(self.prefix, node.target), "Conv2d", tuple(chain.names), chain.reason
                    )
                )
        for node in self.graph.nodes:
            module = self._module(node)
            if isinstance(module, BATCH_NORMS) and node.args:
                reason = "left: no convolution could take it"
                name = join(self.prefix, node.target)
                reports.append(FusionReport(name, type_name(module), (), reason))
        return reports

    def _module(self, node):
        return self.modules[node.target] if node.op == "call_module" else None

    def _why_not(self, conv):
        """Why a convolution's call must stay as it is, or None."""
        if type(conv) is not fast.Conv2d:
            return f"left: {type(conv).__name__} has a call of its own"
        if reason := why_not_plain(conv):
            return f"left: it {reason}"
        (node, *more) = self.calls[id(conv)]
        if more:
            return f"left: it is called {len(more) + 1} times"
        if len(node.args) != 1 or node.kwargs:
            return "left: it is not called with one tensor"
        if any(id(tensor) in self.read for tensor in conv._parameters.values()):
            return "left: its weight or bias is read elsewhere"
        parents = node.target.split(".")[:-1]
        for count in range(1, len(parents) + 1):
            if id(self.modules[".".join(parents[:count])]) in self.calls:
                return f"left: {'.'.join(parents[:count])} is called as a whole too"
        return None

    def _follow(self, chain):
        """Takes what follows into the chain, as far as it can go; returns why no further."""
        while True:
            last = chain.nodes[-1]
            if len(last.users) != 1:
                return f"its result is read {len(last.users)} times"
            (user,) = last.users
            if user.op == "output":
                return "its result leaves the network"
            name = self._take(chain, last, user)
            if name is None:
                return f"followed by {self._name(user)}"
            if self._may_change_input(chain, user):
                self._give_back(chain)
                return f"its input may be changed before {self._name(user)}"
            chain.nodes.append(user)
            chain.names.append(name)
            if chain.activation is not None:
                return ""

    def _take(self, chain, last, user):
        """Enters a node into the chain, if it has a place there: its name, or None."""
        module = self._module(user)
        if module is not None and why_not_plain(module):
            return None
        if (activation := self._activation(user, module)) is not None:
            chain.activation = activation
            return self._name(user) if module is not None else activation
        if chain.residual is None and (residual := _residual(last, user)) is not None:
            chain.residual = residual
            return "residual"
        if chain.norm is None and chain.residual is None and self._is_foldable(chain, module):
            chain.norm = user
            return self._name(user)
        return None

    def _give_back(self, chain):
        """Forgets what _take has entered last and the chain does not hold."""
        chain.activation = None
        if chain.norm is not None and chain.norm not in chain.nodes:
            chain.norm = None
        if chain.residual is not None and "residual" not in chain.names:
            chain.residual = None

    def _activation(self, user, module):
        """The name of the epilogue's activation that a node computes, or None."""
        if module is not None:
            if type(module) is nn.GELU and module.approximate != "none":
                return None
            return _ACTIVATION_MODULES.get(type(module))
        # Besides the tensor: inplace, and GELU by erf.
        plain = all(isinstance(argument, bool) for argument in user.args[1:])
        plain &= all(
            name == "inplace" or (name, value) == ("approximate", "none")
            for name, value in user.kwargs.items()
        )
        table = _ACTIVATION_METHODS if user.op == "call_method" else _ACTIVATION_FUNCTIONS
        return table.get(user.target) if plain else None

    def _is_foldable(self, chain, module):
        conv = self._module(chain.nodes[0])
        if type(module) not in BATCH_NORMS or module.running_mean is None:
            return False
        if self.trainable and type(module) is not fast.FrozenBatchNorm2d:
            return False
        return module.num_features == conv.out_channels

    def _may_change_input(self, chain, user):
        """Whether something between the convolution and `user` works in place on what may be the
        convolution's input: fused, it would be read later than before."""
        node = chain.nodes[0].next
        while node is not user:
            if node not in chain.nodes and self._is_in_place(node):
                return True
            node = node.next
        return False

    def _is_in_place(self, node):
        if node.op == "call_method":
            return node.target.endswith("_") and not node.target.endswith("__")
        if node.op == "call_function":
            name = getattr(node.target, "__name__", "")
            by_name = name.endswith("_") and not name.endswith("__")
            known = node.target in _IN_PLACE_OPERATORS or by_name or _asks_in_place(node)
            return known or not _is_known(node.target) or "out" in node.kwargs
        if node.op == "call_module":
            module = self._module(node)
            plain = is_layer(module) and why_not_plain(module) is None
            return not plain or getattr(module, "inplace", False)
        return False

    def _name(self, node):
        if node.op == "call_module":
            return join(self.prefix, node.target)
        return node.target if node.op == "call_method" else getattr(node.target, "__name__", "?")

    def _replace(self, chain):
        """One call in the place of the chain's last node."""
        first, last = chain.nodes[0], chain.nodes[-1]
        conv = self.fused[first.target] = _fused_copy(self._module(first))
        kwargs = {}
        with self.graph.inserting_before(last):
            if chain.norm is not None:
                if self.trainable:
                    kwargs["norm"] = self.graph.call_module(chain.norm.target)
                else:
                    fold_batch_norm(conv, self._module(chain.norm))
            if chain.residual is not None:
                kwargs["residual"] = chain.residual
                if any(node.target in _IN_PLACE_ADDITIONS for node in chain.nodes):
                    kwargs["in_place"] = True
            if chain.activation is not None:
                kwargs["activation"] = chain.activation
            fused = self.graph.call_module(first.target, first.args, kwargs)
        last.replace_all_uses_with(fused)
        for node in reversed(chain.nodes):
            self.graph.erase_node(node)


def _fused_copy(conv):
    """A FusedConv2d with the same Parameters."""
    fused = object.__new__(fast.FusedConv2d)
    for name, value in vars(conv).items():
        vars(fused)[name] = copy.copy(value) if isinstance(value, (dict, set)) else value
    return fused


def _is_known(function):
    """Whether a function is neither the user's nor an operator of the dispatcher: those may change
    their arguments."""
    if isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return False
    package = getattr(function, "__module__", None)
    return (package and package.split(".")[0]) in _KNOWN_PACKAGES


def _residual(last, user):
    """What a node adds to `last`, where it is a plain sum of two different values; or None."""
    if user.op not in ("call_function", "call_method") or user.target not in _ADDITIONS:
        return None
    if len(user.args) != 2 or user.kwargs:
        return None
    first, second = user.args
    other = second if first is last else first
    if not isinstance(other, fx.Node) or other is last:
        return None
    # In place, the result is kept where the first one stood, and others may look there.
    return None if user.target in _IN_PLACE_ADDITIONS and first is not last else other


def _asks_in_place(node):
    """Of a function with an `inplace` argument, wherever it stands, as far as it may be true."""
    if "inplace" in node.kwargs:
        return bool(node.kwargs["inplace"])
    return any(argument is True for argument in node.args)
