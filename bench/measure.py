"""One case from inputs to rows: verify, then time against every baseline."""

import functools
import os
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, nullcontext
from typing import NamedTuple

import torch

import fastconv

from .._native import cuda
from ..backends import BACKENDS
from ..dispatch import recording
from .cases import DTYPES
from .load import OthersLoad, is_busy
from .operators import make_call, make_inputs, ours, theirs
from .record import Row
from .timing import Side, time_cpu
from .timing_cuda import input_sets, time_cuda
from .verify import exact_result, judge

OURS = "fastconv"


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


def _cudnn(layout, allow_tf32):
    # At its best in channels_last; in NCHW as most programs have it, with torch's defaults.
    return lambda: torch.backends.cudnn.flags(
        enabled=True,
        benchmark=layout == "channels_last",
        deterministic=False,
        allow_tf32=allow_tf32,
    )


class Baseline(NamedTuple):
    """What fastconv is timed against."""

    name: str
    settings: Callable  # () -> a context that holds for fastconv too, which follows allow_tf32
    function: Callable = theirs  # case -> a function of the inputs
    backend: str | None = None  # of fastconv, where that is the function


def baselines(case, device, backend=None):
    """The Baselines of a case; backend is the one of fastconv that is measured."""
    if device == "cpu":
        return [Baseline("torch", nullcontext)]
    if not case.op.startswith("conv2d"):
        found = [Baseline("ATen", nullcontext)]
    elif case.dtype == "float32":
        # torch's default lets cuDNN round float32 inputs to TF32's 10 bits: another precision,
        # hence another pair.
        found = [
            Baseline("cuDNN", _cudnn(case.layout, False)),
            Baseline("cuDNN TF32", _cudnn(case.layout, True)),
        ]
    else:
        found = [Baseline("cuDNN", _cudnn(case.layout, True))]
    if backend == "triton" and cuda is not None:
        name = OURS + " CUDA" + found[-1].name.removeprefix("cuDNN").removeprefix("ATen")
        found.append(Baseline(name, found[-1].settings, ours, "cuda"))
    return found


def _settings(settings, backend):
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
    return made.backend, plans.get(pass_, (None,))[0]


def _verify(case, inputs, settings, baseline, exact, row):
    """Runs both sides once and writes the verdict into the row.

    Args:
        settings: fastconv's.
        exact: a function that returns the result in float64.

    Returns (fastconv may be timed, the baseline may be timed).
    """
    try:
        with _settings(baseline.settings, baseline.backend)():
            baseline_result = make_call(baseline.function(case), inputs)()
    except RuntimeError as error:  # a dtype that torch has no kernel for, say
        row.status, row.reason = "no baseline", str(error).splitlines()[0]
        return False, False
    try:
        with settings(), recording() as decisions:
            result = make_call(ours(case), inputs)()
        row.backend, row.algorithm = _plan(decisions, case.pass_)
        if row.backend is None:  # torch must not be timed under our name
            row.status, row.reason = "no kernel", "no backend of fastconv ran the call"
            return False, True
    except NotImplementedError as error:
        row.status, row.reason = "no kernel", str(error).splitlines()[0]
        return False, True
    except Exception as error:  # whatever a kernel's caller may see is one row's failure
        row.status, row.reason = "failed", f"{type(error).__name__}: {error}"
        return False, True
    verdict = judge(result, baseline_result, exact())
    row.error, row.baseline_error = verdict.error, verdict.torch_error
    if verdict.wrong is not None:
        row.status, row.reason = "wrong", verdict.wrong
        return False, True
    return True, True


def _rates(row, case, us):
    element_size = DTYPES[case.dtype].itemsize
    row.tflops = case.shape.flops() / us / 1e6
    row.gbs = case.shape.bytes(element_size) / us / 1e3


def _time(sides, device, seconds, attempts, row):
    """Timings by side name: of the first attempt on a quiet machine, or else of the quietest."""
    if device == "cuda":
        return time_cuda(sides, seconds)
    timings = None
    for _ in range(attempts):
        with OthersLoad() as load:
            attempt = time_cpu(sides, seconds)
        if timings is None or load.cpus < row.others_cpus:
            timings, row.others_cpus = attempt, load.cpus
        if not is_busy(load.cpus):
            break
    return timings


def measure(case, device, seconds, backend=None, attempts=1):
    """The rows of a case, one a baseline.

    Args:
        device: "cpu" or "cuda"; on a GPU the current stream must not be the default one.
        seconds: measuring time for each side.
        backend: a backend of fastconv, None for its own choice.
        attempts: how often at most to time a case while other programs use the CPUs.
    """
    shape = case.shape
    row = Row(
        case.op, case.pass_, case.family, shape.model, shape.name, shape.problem, case.layout,
        case.dtype, torch.get_num_threads(), backend,
    )  # fmt: skip
    case_bytes = shape.bytes(DTYPES[case.dtype].itemsize)
    try:
        sets = 1
        if device == "cuda":
            sets = input_sets(case_bytes, device)
            row.input_sets = sets
        inputs = [make_inputs(case, device, seed) for seed in range(sets)]
        exact = functools.cache(lambda: exact_result(case, inputs[0]))
        return [
            _measure_against(case, device, seconds, backend, attempts, inputs, exact, row, baseline)
            for baseline in baselines(case, device, backend)
        ]
    except torch.OutOfMemoryError as error:
        row.status, row.reason = "no memory", str(error).splitlines()[0]
        return [row]


def _measure_against(case, device, seconds, backend, attempts, inputs, exact, row, baseline):
    """The row against one baseline, under its settings."""
    row = Row(**vars(row))
    row.baseline = baseline.name
    settings = _settings(baseline.settings, backend)
    time_ours, time_baseline = _verify(case, inputs[0], settings, baseline, exact, row)
    if not time_baseline:
        return row
    theirs_too = (baseline.name, baseline.function, _settings(baseline.settings, baseline.backend))
    sides = []
    for name, function, context in [(OURS, ours, settings)] * time_ours + [theirs_too]:
        with context():
            sides.append(Side(name, [make_call(function(case), i) for i in inputs], context))
    return _against(row, case, baseline.name, _time(sides, device, seconds, attempts, row))


def _against(row, case, name, timings):
    """The row with the times of fastconv, where it was timed, and of one baseline."""
    own, baseline = timings.get(OURS), timings[name]
    row.timer, row.note = baseline.method, baseline.note
    row.baseline_us, row.baseline_eager_us = baseline.median_us, baseline.eager_us
    row.baseline_page_faults = baseline.page_faults
    row.baseline_p20_us, row.baseline_p80_us = baseline.p20_us, baseline.p80_us
    if own is not None:
        row.us, row.p20_us, row.p80_us = own.median_us, own.p20_us, own.p80_us
        row.eager_us, row.page_faults = own.eager_us, own.page_faults
        row.x_baseline = baseline.median_us / own.median_us
        _rates(row, case, own.median_us)
    return row
