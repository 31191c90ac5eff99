"""`python -m fastconv.bench.sweep --out FOLDER --seconds S`: the layers and pools of the CSVs on a
GPU, our CUDA against cuDNN and ATen, our Triton against these and our CUDA, the most telling lines
first, for as long as there is time. With --device cpu it rehearses this with a few small cases.

Writes layers.csv and pools.csv line by line, so that a sweep that is cut off leaves what it has;
the next one with the same commit and device goes on where it ended. Needs no extras."""

import argparse
import contextlib
import sys
import time
from pathlib import Path

import torch

from ..backends.base import is_convolution
from ..backends.triton.launch import unusable_reason
from .cases.selection import LAYOUTS, PASSES, QUICK, select_cases
from .measure.baselines import baselines
from .measure.ceilings import Ceilings
from .measure.measure import measure, no_fallback
from .measure.record import environment
from .measure.results_file import ResultsFile

SECONDS_PER_SIDE = 0.04
# bfloat16 channels_last is a network at its fastest, float32 NCHW torch's default.
KINDS = (
    *(("bfloat16", "channels_last"), ("float32", "nchw")),
    *(("float32", "channels_last"), ("bfloat16", "nchw")),
    *(("float16", "channels_last"), ("float16", "nchw")),
    *(("float64", "channels_last"), ("float64", "nchw")),
)
TIMED_DTYPES = tuple(dict.fromkeys(dtype for dtype, _ in KINDS))
CPU_WORDS = ("resnet18 l4.3x3", "resnet18 gap7x7")  # in the titles of the rehearsal's cases


def first_layers(cases):
    """The names of layers that go first: QUICK, and one of each family that has no layer there."""
    quick = {case.shape.family for case in cases if case.shape.layer in QUICK}
    others = {}
    for case in cases:
        if case.shape.family not in quick:
            others.setdefault(case.shape.family, case.shape.layer)
    return QUICK | set(others.values())


def in_order(cases, backends):
    """(case, backend), what tells most before the rest: the first layers of each family before the
    others, the batch of 32 before 128, CUDA before Triton, dtypes and layouts as in KINDS."""
    first = first_layers(cases)

    def importance(job):
        case, backend = job
        kind = KINDS.index((case.dtype, case.layout))
        return case.shape.layer not in first, case.shape.N > 32, backend, kind

    return sorted(((case, name) for name in backends for case in cases), key=importance)


def _line(row):
    ratio = f"{row.x_baseline:.2f}x" if row.x_baseline else "-"
    share = f"{row.roofline_percent:.0f}%" if row.roofline_percent else "-"
    us = f"{row.us:.1f} us" if row.us else "-"
    wrong = "" if row.status == "ok" else f"{row.status}: {row.reason}"
    return (
        f"{row.backend} {row.op} {row.pass_} {row.layout} {row.dtype} {row.problem} "
        f"{row.algorithm or '-'} {us} {ratio} {row.baseline} {share} {wrong}".rstrip()
    )


def sweep(jobs, folder, seconds, device="cuda", seconds_per_side=SECONDS_PER_SIDE):
    """Measures what fits into so many seconds. Returns (lines measured, lines left, failures).

    Args:
        jobs: (case, name of the backend), in order.
    """
    end = time.perf_counter() + seconds
    where = environment(device)
    ceilings = Ceilings.measured(device, TIMED_DTYPES)
    print(ceilings, flush=True)
    where |= ceilings.as_dict()
    # The acceptance run may leave two files of results, and no older ones.
    paths = (Path(folder, name) for name in ("layers.csv", "pools.csv"))
    layers, pools = (ResultsFile(path, where, keep_others=False) for path in paths)
    threads = torch.get_num_threads()
    measured = left = failures = 0
    for case, backend in jobs:
        results = layers if is_convolution(case.op) else pools
        against = baselines(case, device, backend)
        against = results.missing(case, threads, backend, against, seconds_per_side)
        if not against:
            continue
        if time.perf_counter() > end:
            left += 1
            continue
        rows = measure(case, device, seconds_per_side, backend, against=against)
        ceilings.fill(rows, case)
        for row in rows:
            print(_line(row), flush=True)
        results.add(rows, where)
        measured += 1
        failures += sum(row.is_failure for row in rows)
    return measured, left, failures


def _backends():
    if reason := unusable_reason("cuda"):
        print(f"no Triton: {reason}", flush=True)
        return ["cuda"]
    return ["cuda", "triton"]


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m fastconv.bench.sweep")
    parser.add_argument("--out", type=Path, required=True, help="folder of layers.csv, pools.csv")
    parser.add_argument("--seconds", type=float, required=True, help="when to begin no more lines")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    options = parser.parse_args(argv)
    on_gpu = options.device == "cuda"
    if on_gpu and not torch.cuda.is_available():
        print("torch sees no CUDA device here", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    which = {"batches": None} if on_gpu else {"batches": [1], "words": CPU_WORDS}
    cases = select_cases(**which, layouts=list(LAYOUTS), passes=PASSES, dtypes=TIMED_DTYPES)
    # A CUDA graph cannot be captured on the default stream.
    stream = torch.cuda.stream(torch.cuda.Stream()) if on_gpu else contextlib.nullcontext()
    with stream, no_fallback():
        jobs = in_order(cases, _backends() if on_gpu else ["cpu"])
        measured, left, failures = sweep(jobs, options.out, options.seconds, options.device)
    print(f"{measured} lines measured, {left} left for want of time, {failures} failures")
    return 1 if failures or measured == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
