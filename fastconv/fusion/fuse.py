"""fastconv.fuse: convolution + BatchNorm + residual + activation become one call of one kernel.

A network is traced by torch.fx and its graph is changed (chains.py). A part that cannot be traced
keeps its own code, and the parts that it calls are fused one by one.
"""

import copy
from typing import Literal, overload

import torch
import torch.fx as fx
import torch.nn as nn

from ..convert import convert
from .batch_norms import ANY_BATCH_NORM, freeze_calls
from .chains import Chains
from .frozen_batch_norm import freeze_batch_norms
from .kinds import CONVOLUTIONS, WRAPPERS, has_own_call, is_layer, is_list, why_not_plain
from .network import FusedNetwork
from .report import FusionReport, join, type_name
from .tracer import trace
from .uses import replaceable_parts


@overload
def fuse(
    model: nn.Module, *, trainable: bool = False, report: Literal[False] = False
) -> nn.Module: ...


@overload
def fuse(
    model: nn.Module, *, trainable: bool = False, report: Literal[True]
) -> tuple[nn.Module, list[FusionReport]]: ...


def fuse(
    model: nn.Module, *, trainable: bool = False, report: bool = False
) -> nn.Module | tuple[nn.Module, list[FusionReport]]:
    """Converts a network (see fastconv.convert) and fuses each Conv2d, ConvTranspose2d, Conv1d and
    ConvTranspose1d with the BatchNorm, the sum and the activation (those of fastconv.conv2d) that
    follow it. A convolution with a BatchNorm in its call raises for an input without a batch.

    The network is traced by torch.fx with the optional arguments of its forward at their defaults;
    the result raises AssertionError for other values of them. A part that cannot be traced keeps
    its own code; within it, those submodules are fused which it does nothing with but call them.
    While fuse runs, some of torch's functions are replaced for the whole process: other threads
    must not run networks meanwhile.

    Args:
        model: any torch.nn.Module.
        trainable: False: for inference. The result is a copy in eval mode; the BatchNorms are
            multiplied into its filters and biases; it computes what the model computes in eval
            mode, within rounding. True: for training with frozen BatchNorms. The result shares the
            model's Parameters and buffers and has the same names in its state_dict (without parts
            that forward does not use). Its BatchNorms, those of derived classes too, use their
            running statistics in training mode as in eval mode, and do not change them; their
            weights and biases go on learning.
        report: also return a list of FusionReport: one for each convolution, and one for each
            BatchNorm that is not fused or could not be frozen.

    Returns:
        The fused network, or (network, list). Where it could be traced it is a
        torch.fx.GraphModule, which for inference runs calls that it has met before by programs.

    Raises:
        TypeError: model is not a torch.nn.Module.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"fuse(): model must be a torch.nn.Module, got {type(model).__name__}")
    if trainable:
        model = convert(model)
        freeze_batch_norms(model)
    else:
        model = _own_scripts(convert(model)).eval()
        _own_tensors(model)
    fusion = _Fusion(trainable)
    model = fusion.run(model)
    return (model, fusion.reports) if report else model


def _own_tensors(model):
    """Parameters and buffers become copies; those that are shared within the model stay shared.

    copy.deepcopy of the model refuses what pruning leaves behind: tensors that are no leaves of
    autograd."""
    copies = {}
    for module in model.modules():
        if isinstance(module, torch.jit.ScriptModule):
            continue
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is not None and id(tensor) not in copies:
                    is_leaf = tensor.is_leaf
                    copies[id(tensor)] = (
                        copy.deepcopy(tensor) if is_leaf else tensor.detach().clone()
                    )
                if tensor is not None:
                    tensors[name] = copies[id(tensor)]


def _own_scripts(model):
    """Copies TorchScript's modules, which fastconv.convert shares with the original model."""
    if isinstance(model, torch.jit.ScriptModule):
        return copy.deepcopy(model)
    copies = {}
    for module in list(model.modules()):
        if not isinstance(module, torch.jit.ScriptModule):
            for name, child in module._modules.items():
                if isinstance(child, torch.jit.ScriptModule):
                    module._modules[name] = copies.setdefault(id(child), copy.deepcopy(child))
    return model


class _Fusion:
    """One run of fuse()."""

    def __init__(self, trainable):
        self.trainable = trainable
        self.reports = []
        self.opaque = {}  # id of a module whose own code stays -> why
        self.finished = set()  # ids of opaque modules whose parts are fused
        self.replaced = {}  # id of a module -> (the module, what takes its place)

    def run(self, model):
        if is_layer(model):
            self._report_unfused(model, "", "nothing follows it")
            return model
        self._find_opaque(model)
        return self._fused(model, "")

    def _find_opaque(self, module):
        """Finds the modules that cannot be traced. Children first, so that their parents can be
        traced around those that cannot."""
        for child in module.children():
            if not is_layer(child) and id(child) not in self.opaque:
                self._find_opaque(child)
        if reason := why_not_plain(module):
            self.opaque[id(module)] = reason
        elif isinstance(module, WRAPPERS):
            self.opaque[id(module)] = f"is a {type(module).__name__}"
        elif not is_list(module):
            try:
                self._trace(module)
            except Exception as error:  # a forward may raise anything for fx's stand-ins
                what = str(error).strip().split("\n")[0]
                self.opaque[id(module)] = f"cannot be traced: {type(error).__name__}: {what}"

    def _trace(self, module):
        if not self.trainable:
            return trace(module, self.opaque, trainable=False)
        # A graph is for both modes, so both must lead to the same one.
        modes = {part: part.training for part in module.modules()}
        try:
            module.train()
            training = trace(module, self.opaque, trainable=True)
            module.eval()
            graph = trace(module, self.opaque, trainable=True)  # its constants stay
        finally:
            for part, mode in modes.items():
                part.training = mode
        freeze_calls(training, graph)
        if str(graph) != str(training):
            raise RuntimeError("training and evaluation take different paths")
        return graph

    def _fused(self, module, name):
        """What takes the module's place: itself where it is opaque or a BatchNorm, a GraphModule
        otherwise."""
        if isinstance(module, ANY_BATCH_NORM):
            # A graph would lose the buffers that its forward uses in training only.
            why = self.opaque.get(id(module), "is called by what cannot be traced")
            for part_name, part in module.named_modules(prefix=name):
                self._report_unfused(part, part_name, f"left: {name or 'the model'} {why}")
            return module
        if is_list(module) or id(module) in self.opaque or has_own_call(module):
            self._fuse_children(module, name)
            return module
        if id(module) in self.replaced:
            return self.replaced[id(module)][1]
        graph = self._trace(module)
        chains = Chains(module, graph, name, self.trainable, self.opaque)
        self.reports += chains.fuse()
        kind = fx.GraphModule if self.trainable else FusedNetwork
        fused = kind(module, graph, class_name=type(module).__name__)
        self.replaced[id(module)] = module, fused
        for target, part in chains.replaced.items():
            parent, _, key = target.rpartition(".")
            fused.get_submodule(parent)._modules[key] = part
        # Whatever else reads the network's attributes goes on finding them.
        extra = {key: value for key, value in vars(module).items() if key not in vars(fused)}
        vars(fused).update(extra)
        fused.meta["_user_preserved_attributes"] = extra
        fused.training = module.training
        _keep_order(fused, module)
        for node in graph.nodes:
            if node.op == "call_module":
                part = fused.get_submodule(node.target)
                if id(part) in self.opaque:
                    self._fuse_children(part, join(name, node.target))
        return fused

    def _fuse_children(self, module, name):
        """Fuses the parts of a module whose own code stays, each on its own, and reports what is
        left in it. Of TorchScript nothing can be replaced: its layers are only reported."""
        if id(module) in self.finished:
            return
        self.finished.add(id(module))
        if isinstance(module, torch.jit.ScriptModule):
            for part_name, part in module.named_modules(prefix=name):
                frozen = ", and not frozen" if self.trainable else ""
                self._report_unfused(part, part_name, f"left: it is TorchScript{frozen}")
            return
        known = "is a container" if is_list(module) else "has a __call__ of its own"
        reason = f"left: {name or 'the model'} {self.opaque.get(id(module), known)}"
        replaceable = replaceable_parts(module)
        for key, child in list(module._modules.items()):
            child_name = join(name, key)
            if child is None:
                continue
            if isinstance(child, torch.jit.ScriptModule):
                self._fuse_children(child, child_name)
            elif is_layer(child):
                may_change = self.trainable and key not in replaceable
                what = f", and may change what {key} has" if may_change else ""
                self._report_unfused(child, child_name, reason + what)
            elif key in replaceable:
                module._modules[key] = self._fused(child, child_name)
            else:
                for part_name, part in child.named_modules(prefix=child_name):
                    self._report_unfused(part, part_name, f"{reason}, and may not just call {key}")

    def _report_unfused(self, layer, name, reason):
        """Adds a report where the layer is a convolution or a BatchNorm."""
        kind = type(layer)
        if isinstance(layer, torch.jit.ScriptModule):
            kind = getattr(nn, layer.original_name, nn.Module)
        if issubclass(kind, (*CONVOLUTIONS, ANY_BATCH_NORM)):
            self.reports.append(FusionReport(name, type_name(kind), (), reason))


def _keep_order(fused, module):
    """Puts submodules, parameters and buffers into the module's order, since optimizers number the
    parameters. A buffer that is not in the module's state_dict stays out of the fused one's."""
    for kind in ("_modules", "_parameters", "_buffers"):
        own, names = getattr(fused, kind), list(getattr(module, kind))
        known = sorted((name for name in own if name in names), key=names.index)
        ordered = {name: own[name] for name in (*known, *own)}
        own.clear()
        own.update(ordered)
    persistent = module._buffers.keys() - module._non_persistent_buffers_set
    fused._non_persistent_buffers_set = fused._buffers.keys() - persistent
    for name, part in fused._modules.items():
        inner = module._modules.get(name)
        if inner is not None and inner is not part and not isinstance(part, fx.GraphModule):
            _keep_order(part, inner)
