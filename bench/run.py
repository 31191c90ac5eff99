"""`fastconv bench`: exit status 0, or 1 where a result is wrong, or 2 for a bad request."""

import os
import sys
from contextlib import nullcontext

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..dispatch import get_backend
from .cases import select_cases
from .measure import measure, no_fallback
from .record import environment, write_csv, write_json
from .report import print_header, print_report
from .timing import keep_pages

DEFAULT_SECONDS, QUICK_SECONDS = 0.4, 0.1
# Times a line is timed at most, for want of a quiet machine.
BUSY_ATTEMPTS = 4


def _default_batches(device, quick):
    if device == "cpu":
        return [1] if quick else [1, 8]
    return [32] if quick else None


def _stop(message):
    print(f"fastconv bench: {message}", file=sys.stderr)
    return 2


def _check_paths(*paths):
    """The first path that cannot be written to, before minutes are spent on results; or None."""
    for path in filter(None, paths):
        folder = os.path.dirname(os.path.abspath(path))
        if os.path.isdir(path) or not os.access(folder, os.W_OK):
            return path
    return None


def _measure_all(cases, device, options, seconds):
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
    )
    # A CUDA graph cannot be captured on the default stream.
    stream = torch.cuda.stream(torch.cuda.Stream()) if device == "cuda" else nullcontext()
    attempts = 1 if options.quick else BUSY_ATTEMPTS
    rows = []
    with progress, stream, no_fallback():
        task = progress.add_task("", total=len(cases))
        for case in cases:
            progress.update(task, description=f"{case.shape.layer} {case.pass_} {case.layout}")
            rows += measure(case, device, seconds, options.backend, attempts)
            progress.advance(task)
    return rows


def run(options):
    """Runs the bench that parsed options ask for and returns the exit status."""
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    words = [word.strip() for word in options.filter.split(",") if word.strip()]
    batches = options.batch or _default_batches(device, options.quick)
    cases = select_cases(
        batches, options.layout, options.passes, options.dtype, words, options.quick
    )
    if not cases:
        return _stop("nothing to time: no line fits --filter, --passes and --quick together")
    if unwritable := _check_paths(options.json, options.csv):
        return _stop(f"cannot write to {unwritable}")
    try:
        get_backend(options.backend)
    except ValueError as error:
        return _stop(str(error))
    thread_counts = options.threads or [torch.get_num_threads()]
    where = environment(device)
    console = Console()
    print_header(
        console,
        where,
        " and ".join(map(str, thread_counts)),
        len(cases) * len(thread_counts),
        pages_kept=device != "cpu" or keep_pages(),
    )
    seconds = options.seconds or (QUICK_SECONDS if options.quick else DEFAULT_SECONDS)
    rows = []
    for threads in thread_counts:
        torch.set_num_threads(threads)
        rows += _measure_all(cases, device, options, seconds)
    print_report(console, rows)
    if options.json:
        write_json(options.json, rows, where)
    if options.csv:
        write_csv(options.csv, rows, where)
    return 1 if any(row.is_failure for row in rows) else 0
