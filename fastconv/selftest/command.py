"""`fastconv selftest`: every algorithm on small problems of integers, exactly, each in a process
that may hang or crash."""

import os
import sys
import time
from pathlib import Path

from ..bench.options import seconds

FAMILIES = ("cpu", "cuda", "triton")
SECONDS = 60.0
INCOMPLETE = 3  # exit status: all was right, but the time ended before the lines did


def add_options(parser):
    parser.add_argument(
        "--device",
        choices=FAMILIES,
        help="whose kernels: of the CPU, CUDA C++ or Triton; default: all that can run here",
    )
    parser.add_argument(
        "--only",
        metavar="TEXT",
        default="",
        help='the lines whose names hold TEXT, such as "implicit_gemm dgrad"',
    )
    parser.add_argument(
        "--time-limit",
        type=seconds,
        default=SECONDS,
        metavar="S",
        help=f"seconds after which a problem is said to hang (default: {SECONDS:g})",
    )
    parser.add_argument(
        "--seconds", type=seconds, metavar="S", help="begin no line later than after so many"
    )
    parser.add_argument("--json", type=Path, metavar="PATH", help="write the results there, too")


def run(options, command):
    """Prints the table. Returns 0 where all is right, 1 where something is wrong, hung or crashed,
    2 where nothing could run, INCOMPLETE where the time ended before."""
    begin = time.monotonic()
    os.environ["FASTCONV_SELFTEST"] = "0"  # the children run the kernels whatever they do
    from .cases import cases, why_nothing
    from .children import run_all
    from .report import BAD, as_json, line, summary

    skipped, chosen, results = {}, [], []
    for family in [options.device] if options.device else FAMILIES:
        if reason := why_nothing(family):
            skipped[family] = reason
        else:
            chosen += [case for case in cases(family) if options.only in case.name]

    def add(case, result):
        results.append((case, result))
        print(line(case, result), flush=True)

    until = begin + (options.seconds or float("inf"))
    run_all(chosen, add, options.time_limit, _workers(chosen), until)
    for family, reason in skipped.items():
        print(f"not run  {family}: {reason}")
    if options.json:
        options.json.write_text(as_json(results, skipped, command), encoding="utf-8")
    if not results:
        print("nothing to run", file=sys.stderr)
        return 2
    bad = [(case, result) for case, result in results if result.outcome in BAD]
    print(summary(results), *(line(*pair) for pair in bad), sep="\n")
    if len(results) < len(chosen):
        print(f"{len(chosen) - len(results)} lines left for want of time")
    return 1 if bad else 0 if len(results) == len(chosen) else INCOMPLETE


def _workers(cases):
    """Processes at a time: one to a device, but Triton's compiler and interpreter take most of
    their time on CPUs."""
    busy = any(case.family == "triton" for case in cases)
    return min(8, os.cpu_count() or 1) if busy else 1
