"""BatchNorms of every class stop learning their statistics: each becomes a module of a class that
is derived from its own, so that all else of it stays."""

import functools

import torch.nn as nn

from ..nn import FrozenBatchNorm2d, _InEvaluation
from .kinds import FOLDABLE, computes_as


def freeze_batch_norms(model):
    """In place: those with running statistics use them, whatever the mode of the network."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and not why_not_frozen(module):
            module.training = False
            if not isinstance(module, _InEvaluation):
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
    """The frozen class of a BatchNorm's class. One with a forward of its own keeps it, and is in
    evaluation mode."""
    if kind is nn.BatchNorm2d:
        return FrozenBatchNorm2d
    bases = (_Derived, FrozenBatchNorm2d if is_plain else _InEvaluation, kind)
    # A trace looks through classes by the modules that they are from.
    names = {"__module__": kind.__module__, "_frozen_from": kind, "_is_plain": is_plain}
    return type(f"Frozen{kind.__name__}", bases, names)


class _Derived:
    """Of a class that is made at run time, which pickle does not find by its name."""

    def __reduce_ex__(self, protocol):
        _, _, *state = super().__reduce_ex__(protocol)
        return _new, (self._frozen_from, self._is_plain), *state


def _new(kind, is_plain):
    return object.__new__(_frozen(kind, is_plain))
