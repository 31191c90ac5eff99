"""The operators' names in profiles: eager code goes around the dispatcher, which names others."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_is_profiling = torch._C._autograd._profiler_enabled
_Record = torch._C._profiler._RecordFunctionFast


def named(name: str, run: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """run(*args), shown by torch.profiler as fastconv::<name> with the sizes of its tensors."""
    title = f"fastconv::{name}"

    @functools.wraps(run)
    def call(*args):  # no keywords: they would cost time
        if not _is_profiling():
            return run(*args)
        with _Record(title, [arg for arg in args if isinstance(arg, torch.Tensor)]):
            return run(*args)

    call.__name__ = name
    return call
