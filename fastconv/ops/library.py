"""How an operator is entered into torch.library: schema, implementation, fake. No autograd here.

In Python a convolution's geometry and a pooling's windows are one argument, a NamedTuple; a schema
has none of those, and lists its fields as arguments in its place.
"""

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
class Schema:
    """The arguments of an operator as torch.library has them."""

    names: tuple[str, ...]
    fields_of: Any  # the NamedTuple whose fields are among them, or None
    first: int  # the index of its first field among the arguments
    end: int  # the index after that of its last field

    def packed(self, args):
        """The arguments with the fields as one value."""
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

    def adapt(self, function):
        """A function of packed arguments, by position, as one of the schema's arguments."""

        def call(*args, **kwargs):
            args += tuple(kwargs[name] for name in self.names[len(args) :])
            return function(*self.packed(args))

        return call


@dataclass(frozen=True)
class Op(Generic[Arguments, Result]):
    """run works on real tensors; overload is what compilers and fake tensors see."""

    name: str
    tensor_count: int  # how many arguments are tensors; these come first
    run: Callable[Arguments, Result]
    overload: Any
    schema: Schema

    def dispatch(self, *args):
        """What run does, by way of torch's dispatcher."""
        return self.overload(*self.schema.flat(args))


def define_op(
    schema: str, run: Callable[Arguments, Result], fake: Callable, fields_of: Any = None
) -> Op[Arguments, Result]:
    """Defines fastconv::<name> and returns its Op.

    Args:
        schema: "name(...) -> ...".
        run, fake: functions of its arguments, but of one NamedTuple in place of the fields.
        fields_of: that class, or None where the schema has none.
    """
    name, _, parameters = schema[: schema.index(")")].partition("(")
    names = tuple(parameter.split(" ")[-1] for parameter in parameters.split(", "))
    fields = () if fields_of is None else fields_of._fields
    first = names.index(fields[0]) if fields else 0
    arguments = Schema(names, fields_of, first, first + len(fields))
    assert names[first : arguments.end] == fields, schema
    library.define(schema, tags=_TAGS)
    for key in ("CPU", "CUDA"):
        library.impl(name, arguments.adapt(run), key)
    torch.library.register_fake(f"fastconv::{name}", arguments.adapt(fake), lib=library)
    overload = getattr(torch.ops.fastconv, name).default
    return Op(name, parameters.count("Tensor"), named(name, run), overload, arguments)
