"""How an operator is entered into torch.library: schema, implementation, fake. No autograd here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .profiling import named

_library = torch.library.Library("fastconv", "DEF")
# The memory format of a result follows from the strides of the arguments, so Inductor must not hand
# over other strides than the fakes saw.
_TAGS = (getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order),)


@dataclass(frozen=True)
class Op:
    """run works on real tensors; overload is what compilers and fake tensors see."""

    name: str
    run: Callable
    overload: Any


def define_op(schema, run, fake):
    """Defines fastconv::<name> from a schema string "name(...) -> ..." and returns its Op."""
    name = schema[: schema.index("(")]
    _library.define(schema, tags=_TAGS)
    for key in ("CPU", "CUDA"):
        _library.impl(name, run, key)
    torch.library.register_fake(f"fastconv::{name}", fake, lib=_library)
    return Op(name, named(name, run), getattr(torch.ops.fastconv, name).default)
