"""How an operator is entered into torch.library: schema, implementation, fake. No autograd here."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .profiling import named

library = torch.library.Library("fastconv", "DEF")
# The memory format of a result follows from the strides of the arguments, so Inductor must not hand
# over other strides than the fakes saw.
_TAGS = (getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order),)


@dataclass(frozen=True)
class Op:
    """run works on real tensors; overload is what compilers and fake tensors see."""

    name: str
    tensor_count: int  # of the arguments, whose first they are
    run: Callable
    overload: Any


def define_op(schema, run, fake):
    """Defines fastconv::<name> from a schema string "name(...) -> ..." and returns its Op."""
    name = schema[: schema.index("(")]
    library.define(schema, tags=_TAGS)
    for key in ("CPU", "CUDA"):
        library.impl(name, run, key)
    torch.library.register_fake(f"fastconv::{name}", fake, lib=library)
    tensor_count = schema[: schema.index(")")].count("Tensor")
    return Op(name, tensor_count, named(name, run), getattr(torch.ops.fastconv, name).default)
