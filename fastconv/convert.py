"""fastconv.convert: an existing model's layers become fastconv's; fastconv.unconvert: torch's
again."""

import functools
import types
from collections import Counter, OrderedDict, deque
from dataclasses import dataclass
from typing import Literal, overload

import torch
import torch.nn as nn
from torch.utils.hooks import RemovableHandle

from . import nn as fast
from .layer import Layer, is_ours, torch_class

CONVERTED_TYPES = {
    nn.Conv2d: fast.Conv2d,
    nn.ConvTranspose2d: fast.ConvTranspose2d,
    nn.MaxPool2d: fast.MaxPool2d,
    nn.AvgPool2d: fast.AvgPool2d,
    nn.AdaptiveAvgPool2d: fast.AdaptiveAvgPool2d,
    nn.AdaptiveMaxPool2d: fast.AdaptiveMaxPool2d,
    nn.Conv1d: fast.Conv1d,
    nn.ConvTranspose1d: fast.ConvTranspose1d,
    nn.MaxPool1d: fast.MaxPool1d,
    nn.AvgPool1d: fast.AvgPool1d,
    nn.AdaptiveAvgPool1d: fast.AdaptiveAvgPool1d,
    nn.AdaptiveMaxPool1d: fast.AdaptiveMaxPool1d,
    nn.Conv3d: fast.Conv3d,
}
# The reason in the report of a layer that fastconv.convert would swap.
CONVERTIBLE = "fastconv.convert swaps it"
# The layers that a report lists: everything that convolves or pools.
_RELATED_TYPES = (
    nn.modules.conv._ConvNd,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
    nn.modules.pooling._LPPoolNd,
    nn.modules.pooling._MaxUnpoolNd,
    nn.FractionalMaxPool2d,
    nn.FractionalMaxPool3d,
)


@dataclass(frozen=True)
class LayerReport:
    """One convolution or pooling layer of a model: its name there, the type it had, whether it is
    converted, and as reason what it became, or why it was left."""

    name: str
    type: str
    converted: bool
    reason: str

    def __str__(self):
        return f"{self.name or '(model)'}: {self.type} -> {self.reason}"


class ConversionReport(list[LayerReport]):
    """A LayerReport of each convolution or pooling layer, in the model's order. It prints as a
    summary, why layers were left by number, and a line for each layer."""

    def summary(self) -> str:
        """How many layers are fastconv's, and why the others are not, counted by reason."""
        left = Counter(layer.reason for layer in self if not layer.converted)
        lines = [f"{len(self) - left.total()} of {len(self)} layers are fastconv's"]
        lines += [f"  {count} {reason}" for reason, count in left.most_common()]
        return "\n".join(lines)

    def __str__(self) -> str:
        return "\n".join((self.summary(), *map(str, self)))


@overload
def convert(
    model: nn.Module, inplace: bool = False, report: Literal[False] = False
) -> nn.Module: ...


@overload
def convert(
    model: nn.Module, inplace: bool = False, *, report: Literal[True]
) -> tuple[nn.Module, ConversionReport]: ...


def convert(
    model: nn.Module, inplace: bool = False, report: bool = False
) -> nn.Module | tuple[nn.Module, ConversionReport]:
    """Swaps every supported layer (Conv2d, ConvTranspose2d, MaxPool2d, AvgPool2d,
    AdaptiveAvgPool2d, AdaptiveMaxPool2d; the same along one axis; Conv3d) of a model for
    fastconv's.

    Parameters and buffers stay the same objects, so an optimizer made before goes on working;
    hooks, training mode, dtypes and devices stay too.

    Args:
        model: any torch.nn.Module.
        inplace: False: the model does not change; a copy of its module structure is returned,
            which *shares* its parameters, buffers and hook functions; what torch.compile compiled
            is copied uncompiled. True: the model's own layers change class.
        report: also return a ConversionReport, a list with a LayerReport for each convolution or
            pooling layer, which prints with a summary.

    Returns:
        The converted model, or (model, ConversionReport).

    Raises:
        TypeError: model is not a torch.nn.Module.
    """
    _check_module("convert", model)
    if not inplace:
        model = _copy_structure(model)
    reports = ConversionReport()
    for name, module in model.named_modules():
        kind = type(module)
        if kind in CONVERTED_TYPES:
            module.__class__ = CONVERTED_TYPES[kind]
            reports.append(LayerReport(name, kind.__name__, True, f"fastconv.{kind.__name__}"))
        elif isinstance(module, _RELATED_TYPES):
            reports.append(LayerReport(name, kind.__name__, *_why_left(module)))
    return (model, reports) if report else model


def unconvert(model: nn.Module, inplace: bool = False) -> nn.Module:
    """Undoes fastconv.convert: its layers become torch.nn's again.

    For tools that know layers by their exact class, such as torch.ao.quantization's fuse_modules
    and FX mode; what they return can be converted again. Parameters, buffers, hooks, training mode,
    dtypes and devices stay as in convert.

    Args:
        model: any torch.nn.Module.
        inplace: as in convert.

    Returns:
        The model of torch's layers.

    Raises:
        TypeError: model is not a torch.nn.Module, or has a layer of fastconv's that torch.nn has no
            class for: a ConvReLU2d, what fastconv.fuse made, one that is parametrised.
    """
    _check_module("unconvert", model)
    classes = {}  # found before any layer changes, so that an error leaves the model as it was
    for name, module in model.named_modules():
        if isinstance(module, Layer):
            try:
                classes[name] = torch_class(module)
            except TypeError as error:
                raise TypeError(f"unconvert(): {name or 'the model'}: {error}") from None
    if not inplace:
        model = _copy_structure(model)
    for name, kind in classes.items():
        model.get_submodule(name).__class__ = kind
    return model


def _check_module(function, model):
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"{function}(): model must be a torch.nn.Module, got {type(model).__name__}"
        )


def left_out(model):
    """A LayerReport of each convolution or pooling layer of a model that is not fastconv's."""
    ours = tuple(CONVERTED_TYPES.values())
    found = []
    for name, module in model.named_modules():
        kind = type(module)
        if isinstance(module, _RELATED_TYPES) and not isinstance(module, ours):
            convertible = kind in CONVERTED_TYPES
            reason = CONVERTIBLE if convertible else _why_left(module)[1]
            found.append(LayerReport(name, kind.__name__, False, reason))
    return found


def _why_left(module):
    kind = type(module)
    if is_ours(kind):
        return True, "fastconv's already"
    if isinstance(module, nn.modules.lazy.LazyModuleMixin):
        return False, "left: not initialised yet; run the model once, then convert"
    if hasattr(module, "parametrizations"):
        return False, "left: parametrised; convert before torch.nn.utils.parametrize"
    base = next((base for base in CONVERTED_TYPES if isinstance(module, base)), None)
    if base is not None:
        return False, f"left: a subclass of {base.__name__} may compute something else"
    return False, "left: fastconv has no kernel for it"


def _copy_structure(model):
    """New modules, whose parameters, buffers and other attributes are the original's objects.

    A reference to a module of the model, in a plain container or in a hook, is replaced by one to
    its copy. copy.deepcopy would also copy what hooks and attributes refer to, and it refuses
    tensors that are no leaves of autograd.
    """
    # Not copied: a ScriptModule, which has no structure in Python, and what torch.compile made,
    # in whose place the module that was compiled is copied.
    copies = {
        id(module): object.__new__(type(module))
        for module in model.modules()
        if not isinstance(module, torch.jit.ScriptModule) and not _is_compiled(module)
    }
    for module in model.modules():
        if _is_compiled(module):
            copies[id(module)] = copies.get(id(module._orig_mod), module._orig_mod)

    # A hook's handle refers to the dict of hooks of its module, which must become the copy's.
    own_dicts = {
        id(value)
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, dict)
    }
    dicts = {}  # id of a dict -> its copy

    def translate(value):
        if isinstance(value, nn.Module):
            return copies.get(id(value), value)
        if isinstance(value, types.MethodType) and id(value.__self__) in copies:
            return types.MethodType(value.__func__, copies[id(value.__self__)])
        if isinstance(value, nn.modules.module._WrappedHook):
            owner = value.module() if value.with_module else None
            return type(value)(translate(value.hook), translate(owner))
        if type(value) in (list, tuple, set):
            return type(value)(map(translate, value))
        if type(value) is deque:
            return deque(map(translate, value), value.maxlen)
        if isinstance(value, tuple) and hasattr(value, "_make"):
            return value._make(map(translate, value))
        if type(value) is functools.partial:
            keywords = {name: translate(item) for name, item in value.keywords.items()}
            return functools.partial(translate(value.func), *map(translate, value.args), **keywords)
        if type(value) in (dict, OrderedDict):
            if id(value) not in dicts:
                dicts[id(value)] = type(value)()
                dicts[id(value)].update((key, translate(item)) for key, item in value.items())
            return dicts[id(value)]
        if isinstance(value, RemovableHandle) and id(value.hooks_dict_ref()) in own_dicts:
            handle = object.__new__(type(value))
            handle.__setstate__(translate(value.__getstate__()))
            return handle
        return value

    for module in model.modules():
        if id(module) in copies and not _is_compiled(module):
            vars(copies[id(module)]).update(
                (name, translate(value))
                for name, value in vars(module).items()
                if name != "_compiled_call_impl"
            )
    return translate(model)


def _is_compiled(module):
    # Not by isinstance: to import the class takes seconds.
    return "_orig_mod" in module._modules
