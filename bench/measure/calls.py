"""`fastconv bench calls`: what a call costs, torch's and ours, in one process and in turns.

Inference is a forward pass in torch.inference_mode, a training step the forward pass and the
gradients of x and of the parameters. The wall clock is read on a GPU too: it shows what a call
costs the program, which goes on while the kernels run.
"""

from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

import fastconv

from ...dispatch import recording
from ..cases.calls import contender
from .baselines import OURS, baselines, compiled
from .load import DISTURBED_LIMIT
from .measure import fill_times, first_line, new_row, settings_of, time_sides, unmeasured, why_not
from .timing import Side
from .verify import ROUNDINGS, judge


def _context(settings, backend, is_training):
    """A context that is entered once around many calls, so that none of them pays for it."""

    @contextmanager
    def enter():
        with ExitStack() as stack:
            stack.enter_context(settings_of(settings, backend)())
            stack.enter_context(torch.inference_mode(not is_training))
            yield

    return enter


def _results(call, context):
    """What a call returns, as a tuple of tensors."""
    with context():
        results = call()
    return results if isinstance(results, tuple) else (results,)


def _verify(results, torch_results, exact_results, row):
    """Judges y or each gradient; the row has the largest errors."""
    verdicts = []
    for result, torch_result, exact in zip(results, torch_results, exact_results, strict=True):
        rounding = ROUNDINGS * torch.finfo(torch.float64).eps * exact.abs().max().item()
        verdicts.append(judge(result, torch_result, exact, lambda at=rounding: at))
    row.error = max(verdict.error for verdict in verdicts)
    row.baseline_error = max(verdict.torch_error for verdict in verdicts)
    if wrong := next((verdict.wrong for verdict in verdicts if verdict.wrong), None):
        row.status, row.reason = "wrong", wrong


def _measure_against(case, device, seconds, backend, attempts, baseline, row):
    """The row against one baseline, under its settings."""
    is_training = case.pass_ == "training step"
    context = _context(baseline.settings, None, is_training)
    our_context = _context(baseline.settings, backend, is_training)
    theirs = contender(case, torch, device)
    if baseline.compiled:
        theirs = replace(theirs, function=compiled(theirs.function))
    our_call = contender(case, fastconv, device).call(is_training)
    their_call = theirs.call(is_training)
    try:
        torch_results = _results(their_call, context)
    except Exception as error:  # a dtype that torch has no kernel for, say
        row.status, row.reason = "no baseline", first_line(error)
        return row
    try:
        with recording() as decisions:
            results = _results(our_call, our_context)
        row.backend = decisions[0].backend if decisions else None
        if row.backend is None:  # torch must not be timed under our name
            row.status, row.reason = "no kernel", "no backend of fastconv ran the call"
            return row
    except Exception as error:  # whatever a caller may see is one row's failure
        row.status, row.reason = why_not(error)
        return row
    exact = contender(case, torch, device, torch.float64).call(is_training)
    _verify(results, torch_results, _results(exact, context), row)
    if row.status == "ok":
        sides = [Side(OURS, [our_call], our_context), Side(baseline.name, [their_call], context)]
        fill_times(row, baseline, time_sides(sides, "cpu", seconds, attempts, row))
    return row


def measure_call(
    case,
    device,
    seconds,
    backend=None,
    attempts=1,
    against=None,
    disturbed_limit=DISTURBED_LIMIT,
):
    """The rows of a CallCase, one a baseline; arguments as in measure.measure."""
    if against is None:
        against = baselines(case, device, backend)
    row = new_row(case, seconds, backend, disturbed_limit)
    try:
        return [
            _measure_against(
                case, device, seconds, backend, attempts, one, replace(row, baseline=one.name)
            )
            for one in against
        ]
    except Exception as error:  # a failure of these rows, and not of the whole run
        return unmeasured(row, error, against)
