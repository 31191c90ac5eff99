"""The names of operators in profiles. torch's dispatcher records the operators that go through it;
eager calls do not, and are recorded here."""

import functools
from collections.abc import Callable
from typing import ParamSpec, TypeVar

import torch

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")

_is_profiling = torch._C._autograd._profiler_enabled
_Record = torch._C._profiler._RecordFunctionFast


def named(name: str, run: Callable[Arguments, Result]) -> Callable[Arguments, Result]:
    """run, as a function that torch.profiler shows as fastconv::<name> with its tensors' sizes."""
    title = f"fastconv::{name}"

    @functools.wraps(run)
    def call(*args):  # no keywords: they would cost time
        if not _is_profiling():
            return run(*args)
        with _Record(title, [arg for arg in args if isinstance(arg, torch.Tensor)]):
            return run(*args)

    call.__name__ = name
    return call
