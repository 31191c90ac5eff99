"""`python -m fastconv.bench.sweep --out FOLDER --seconds S`: the layers and pools of the CSVs on a
GPU, our CUDA against cuDNN and ATen, our Triton against these and our CUDA, the most telling lines
first, for as long as there is time.

Writes layers.csv and pools.csv line by line, so that a sweep that is cut off leaves what it has;
the next one with the same commit and device goes on where it ended. Needs no extras."""

import argparse
import sys
import time
from pathlib import Path

import torch

from ..backends.triton_launch import unusable_reason
from .baselines import baselines
from .cases import PASSES, QUICK, select_cases
from .measure import measure, no_fallback
from .record import environment
from .resume import Results
from .roofline import Ceilings

SECONDS_PER_SIDE = 0.04
TIMED_DTYPES = ("float32", "bfloat16")


def importance(job):
    """Sorts (case, backend): one layer of each family before all layers, CUDA before Triton, the
    batch of 32 before 128; within that bfloat16 channels_last (a network at its fastest), then
    float32 NCHW (torch's default)."""
    case, backend = job
    shape = case.shape
    kinds = [("bfloat16", "channels_last"), ("float32", "nchw"), ("float32", "channels_last")]
    kind = (case.dtype, case.layout)
    return (
        shape.layer not in QUICK,
        backend,
        shape.N > 32,
        kinds.index(kind) if kind in kinds else len(kinds),
    )


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
    layers, pools = (Results(path, where, keep_others=False) for path in paths)
    threads = torch.get_num_threads()
    measured = left = failures = 0
    for case, backend in jobs:
        results = layers if case.op.startswith("conv2d") else pools
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


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m fastconv.bench.sweep")
    parser.add_argument("--out", type=Path, required=True, help="folder of layers.csv, pools.csv")
    parser.add_argument("--seconds", type=float, required=True, help="when to begin no more lines")
    options = parser.parse_args(argv)
    if not torch.cuda.is_available():
        print("torch sees no CUDA device here", file=sys.stderr)
        return 2
    options.out.mkdir(parents=True, exist_ok=True)
    cases = select_cases(None, ["channels_last", "nchw"], PASSES, TIMED_DTYPES)
    backends = ["cuda"]
    if reason := unusable_reason("cuda"):
        print(f"no Triton: {reason}", flush=True)
    else:
        backends.append("triton")
    jobs = sorted(((case, name) for name in backends for case in cases), key=importance)
    # A CUDA graph cannot be captured on the default stream.
    with torch.cuda.stream(torch.cuda.Stream()), no_fallback():
        measured, left, failures = sweep(jobs, options.out, options.seconds)
    print(f"{measured} lines measured, {left} left for want of time, {failures} failures")
    return 1 if failures or measured == 0 else 0


if __name__ == "__main__":
    sys.exit(main())
