"""fastconv.fuse: convolution + BatchNorm + residual + activation become one call of one kernel.

A network is traced by torch.fx. Each convolution then takes what follows it, as far as it is the
only reader: its BatchNorm, a sum, an activation. The fused call stands where the last of them
stood, so that a residual is read when it was read before.
"""

import copy
import inspect
import operator
from dataclasses import dataclass, field

import torch
import torch.fx as fx
import torch.nn as nn
import torch.nn.functional as F

from . import nn as fast
from .convert import convert

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
_IN_PLACE_ARITHMETIC = (
    operator.iadd, operator.isub, operator.imul, operator.itruediv, operator.ifloordiv,
    operator.imod, operator.ipow, operator.imatmul, operator.iand, operator.ior, operator.ixor,
    operator.ilshift, operator.irshift,
)  # fmt: skip
_IN_PLACE_OPERATORS = (*_IN_PLACE_ARITHMETIC, operator.setitem, operator.delitem)
_BATCH_NORMS = (nn.BatchNorm2d, nn.SyncBatchNorm, fast.FrozenBatchNorm2d)


@dataclass(frozen=True)
class FusionReport:
    """One convolution or BatchNorm of a network: what went into its call, and why not more.

    Attributes:
        name: qualified name in the network, "" for the network itself.
        type: name of the class it had.
        fused: names of the modules and functions that went into the call, in order; "residual" for
            a sum.
        reason: why no more did, "" after an activation.
    """

    name: str
    type: str
    fused: tuple = ()
    reason: str = ""

    def __str__(self):
        chain = " + ".join((f"{self.name or '(model)'}: {self.type}", *self.fused))
        return f"{chain} ({self.reason})" if self.reason else chain


def fold_batch_norm(conv, norm):
    """Multiplies a BatchNorm with its running statistics into the convolution before it, in place.

        w[k] *= scale[k],  b[k] = b[k] * scale[k] + shift[k]

    with scale and shift as in fastconv.nn.FrozenBatchNorm2d (Ioffe and Szegedy 2015), computed in
    float64 and rounded once.

    Args:
        conv: a torch.nn.Conv2d with K filters; gets a bias where it has none.
        norm: a torch.nn.BatchNorm2d of K channels with running statistics.

    Raises:
        ValueError: the BatchNorm has no running statistics or another number of channels.
    """
    if norm.running_mean is None:
        raise ValueError("fold_batch_norm(): norm has no running statistics")
    if norm.num_features != conv.out_channels:
        raise ValueError(
            f"fold_batch_norm(): norm has {norm.num_features} channels, conv has "
            f"{conv.out_channels} filters"
        )
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var.double() + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean * scale
        if norm.bias is not None:
            shift = shift + norm.bias
        if conv.bias is not None:
            shift = shift + conv.bias * scale
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        like = conv.weight
        conv.weight = nn.Parameter(
            torch.empty_like(like).copy_(weight), requires_grad=like.requires_grad
        )
        conv.bias = nn.Parameter(shift.to(like.dtype), requires_grad=like.requires_grad)


def fuse(model, *, trainable=False, report=False):
    """Converts a network (see fastconv.convert) and fuses each Conv2d with the BatchNorm2d, the sum
    and the activation (ReLU, ReLU6, SiLU, GELU, Hardswish) that follow it.

    The network is traced by torch.fx, for the default values of its forward's optional arguments;
    parts that cannot be traced keep their own code, and what they call is fused part by part.

    Args:
        model: any torch.nn.Module.
        trainable: False: for inference. A copy in eval mode, with filters and biases into which the
            BatchNorms are multiplied; results equal the eval-mode model's within rounding. True:
            for training with frozen BatchNorms. The result shares the model's Parameters and
            buffers and has the same names in its state_dict (without parts that forward does not
            use); its BatchNorm2ds use their running statistics, in training mode too, and their
            weights and biases go on learning.
        report: also return a list of FusionReport, one for each convolution, and one for each
            BatchNorm that is left.

    Returns:
        The fused network (a torch.fx.GraphModule where it could be traced), or (network, list).

    Raises:
        TypeError: model is not a torch.nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"fuse(): model must be a torch.nn.Module, got {type(model).__name__}")
    if trainable:
        model = convert(model)
        for module in model.modules():
            if type(module) is nn.BatchNorm2d and module.running_mean is not None:
                module.__class__ = fast.FrozenBatchNorm2d
    else:
        model = convert(model).eval()
        _own_tensors(model)
    fusion = _Fusion(trainable)
    model = fusion.run(model)
    return (model, fusion.reports) if report else model


def _own_tensors(model):
    """Parameters and buffers become copies; those that are shared within the model stay shared.

    copy.deepcopy refuses what pruning leaves behind: tensors that are no leaves of autograd."""
    copies = {}
    for module in model.modules():
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None:
                    tensors[name] = copies.setdefault(id(tensor), copy.deepcopy(tensor))


class _Proxy(fx.Proxy):
    """fx's stand-in for a tensor records `y += x` as y = y + x: other dtypes, other aliases."""


def _record_in_place(function):
    def method(self, other):
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _function in _IN_PLACE_ARITHMETIC:
    setattr(_Proxy, f"__{_function.__name__}__", _record_in_place(_function))


class _Tracer(fx.Tracer):
    """Layers of torch and fastconv are leaves, and whatever is opaque."""

    def __init__(self, opaque=()):
        super().__init__()
        self.opaque = opaque

    def proxy(self, node):
        return _Proxy(node, self)

    def is_leaf_module(self, module, name):
        is_fast = type(module).__module__ == fast.__name__
        return id(module) in self.opaque or is_fast or super().is_leaf_module(module, name)


# Modules of torch that are not layers: they hold others.
_LISTS = (nn.ModuleList, nn.ModuleDict)
_WRAPPERS = (nn.DataParallel, nn.parallel.DistributedDataParallel)


def _is_layer(module):
    if isinstance(module, (*_LISTS, *_WRAPPERS)):
        return False
    return fx.Tracer().is_leaf_module(module, "") or type(module).__module__ == fast.__name__


def _has_hooks(module):
    names = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    return any(getattr(module, name) for name in names)


class _Fusion:
    """One run of fuse()."""

    def __init__(self, trainable):
        self.trainable = trainable
        self.reports = []
        self.opaque = {}  # id of a module whose own code stays -> why
        self.finished = set()  # ids of opaque modules whose parts are fused

    def run(self, model):
        if _is_layer(model):
            self._report_unfused(model, "", "nothing follows it")
            return model
        self._find_opaque(model)
        return self._fused(model, "")

    def _find_opaque(self, module):
        """Children first: a parent may then be traced around them."""
        for child in module.children():
            if not _is_layer(child) and id(child) not in self.opaque:
                self._find_opaque(child)
        if _has_hooks(module):
            self.opaque[id(module)] = "has hooks"
        elif "forward" in vars(module):
            self.opaque[id(module)] = "has a forward of its own, unlike others of its class"
        elif isinstance(module, _WRAPPERS):
            self.opaque[id(module)] = f"is a {type(module).__name__}"
        elif not isinstance(module, _LISTS):
            try:
                self._trace(module)
            except Exception as error:  # whatever a forward may do with a stand-in for a tensor
                what = str(error).strip().split("\n")[0]
                self.opaque[id(module)] = f"cannot be traced: {type(error).__name__}: {what}"

    def _trace(self, module):
        """The graph of a module's forward, with its optional arguments at their defaults."""
        parameters = inspect.signature(module.forward).parameters.values()
        defaults = {p.name: p.default for p in parameters if p.default is not p.empty}

        def trace():
            return _Tracer(self.opaque).trace(module, defaults)

        graph = trace()
        if self.trainable:
            # What one mode does must not be recorded for the other.
            training = {part: part.training for part in module.modules()}
            try:
                module.train(not module.training)
                other = trace()
            finally:
                for part, mode in training.items():
                    part.training = mode
            if str(graph) != str(other):
                raise RuntimeError("training and evaluation take different paths")
        return graph

    def _fused(self, module, name):
        """What takes the module's place: itself where it is opaque, a GraphModule otherwise."""
        if isinstance(module, _LISTS) or id(module) in self.opaque:
            self._fuse_children(module, name)
            return module
        graph = self._trace(module)
        chains = _Chains(module, graph, name, self.trainable)
        self.reports += chains.fuse()
        fused = fx.GraphModule(module, graph, class_name=type(module).__name__)
        # Whatever else reads the network's attributes goes on finding them.
        extra = {key: value for key, value in vars(module).items() if key not in vars(fused)}
        vars(fused).update(extra)
        fused.meta["_user_preserved_attributes"] = extra
        fused.training = module.training
        for node in graph.nodes:
            if node.op == "call_module":
                part = fused.get_submodule(node.target)
                if id(part) in self.opaque:
                    self._fuse_children(part, _join(name, node.target))
        return fused

    def _fuse_children(self, module, name):
        if id(module) in self.finished:
            return
        self.finished.add(id(module))
        reason = self.opaque.get(id(module), "is a container")
        for key, child in module.named_children():
            child_name = _join(name, key)
            if _is_layer(child):
                self._report_unfused(child, child_name, f"left: {name or 'the model'} {reason}")
            elif not isinstance(child, torch.jit.ScriptModule):
                module._modules[key] = self._fused(child, child_name)

    def _report_unfused(self, layer, name, reason):
        if isinstance(layer, (nn.Conv2d, *_BATCH_NORMS)):
            self.reports.append(FusionReport(name, _type_name(layer), (), reason))


def _join(prefix, name):
    return f"{prefix}.{name}" if prefix else name


def _type_name(module):
    return "BatchNorm2d" if isinstance(module, fast.FrozenBatchNorm2d) else type(module).__name__


@dataclass
class _Chain:
    """A convolution's node and the nodes that go into its call."""

    nodes: list
    names: list = field(default_factory=list)  # of what was taken, for the report
    norm: fx.Node | None = None
    residual: fx.Node | None = None
    activation: str | None = None
    reason: str = ""


class _Chains:
    """The chains of one graph, found and replaced one by one."""

    def __init__(self, root, graph, prefix, trainable):
        self.graph, self.prefix, self.trainable = graph, prefix, trainable
        self.modules = dict(root.named_modules(remove_duplicate=False))
        self.calls = {}  # id of a module -> its nodes
        for node in graph.nodes:
            if node.op == "call_module":
                self.calls.setdefault(id(self.modules[node.target]), []).append(node)

    def fuse(self):
        """Changes graph and modules; returns the FusionReports."""
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
                        _join(self.prefix, node.target), "Conv2d", tuple(chain.names), chain.reason
                    )
                )
        for node in self.graph.nodes:
            module = self._module(node)
            if isinstance(module, _BATCH_NORMS) and node.args:
                reason = "left: no convolution could take it"
                name = _join(self.prefix, node.target)
                reports.append(FusionReport(name, _type_name(module), (), reason))
        return reports

    def _module(self, node):
        return self.modules[node.target] if node.op == "call_module" else None

    def _why_not(self, conv):
        """Why a convolution's call must stay as it is, or None."""
        if type(conv) is not fast.Conv2d:
            return f"left: {type(conv).__name__} has a call of its own"
        if _has_hooks(conv):
            return "left: it has hooks"
        (node, *more) = self.calls[id(conv)]
        if more:
            return f"left: it is called {len(more) + 1} times"
        if len(node.args) != 1 or node.kwargs:
            return "left: it is not called with one tensor"
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
        if module is not None and _has_hooks(module):
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
        if type(module) not in _BATCH_NORMS or module.running_mean is None:
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
            return node.target in _IN_PLACE_OPERATORS or by_name or _asks_in_place(node)
        if node.op == "call_module":
            module = self._module(node)
            return getattr(module, "inplace", False) or not _is_layer(module) or _has_hooks(module)
        return False

    def _name(self, node):
        if node.op == "call_module":
            return _join(self.prefix, node.target)
        return node.target if node.op == "call_method" else getattr(node.target, "__name__", "?")

    def _replace(self, chain):
        """One call in the place of the chain's last node."""
        first, last = chain.nodes[0], chain.nodes[-1]
        conv = self._module(first)
        conv.__class__ = fast.FusedConv2d
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
