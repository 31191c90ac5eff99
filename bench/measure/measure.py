"""One case from inputs to rows: verify, then time against every baseline."""

import functools
import os
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

import fastconv

from ...backends import BACKENDS
from ...dispatch import recording
from ..cases.operators import make_call, make_inputs, ours, theirs
from ..cases.selection import DTYPES
from .baselines import OURS, baselines
from .load import DISTURBED_LIMIT, OthersLoad
from .record import Row
from .timing import Side, time_cpu
from .timing_cuda import input_sets, time_cuda
from .verify import exact_result, judge, reference_rounding


@contextmanager
def no_fallback():
    """Inside, a call without a kernel of ours raises: torch must not be timed under our name."""
    before = os.environ.get("FASTCONV_STRICT")
    os.environ["FASTCONV_STRICT"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["FASTCONV_STRICT"]
        else:
            os.environ["FASTCONV_STRICT"] = before


def settings_of(settings, backend):
    """A context: a baseline's settings and the named backend of fastconv."""

    def enter():
        stack = ExitStack()
        stack.enter_context(settings())
        if backend is not None:
            stack.enter_context(fastconv.backend(backend))
        return stack

    return enter


def _plan(decisions, pass_):
    """(backend, algorithm) of recorded decisions, None where not known."""
    if not decisions or decisions[0].backend is None:
        return None, None
    made = decisions[0]
    backend = BACKENDS[made.backend]
    _, plans = backend.explain(made.operator, made.call, made.dtype, made.channels_last)
    if made.operator == "conv_transpose2d":  # the plans are those of the convolution behind it
        pass_ = {"fprop": "dgrad", "dgrad": "fprop"}.get(pass_, pass_)
    return made.backend, plans.get(pass_, (None,))[0]


def first_line(error):
    """The first line of an error's message, or its class where it has none."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def why_not(error):
    """(status, reason) of a row for whose case fastconv raised an error."""
    # For a CPU torch raises a RuntimeError, which only its message tells from others.
    if isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error):
        return "no memory", first_line(error)
    if isinstance(error, NotImplementedError):
        return "no kernel", first_line(error)
    return "failed", f"{type(error).__name__}: {error}"


def _verify(case, inputs, settings, baseline, function, exact, row):
    """Runs both sides once and writes the verdict into the row.

    Args:
        settings: fastconv's.
        function: the baseline's, of the inputs.
        exact: a function that returns (the result in float64, its own rounding).

    Returns (fastconv may be timed, the baseline may be timed).
    """
    try:
        with settings_of(baseline.settings, baseline.backend)():
            baseline_result = make_call(function, inputs)()
        torch_result = baseline_result
        if baseline.backend is not None:  # another kernel of ours, which may be wrong too
            with baseline.settings():
                torch_result = make_call(theirs(case), inputs)()
    except Exception as error:  # a dtype that torch has no kernel for, say
        row.status, row.reason = "no baseline", first_line(error)
        return False, False
    try:
        with settings(), recording() as decisions:
            result = make_call(ours(case), inputs)()
        row.backend, row.algorithm = _plan(decisions, case.pass_)
        if row.backend is None:  # torch must not be timed under our name
            row.status, row.reason = "no kernel", "no backend of fastconv ran the call"
            return False, True
    except Exception as error:  # whatever a kernel's caller may see is one row's failure
        row.status, row.reason = why_not(error)
        return False, True
    verdict = judge(result, torch_result, *exact())
    row.error, row.baseline_error = verdict.error, verdict.torch_error
    if verdict.wrong is not None:
        row.status, row.reason = "wrong", verdict.wrong
        return False, True
    return True, True


def _rates(row, case, us):
    row.tflops = case.flops() / us / 1e6
    row.gbs = case.bytes(DTYPES[case.dtype].itemsize) / us / 1e3


def time_sides(sides, device, seconds, attempts, row):
    """Timings by side name: of the first attempt on a quiet machine, or else of the quietest."""
    if device == "cuda":
        return time_cuda(sides, seconds)
    timings = None
    for _ in range(attempts):
        with OthersLoad() as load:
            attempt = time_cpu(sides, seconds)
        if timings is None or load.cpus < row.others_cpus:
            timings, row.others_cpus = attempt, load.cpus
        if not row.is_disturbed:
            break
    return timings


def fill_times(row, baseline, timings):
    """Writes the times of fastconv, where it was timed, and of one baseline into the row."""
    own, other = timings.get(OURS), timings[baseline.name]
    row.timer, row.note = other.method, other.note
    row.samples = (own or other).samples
    row.baseline_us, row.baseline_eager_us = other.median_us, other.eager_us
    row.baseline_page_faults = other.page_faults
    row.baseline_p20_us, row.baseline_p80_us = other.p20_us, other.p80_us
    if own is not None:
        row.us, row.p20_us, row.p80_us = own.median_us, own.p20_us, own.p80_us
        row.eager_us, row.page_faults = own.eager_us, own.page_faults
        row.x_baseline = other.median_us / own.median_us


def new_row(case, seconds, backend, disturbed_limit):
    """The row of a case before anything is measured, with the threads that torch is set to."""
    row = Row.of(case, torch.get_num_threads(), backend)
    return replace(row, seconds=seconds, disturbed_limit=disturbed_limit)


def unmeasured(row, error, against):
    """Rows that say why, one a baseline."""
    status, reason = why_not(error)
    return [replace(row, status=status, reason=reason, baseline=b.name) for b in against]


def measure(
    case,
    device,
    seconds,
    backend=None,
    attempts=1,
    against=None,
    disturbed_limit=DISTURBED_LIMIT,
):
    """The rows of a case, one a baseline.

    Args:
        device: "cpu" or "cuda"; on a GPU the current stream must not be the default one.
        seconds: measuring time for each side.
        backend: a backend of fastconv, None for its own choice.
        attempts: how often at most to time a case that is disturbed.
        against: Baselines; None: torch as it comes.
        disturbed_limit: see Row.is_disturbed.
    """
    if against is None:
        against = baselines(case, device, backend)
    row = new_row(case, seconds, backend, disturbed_limit)
    try:
        sets = 1
        if device == "cuda":
            sets = input_sets(case.bytes(DTYPES[case.dtype].itemsize), device)
            row.input_sets = sets
        inputs = [make_inputs(case, device, seed) for seed in range(sets)]
        exact = functools.cache(
            lambda: (exact_result(case, inputs[0]), reference_rounding(case, inputs[0]))
        )
        return [
            _measure_against(
                case, device, seconds, backend, attempts, inputs, exact,
                replace(row, baseline=baseline.name), baseline,
            )
            for baseline in against
        ]  # fmt: skip
    except Exception as error:  # a failure of these rows, and not of the whole run
        return unmeasured(row, error, against)


def _measure_against(case, device, seconds, backend, attempts, inputs, exact, row, baseline):
    """The row against one baseline, under its settings."""
    settings = settings_of(baseline.settings, backend)
    function = baseline.function(case)
    time_ours, time_baseline = _verify(case, inputs[0], settings, baseline, function, exact, row)
    if not time_baseline:
        return row
    other = (baseline.name, function, settings_of(baseline.settings, baseline.backend))
    sides = []
    for name, side_function, context in [(OURS, ours(case), settings)] * time_ours + [other]:
        with context():
            sides.append(Side(name, [make_call(side_function, i) for i in inputs], context))
    fill_times(row, baseline, time_sides(sides, device, seconds, attempts, row))
    if row.us is not None:
        _rates(row, case, row.us)
    return row
