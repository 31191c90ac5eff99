"""What fastconv.fuse makes of one graph: a convolution and the BatchNorm, sum and activation that
follow it become one call, as long as nothing else reads the results in between. The call stands
where the last of them stood, so that a residual is read no earlier than before. It is a call of a
new module: other code than this graph may go on calling the old one."""

import math
import operator
from dataclasses import dataclass, field

import torch
import torch.fx as fx
import torch.nn as nn

from ..activations import ACTIVATIONS, spell
from .batch_norms import BatchNorms
from .in_place import works_in_place
from .kinds import CONVOLUTIONS, FUSED, computes_as, recast, why_not_plain
from .report import FusionReport, join, type_name

# torch's modules, functions and a tensor's methods -> what of fastconv.activations they compute.
_ACTIVATION_MODULES = {found.module: found for found in ACTIVATIONS.values()}
_ACTIVATION_FUNCTIONS = {
    function: found for found in ACTIVATIONS.values() for function in (found.function, *found.also)
}
_ACTIVATION_METHODS = {name: found for found in ACTIVATIONS.values() for name in found.methods}
_ADDITIONS = (operator.add, operator.iadd, torch.add, "add", "add_")
_IN_PLACE_ADDITIONS = (operator.iadd, "add_")


@dataclass
class _Chain:
    """A convolution's node and the nodes that go into its call."""

    nodes: list
    names: list = field(default_factory=list)  # of what was taken, for the report
    identities: list = field(default_factory=list)  # nodes that compute nothing
    norm: fx.Node | None = None
    residual: fx.Node | None = None
    activation: str | None = None
    reason: str = ""


class Chains:
    """The chains of one graph, found and replaced one by one. `opaque` is {id of a module: why its
    own code stays}."""

    def __init__(self, root, graph, prefix, trainable, opaque):
        self.graph, self.prefix, self.trainable, self.opaque = graph, prefix, trainable, opaque
        self.modules = dict(root.named_modules(remove_duplicate=False))
        self.norms = BatchNorms(graph, self.modules, trainable)
        self.replaced = self.norms.replaced  # name of a module -> what is to take its place
        self.calls = {}  # id of a module -> its nodes
        self.read = {}  # id of a tensor that the graph itself reads -> its name
        for node in graph.nodes:
            if node.op == "call_module":
                self.calls.setdefault(id(self._module(node)), []).append(node)
            elif node.op == "get_attr":
                parent, _, name = node.target.rpartition(".")
                self.read[id(getattr(self.modules[parent], name))] = node.target

    def fuse(self):
        """Changes the graph; returns the FusionReports."""
        reports = list(self._report_traced_convolutions())
        for node in list(self.graph.nodes):
            module = self._module(node)
            if isinstance(module, CONVOLUTIONS):
                chain = _Chain([node])
                chain.reason = self._why_not(module) or self._follow(chain)
                while chain.nodes[-1] in chain.identities:
                    chain.nodes.pop()
                if len(chain.nodes) > 1:
                    self._replace(chain)
                reports.append(
                    self._report(
                        node.target, type_name(type(module)), chain.reason, tuple(chain.names)
                    )
                )
        for node in self.graph.nodes:
            if node in self.norms and (node.args or node.kwargs):
                reports.append(self._report_left_norm(node))
        return reports

    def _report_left_norm(self, node):
        reason = self.norms.why_left(node) or "no convolution could take it"
        name = self.norms.owner(node)
        if name is None:
            return self._report(node.name, node.target.__name__, f"left: {reason}")
        module = self.modules[name]
        if id(module) in self.opaque:
            reason = f"it {self.opaque[id(module)]}"
        return self._report(name, type_name(type(module)), f"left: {reason}")

    def _report_traced_convolutions(self):
        """Reports of convolutions that were traced through, or whose tensors are only read: the
        graph has no call of them."""
        owners = {name.rpartition(".")[0]: None for name in self.read.values()}
        for name in owners:
            module = self.modules[name]
            if isinstance(module, CONVOLUTIONS) and id(module) not in self.calls:
                what = "is not called, its tensors are read"
                if not computes_as(module, *CONVOLUTIONS):
                    what = "has a forward of its own"
                yield self._report(
                    name, type_name(type(module)), f"left: {type_name(type(module))} {what}"
                )

    def _report(self, name, kind, reason, fused=()):
        return FusionReport(join(self.prefix, name), kind, fused, reason)

    def _module(self, node):
        if node.op != "call_module":
            return None
        return self.replaced.get(node.target, self.modules[node.target])

    def _why_not(self, conv):
        """Why a convolution's call must stay as it is, or None."""
        if id(conv) in self.opaque:
            return f"left: it {self.opaque[id(conv)]}"
        if hasattr(conv, "parametrizations"):
            return "left: it is parametrised; torch.nn.utils.parametrize can make that permanent"
        if not computes_as(conv, *CONVOLUTIONS):
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
        """Takes the nodes that follow into the chain, as many as possible; returns why no more."""
        while True:
            last = chain.nodes[-1]
            readers = [user for user in last.users if not _asks_dimensions(user)]
            if not readers:
                return "nothing reads its result"
            if len(readers) > 1:
                return f"its result is read by {' and '.join(map(self._name, readers))}"
            if chain.residual is not None and len(last.users) != 1:
                return "the dimensions of its sum, which may be more, are asked for"
            (user,) = readers
            if user.op == "output":
                return "its result leaves the network"
            name = self._take(chain, last, user)
            if name is None:
                return f"followed by {self._name(user)}"
            if self._may_change_input(chain, user):
                self._give_back(chain)
                return f"its input may be changed before {self._name(user)}"
            chain.nodes.append(user)
            if user not in chain.identities:
                chain.names.append(name)
            if chain.activation is not None:
                return ""

    def _take(self, chain, last, user):
        """Enters a node into the chain if it fits; returns its name for the report, or None."""
        module = self._module(user)
        if module is not None and why_not_plain(module):
            return None
        if module is not None and computes_as(module, nn.Identity):
            chain.identities.append(user)
            return self._name(user)
        if (activation := self._activation(user, module)) is not None:
            chain.activation = activation
            return self._name(user) if module is not None else activation
        if chain.residual is None and (residual := _residual(last, user)) is not None:
            chain.residual = residual
            return "residual"
        if chain.norm is None and chain.residual is None and self._is_foldable(chain, last, user):
            chain.norm = user
            owner = self.norms.owner(user)
            return self._name(user) if owner is None else join(self.prefix, owner)
        return None

    def _give_back(self, chain):
        """Undoes the last _take, whose node is not among the chain's nodes yet."""
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
            if type(module) is nn.ReLU6 and (module.min_val, module.max_val) != (0, 6):
                return None
            found = _ACTIVATION_MODULES.get(type(module))
            if found is None or not found.parameter:
                return None if found is None else found.name
            return _spelled(found, getattr(module, found.parameter))
        table = _ACTIVATION_METHODS if user.op == "call_method" else _ACTIVATION_FUNCTIONS
        found = table.get(user.target)
        if found is None:
            return None
        # Arguments besides the tensor and the parameter may be `inplace`, and approximate="none" of
        # GELU.
        args, kwargs = list(user.args[1:]), dict(user.kwargs)
        kwargs.pop("inplace", None)
        if kwargs.get("approximate") == "none":
            del kwargs["approximate"]
        parameter = kwargs.pop(found.parameter, None)
        if found.parameter and args:
            parameter = args.pop(0)
        if kwargs or not all(isinstance(argument, bool) for argument in args):
            return None
        return found.name if parameter is None else _spelled(found, parameter)

    def _is_foldable(self, chain, last, user):
        if user not in self.norms or self.norms.why_left(user):
            return False
        is_input = last is (user.args or (user.kwargs.get("input"),))[0]
        return is_input and self.norms.fits(user, self._module(chain.nodes[0]))

    def _may_change_input(self, chain, user):
        """Whether a node between the convolution and `user` works in place, perhaps on the
        convolution's input, which the fused call would read later than before."""
        node = chain.nodes[0].next
        while node is not user:
            if node not in chain.nodes and works_in_place(node, self._module(node)):
                return True
            node = node.next
        return False

    def _name(self, node):
        if node.op == "output":
            return "the network's caller"
        if node.op == "call_module":
            return join(self.prefix, node.target)
        return node.target if node.op == "call_method" else getattr(node.target, "__name__", "?")

    def _replace(self, chain):
        """Puts one call in the place of the chain's last node and removes the chain's nodes."""
        first, last = chain.nodes[0], chain.nodes[-1]
        conv = self._module(first)
        kind = next(fused for base, fused in FUSED.items() if isinstance(conv, base))
        conv = self.replaced[first.target] = recast(conv, kind)
        kwargs = {}
        with self.graph.inserting_before(last):
            if chain.norm is not None:
                if self.trainable:
                    kwargs["norm"] = self.graph.call_module(chain.norm.target)
                else:
                    self.norms.fold(chain.norm, conv)
                    conv.norm_is_folded = True
            if chain.residual is not None:
                kwargs["residual"] = chain.residual
                if any(node.target in _IN_PLACE_ADDITIONS for node in chain.nodes):
                    kwargs["in_place"] = True
            if chain.activation is not None:
                kwargs["activation"] = chain.activation
            fused = self.graph.call_module(first.target, first.args, kwargs)
        for node in chain.nodes[:-1]:
            for user in list(node.users):
                if user not in chain.nodes:  # it asks for dimensions, and may stand before `fused`
                    user.replace_input_with(node, first.args[0])
        last.replace_all_uses_with(fused)
        for node in reversed(chain.nodes):
            self.norms.erase(node)


def _spelled(activation, parameter):
    """The name of an activation with a parameter, or None where that is no finite number."""
    if isinstance(parameter, bool) or not isinstance(parameter, int | float):
        return None
    return spell(activation, parameter) if math.isfinite(parameter) else None


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
    # `other += last` changes `other`, which other code may read.
    return None if user.target in _IN_PLACE_ADDITIONS and first is not last else other


def _asks_dimensions(node):
    """Whether a node reads nothing but the number of dimensions, which is the same for a
    convolution's input and its result."""
    if node.op == "call_method":
        return node.target in ("dim", "ndimension")
    return node.op == "call_function" and node.target is getattr and node.args[1:] == ("ndim",)
