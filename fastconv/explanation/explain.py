"""fastconv.explain: who ran each convolution and pooling of a call, by which algorithm, why, how
long it took, and how far that is from what the device can do."""

import contextlib
import sys
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.nn.parameter import is_lazy

from ..convert import left_out
from ..dispatch import Decision
from .medians import take_medians
from .observer import observe
from .predicted import LayerPrediction, machine_of, predict_layer, predicted_text
from .rows import LayerTime, layer_time
from .text import describe, table


class Explanation(list[Decision]):
    """The Decisions of a call, in order. For a model of several layers it prints as a table of
    them, the slowest three and the layers that are not fastconv's; otherwise as a list.

    Args:
        decisions: of one run, in order.
        runs: how many runs their times are medians of.
        model: the torch.nn.Module that was called, or None.
        disturbance: what other programs did to the runs, "" for nothing that shows.
        predict_for: the GPU that times are predicted for, as of explain, or None.

    Attributes:
        runs: how many runs the times are medians of; 0 where nothing was measured.
        disturbance: as above. Where it is not empty no layer is said to be slow for a reason.
        not_fastconv: LayerReports of the model's convolution and pooling layers that are not
            fastconv's.
    """

    def __init__(
        self,
        decisions: Iterable[Decision] = (),
        runs: int = 0,
        model: torch.nn.Module | None = None,
        disturbance: str = "",
        predict_for: str | None = None,
    ):
        super().__init__(decisions)
        self.runs = runs
        self.disturbance = disturbance
        self.not_fastconv = [] if model is None else left_out(model)
        self._machine = None if predict_for is None else machine_of(predict_for)
        self._is_model = model is not None and any(True for _ in model.children())

    def rows(self) -> list[LayerTime]:
        """A LayerTime for each call, in order. The floors need the device's roofline, which is
        measured when first asked for, with torch's present number of threads."""
        return [layer_time(decision) for decision in self]

    def predictions(self) -> list[LayerPrediction]:
        """A LayerPrediction for each call, in order; none where no GPU was asked for."""
        return [predict_layer(decision, self._machine) for decision in self if self._machine]

    def __str__(self) -> str:
        if self._is_model:
            text = table(self.rows(), self.runs, self.not_fastconv, self.disturbance)
        elif not self:
            return "no fastconv operator was called"
        else:
            text = "\n".join(line for decision in self for line in describe(decision))
        if self._machine is None or not self:
            return text
        predicted = "\n".join(predicted_text(self.predictions(), self._machine))
        return f"{text}\n\n{predicted}"


def explain(
    function: Callable,
    *args: Any,
    measure: bool | None = None,
    predict_for: str | None = None,
    **kwargs: Any,
) -> Explanation:
    """Runs `function(*args, **kwargs)` without gradients and tells of each fastconv operator inside
    it which backend and algorithm ran it, and why not others, with the problem's sizes, FLOPs and
    bytes; for a module also how long each took, against its roofline floor.

    A time is that of the whole operator call as the program sees it: on a CPU the wall time from
    Python into the kernel and back, on a GPU the time between two events in the stream, before and
    after the call. It is the median of at most five runs (half a second) after a first one, of up
    to fifteen where other programs disturb them. A module's buffers and the random number
    generators are restored; anything else that a call changes, such as an input that is written in
    place, is changed by each run. What torch.compile compiled runs uncompiled.

    Args:
        function: fastconv.conv2d or another function of it, a module, or a whole model.
        measure: whether to run again for the times; None: where function is a torch.nn.Module.
        predict_for: "h100" or "a100": also what each forward pass would take there by fastconv's
            CUDA kernels, predicted from their machine code and not measured; no GPU is needed.

    Returns:
        Explanation: a list of dispatch.Decision that prints as text, for a model as a table; its
        rows() are the table's rows, and its predictions() what was predicted, for programs.

    Raises:
        ValueError: predict_for is no such GPU.
    """
    if predict_for is not None:
        machine_of(predict_for)
    function = getattr(function, "_orig_mod", function)  # of torch.compile's OptimizedModule
    if isinstance(function, torch.nn.DataParallel):  # which functional_call refuses
        function = function.module
    model = function if isinstance(function, torch.nn.Module) else None

    def run():
        return observe(lambda: _call_without_traces(function, args, kwargs))

    decisions, runs, disturbance = run(), 0, ""
    measure = model is not None if measure is None else measure
    can_measure = any(decision.time_us is not None for decision in decisions)
    for decision in decisions:
        decision.time_us = None  # a first call also pays for plans, caches and pages
    if measure and can_measure:
        runs, disturbance = take_medians(run, decisions)
    return Explanation(decisions, runs, model, disturbance, predict_for)


def _call_without_traces(function, args, kwargs):
    """Calls the function and restores a module's buffers and the random number generators."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.no_grad(), torch.random.fork_rng(devices), _uncompiled():
        if _has_buffers_to_keep(function):
            torch.func.functional_call(function, _copies_of_buffers(function), args, kwargs)
        else:
            function(*args, **kwargs)


def _has_buffers_to_keep(function):
    # functional_call refuses TorchScript's modules, which hold no operators of fastconv's.
    return isinstance(function, torch.nn.Module) and not isinstance(
        function, torch.jit.ScriptModule
    )


def _copies_of_buffers(module):
    return {name: buffer.clone() for name, buffer in module.named_buffers() if not is_lazy(buffer)}


def _uncompiled():
    """A context in which what torch.compile made runs uncompiled, as Python. The compiler, whose
    import takes long, is not imported for it."""
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    return torch.compiler.set_stance("force_eager")
