"""How an operator is entered into torch.library: schema, implementation, fake. No autograd here.

In Python a convolution's geometry and a pooling's windows are one argument, a NamedTuple; a schema
has none of those, and lists its fields as arguments in its place.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, ParamSpec, TypeVar

import torch

from .profiling import named

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

library = torch.library.Library("fastconv", "DEF")
# The memory format of a result follows from the strides of the arguments, so Inductor must not hand
# over other strides than the fakes saw.
_TAGS = (getattr(torch.Tag, "needs_exact_strides", torch.Tag.needs_fixed_stride_order),)


@dataclass(frozen=True)
class _Schema:
    """The names of a schema's arguments, and which of them are the fields of a NamedTuple."""

    names: tuple[str, ...]
    fields_of: Callable | None  # the NamedTuple
    first: int = 0  # the place of its first field
    end: int = 0  # and the one after its last

    def packed(self, args):
        """The schema's arguments, the fields as one value."""
        if self.fields_of is None:
            return args
        fields = (
            tuple(field) if isinstance(field, (list, tuple)) else field
            for field in args[self.first : self.end]
        )
        return (*args[: self.first], self.fields_of(*fields), *args[self.end :])

    def flat(self, args):
        """The opposite of packed."""
        if self.fields_of is None:
            return args
        return (*args[: self.first], *args[self.first], *args[self.first + 1 :])


@dataclass(frozen=True)
class Op(Generic[Arguments, Result]):
    """run works on real tensors; overload is what compilers and fake tensors see."""

    name: str
    tensor_count: int  # of the arguments, whose first they are
    run: Callable[Arguments, Result]
    overload: Any
    schema: _Schema

    def dispatch(self, *args):
        """What run does, by way of torch's dispatcher."""
        return self.overload(*self.schema.flat(args))

    def on_flat_arguments(self, function):
        """A function with run's parameters as one with the schema's."""
        return _on_flat_arguments(self.schema, function)


def _on_flat_arguments(schema, function):
    @functools.wraps(function)
    def call(*args, **kwargs):
        args += tuple(kwargs[name] for name in schema.names[len(args) :])
        return function(*schema.packed(args))

    return call


def define_op(
    schema: str, run: Callable[Arguments, Result], fake: Callable, fields_of: Any = None
) -> Op[Arguments, Result]:
    """Defines fastconv::<name> and returns its Op.

    Args:
        schema: "name(...) -> ...".
        run, fake: functions of the schema's arguments, but of one NamedTuple for its fields.
        fields_of: that class, or None where the schema has none.
    """
    name, _, parameters = schema[: schema.index(")")].partition("(")
    names = tuple(parameter.split(" ")[-1] for parameter in parameters.split(", "))
    arguments = _Schema(names, None)
    if fields_of is not None:
        first = names.index(fields_of._fields[0])
        arguments = _Schema(names, fields_of, first, first + len(fields_of._fields))
        assert names[first : arguments.end] == fields_of._fields, schema
    library.define(schema, tags=_TAGS)
    for key in ("CPU", "CUDA"):
        library.impl(name, _on_flat_arguments(arguments, run), key)
    torch.library.register_fake(
        f"fastconv::{name}", _on_flat_arguments(arguments, fake), lib=library
    )
    overload = getattr(torch.ops.fastconv, name).default
    return Op(name, parameters.count("Tensor"), named(name, run), overload, arguments)
