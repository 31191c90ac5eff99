"""`python -m fastconv.bench.sweep --out FOLDER --seconds S`: the layers and pools of the CSVs on a
GPU, our CUDA against cuDNN and ATen, our Triton against these and our CUDA, the most telling lines
first, for as long as there is time.

Writes layers.csv and pools.csv line by line, so that a sweep that is cut off leaves what it has;
the next one with the same commit and device goes on where it ended. Needs no extras."""

import argparse
import csv
import sys
import time
from pathlib import Path

import torch

from ..backends.triton_launch import unusable_reason
from .cases import DTYPES, PASSES, QUICK, select_cases
from .measure import measure, no_fallback
from .record import append_csv, environment
from .roofline import Ceilings

SECONDS_PER_SIDE = 0.04
# What two runs must share for one to go on with the other's file.
SAME = ("device", "commit", "torch", "fastconv")


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


def key(case, backend):
    """What tells one line from the others, in a file too."""
    return (backend, case.op, case.pass_, case.layout, case.dtype, case.shape.problem)


def finished(path, where):
    """Keys of the cases that a file of an earlier run holds; a file of another commit, device or
    version is removed."""
    try:
        with open(path, newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError:
        return set()
    if any(row.get(name) != str(where[name] or "") for row in rows for name in SAME):
        Path(path).unlink()
        return set()
    names = ("backend", "op", "pass", "layout", "dtype", "problem")
    return {tuple(row[name] for name in names) for row in rows}


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
    ceilings = Ceilings.measured() if device == "cuda" else None
    if ceilings is not None:
        print(ceilings, flush=True)
        where |= ceilings.as_dict()
    paths = {True: Path(folder, "layers.csv"), False: Path(folder, "pools.csv")}
    done = {is_conv: finished(path, where) for is_conv, path in paths.items()}
    measured = left = failures = 0
    for case, backend in jobs:
        is_conv = case.op.startswith("conv2d")
        if key(case, backend) in done[is_conv]:
            continue
        if time.perf_counter() > end:
            left += 1
            continue
        rows = measure(case, device, seconds_per_side, backend)
        for row in rows:
            if ceilings is not None and row.us:
                row.roofline_percent = 100 * ceilings.floor_us(case, row) / row.us
            print(_line(row), flush=True)
        append_csv(paths[is_conv], rows, where)
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
    dtypes = [name for name in DTYPES if name in ("bfloat16", "float32")]
    cases = select_cases(None, ["channels_last", "nchw"], PASSES, dtypes)
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
