"""`fastconv bench`: exit status 0, or 1 where a result is wrong or a line failed, or 2 for a bad
request, or 130 after Ctrl-C."""

import os
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..dispatch import get_backend
from .cases.calls import select_calls
from .cases.selection import LAYOUTS, select_cases, select_shapes
from .measure import networks
from .measure.baselines import Baseline, baselines, why_impossible
from .measure.calls import measure_call
from .measure.ceilings import Ceilings
from .measure.measure import measure, no_fallback
from .measure.record import environment
from .measure.results_file import ResultsFile
from .measure.timing import keep_pages
from .options import KNOWN_PASSES
from .report.console import print_header, print_plan, print_report
from .report.json_rows import write_json

# How often at most a line is timed that other programs disturb.
ATTEMPTS = 4


@dataclass(frozen=True)
class Part:
    """One part of the bench and its file of results."""

    measure: Callable  # measure.measure or one with its arguments
    seconds: float  # measuring time for each side of a line
    quick_seconds: float
    batches: dict  # device -> values of N; None: those of the CSVs
    quick_batches: dict
    layouts: tuple = tuple(LAYOUTS)
    threads: int | None = None  # None: torch's
    has_roofline: bool = True  # whether its times are held against the device's ceilings


PARTS = {
    "layers": Part(measure, 0.4, 0.1, {"cpu": [1, 8], "cuda": None}, {"cpu": [1], "cuda": [32]}),
    "pools": Part(measure, 0.4, 0.1, {"cpu": [1, 8], "cuda": None}, {"cpu": [1], "cuda": [32]}),
    "ops": Part(measure, 0.4, 0.1, {"cpu": [8], "cuda": [32]}, {"cpu": [1], "cuda": [32]}),
    "shapes": Part(measure, 0.4, 0.1, {"cpu": [], "cuda": []}, {"cpu": [], "cuda": []}),
    "models": Part(
        networks.measure_network,
        4,
        0.3,
        {"cpu": [8], "cuda": [8]},
        {"cpu": [1], "cuda": [1]},
        has_roofline=False,
    ),
    "calls": Part(
        measure_call,
        0.2,
        0.1,
        {"cpu": [1], "cuda": [1]},
        {"cpu": [1], "cuda": [1]},
        layouts=("nchw",),
        threads=1,
        has_roofline=False,
    ),
}


@dataclass(frozen=True)
class Line:
    """A case of a part and what it is to be held against."""

    part: str
    case: object
    threads: int
    against: list[Baseline]


class BadRequest(Exception):
    """What cannot be done, in one line that names the argument."""


def _cases(part, device, options):
    quick, defaults = options.quick, PARTS[part]
    batches = options.batch or (defaults.quick_batches if quick else defaults.batches)[device]
    layouts = options.layout or defaults.layouts
    passes = options.passes or KNOWN_PASSES
    words = [word.strip() for word in options.filter.split(",") if word.strip()]
    wanted = (layouts, passes, options.dtype, words, quick)
    if part == "models":
        return networks.select_networks(batches, options.image_size, *wanted)
    if part == "calls":
        return select_calls(batches, *wanted)
    if part == "shapes":
        return select_shapes(options.shape, *wanted[:-1])
    return select_cases(batches, *wanted, [part])


def _plan(device, options):
    """All Lines that are asked for. Raises BadRequest where one of them is impossible."""
    parts = list(dict.fromkeys(options.parts or ([] if options.shape else ("layers", "pools"))))
    parts += ["shapes"] * bool(options.shape)
    if parts == ["shapes"] and options.batch:
        raise BadRequest("--batch: a --shape has its own n")
    if "models" in parts and (other := set(options.dtype) - set(networks.DTYPES)):
        raise BadRequest(f"--dtype {min(other)}: models take {' and '.join(networks.DTYPES)} only")
    try:
        get_backend(options.backend)
    except ValueError as error:
        raise BadRequest(f"--backend: {error}") from None
    if reason := why_impossible(options.baseline or (), device):
        raise BadRequest(f"--baseline {reason}")
    lines = [
        Line(part, case, threads, baselines(case, device, options.backend, options.baseline))
        for part in parts
        for threads in options.threads or [PARTS[part].threads or torch.get_num_threads()]
        for case in _cases(part, device, options)
    ]
    if not lines:
        narrowing = {
            "--filter": options.filter,
            "--passes": options.passes,
            "--quick": options.quick,
        }
        given = " and ".join(name for name, value in narrowing.items() if value)
        together = " together" if " and " in given else ""
        raise BadRequest(f"nothing to time: no line fits {given}{together}")
    return lines


def _open_results(parts, folder, where, options):
    """{part: its ResultsFile}, before minutes are spent on what cannot be written."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        results = {
            part: ResultsFile(
                folder / f"{part}.csv",
                where,
                options.fresh,
                disturbed_limit=options.disturbed_limit,
            )
            for part in parts
        }
    except OSError as error:
        raise BadRequest(f"--out: {error}") from None
    for path in (folder, *(one.path for one in results.values() if one.path.exists())):
        if not os.access(path, os.W_OK):
            raise BadRequest(f"--out: cannot write to {path}")
    return results


def _seconds(line, options):
    """Measuring time for each side of a line."""
    part = PARTS[line.part]
    return options.seconds or (part.quick_seconds if options.quick else part.seconds)


def _least_seconds(lines, options):
    """What measuring lines takes at least: each side's time and a fifth of it to warm up."""
    return sum(1.2 * _seconds(line, options) * (len(line.against) + 1) for line in lines)


def _missing(lines, results, options):
    """The lines that lack rows, each with those of its baselines alone that have none yet."""
    for line in lines:
        file, seconds = results[line.part], _seconds(line, options)
        if against := file.missing(line.case, line.threads, options.backend, line.against, seconds):
            yield replace(line, against=against)


def _ceilings(lines, device, dtypes):
    """{number of threads: Ceilings} of the lines that are held against them."""
    ceilings = {}
    lines = [line for line in lines if PARTS[line.part].has_roofline]
    for threads in dict.fromkeys(line.threads for line in lines):
        torch.set_num_threads(threads)
        ceilings[threads] = Ceilings.measured(device, dtypes)
    return ceilings


def _measure_all(lines, results, device, options, where, ceilings):
    """Measures the lines and adds their rows to the results, line by line."""
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
    attempts = 1 if options.quick else ATTEMPTS
    with progress, stream, no_fallback():
        task = progress.add_task("", total=len(lines))
        for line in lines:
            case, part = line.case, PARTS[line.part]
            name = f"{case.model} {case.layer} {case.pass_} {case.layout} {line.threads} threads"
            progress.update(task, description=name)
            torch.set_num_threads(line.threads)
            seconds = _seconds(line, options)
            rows = part.measure(
                case,
                device,
                seconds,
                options.backend,
                attempts,
                line.against,
                options.disturbed_limit,
            )
            roof = {}
            if part.has_roofline:
                ceilings[line.threads].fill(rows, case)
                roof = ceilings[line.threads].as_dict()
            results[line.part].add(rows, where | dict.fromkeys(Ceilings.columns()) | roof)
            progress.advance(task)


def _run(device, options, command_line):
    lines = _plan(device, options)
    console = Console(stderr=options.json == "-")
    if options.list:
        print_plan(console, lines, _least_seconds(lines, options))
        return 0
    if options.json not in (None, "-") and not Path(options.json).resolve().parent.is_dir():
        raise BadRequest(f"--json: there is no folder {Path(options.json).parent}")
    where = environment(device) | {"command": command_line}
    results = _open_results(
        dict.fromkeys(line.part for line in lines),
        Path(options.out),
        where | dict.fromkeys(Ceilings.columns()),
        options,
    )
    missing = list(_missing(lines, results, options))
    # Before keep_pages: the memory of these large tensors is to be given back.
    ceilings = _ceilings(missing, device, options.dtype)
    print_header(
        console,
        where,
        " and ".join(dict.fromkeys(str(line.threads) for line in lines)),
        len(lines),
        len(lines) - len(missing),
        pages_kept=device != "cpu" or keep_pages(),
    )
    _measure_all(missing, results, device, options, where, ceilings)
    found = [
        (results[line.part], line.case, line.threads, options.backend, baseline)
        for line in lines
        for baseline in line.against
    ]
    rows = [file.get(*which) for file, *which in found]
    print_report(console, rows)
    console.print(f"results: {options.out}", soft_wrap=True, highlight=False)
    if options.json:
        records = [file.record(row) for (file, *_), row in zip(found, rows)]
        write_json(options.json, where, records)
    return 1 if any(row.is_failure for row in rows) else 0


def run(options, command_line):
    """Runs the bench that parsed options ask for and returns the exit status.

    Args:
        command_line: what a user would type for it, for the record.
    """
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    threads = torch.get_num_threads()
    try:
        return _run(device, options, command_line)
    except BadRequest as error:
        print(f"fastconv bench: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(
            f"fastconv bench: interrupted; {options.out} has what was measured, the same command "
            "goes on with the rest",
            file=sys.stderr,
        )
        return 130
    finally:
        torch.set_num_threads(threads)
