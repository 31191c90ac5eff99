"""`fastconv bench`: exit status 0, or 1 where a result is wrong or a line failed, or 2 for a bad
request, or 130 after Ctrl-C."""

import os
import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .lines import PARTS, BadRequest, least_seconds, plan_lines, seconds_of
from .measure.ceilings import Ceilings
from .measure.gpu_state import gpu_state
from .measure.measure import no_fallback
from .measure.record import environment
from .measure.results_file import ResultsFile
from .measure.timing import keep_pages
from .report.console import print_header, print_plan, print_report
from .report.json_rows import write_json

# How often at most a line is timed that other programs disturb.
ATTEMPTS = 4


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


def _missing(lines, results, options):
    """The lines that lack rows, each with those of its baselines alone that have none yet."""
    for line in lines:
        file, seconds = results[line.part], seconds_of(line, options)
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


def _measured(line, device, options):
    """The rows of a line."""
    rows = PARTS[line.part].measure(
        line.case,
        device,
        seconds_of(line, options),
        options.backend,
        1 if options.quick else ATTEMPTS,
        line.against,
        options.disturbed_limit,
    )
    if device == "cuda":
        state = gpu_state()
        rows = [replace(row, **state) for row in rows]
    return rows


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
    with progress, stream, no_fallback():
        task = progress.add_task("", total=len(lines))
        for line in lines:
            case = line.case
            name = f"{case.model} {case.layer} {case.pass_} {case.layout} {line.threads} threads"
            progress.update(task, description=name)
            torch.set_num_threads(line.threads)
            rows = _measured(line, device, options)
            roof = {}
            if PARTS[line.part].has_roofline:
                ceilings[line.threads].fill(rows, case)
                roof = ceilings[line.threads].as_dict()
            results[line.part].add(rows, where | dict.fromkeys(Ceilings.columns()) | roof)
            progress.advance(task)


def _run(device, options, command_line):
    lines = plan_lines(device, options)
    console = Console(stderr=options.json == "-")
    if options.list:
        print_plan(console, lines, least_seconds(lines, options))
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
