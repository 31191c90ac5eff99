"""BatchNorms of every class stop learning their statistics. Each gets a class that is derived from
its own, so that everything else about it stays."""

import functools

import torch.nn as nn

from ..fused import InEvaluation
from ..nn import FrozenBatchNorm1d, FrozenBatchNorm2d
from .kinds import FOLDABLE, computes_as


def freeze_batch_norms(model):
    """Makes all BatchNorms that have running statistics use them in every mode; in place."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not why_not_frozen(module):
            module.training = False
            if not isinstance(module, InEvaluation):
                module.__class__ = _frozen(type(module), computes_as(module, *FOLDABLE))


def why_not_frozen(norm):
    """Why a BatchNorm cannot be frozen, or None."""
    if isinstance(norm, nn.modules.lazy.LazyModuleMixin):
        return "is not initialised yet"
    if norm.running_mean is None or norm.running_var is None:
        return "has no running statistics"
    return None


@functools.cache
def _frozen(kind, is_plain):
    """The frozen class for a BatchNorm's class. Where that has a forward of its own (is_plain is
    False), the frozen one keeps it and is always in evaluation mode."""
    frozen = FrozenBatchNorm1d if issubclass(kind, nn.BatchNorm1d) else FrozenBatchNorm2d
    if kind is frozen._frozen_from:
        return frozen
    bases = (_Derived, frozen if is_plain else InEvaluation, kind)
    # torch.fx decides by a class's __module__ whether to trace into its forward.
    names = {"__module__": kind.__module__, "_frozen_from": kind, "_is_plain": is_plain}
    return type(f"Frozen{kind.__name__}", bases, names)


class _Derived:
    """Pickling for classes that _frozen makes at run time, which pickle cannot find by name."""

    def __reduce_ex__(self, protocol):
        _, _, *state = super().__reduce_ex__(protocol)
        return _new, (self._frozen_from, self._is_plain), *state


def _new(kind, is_plain):
    return object.__new__(_frozen(kind, is_plain))
