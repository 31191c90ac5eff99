"""The Triton kernels on problems of a few blocks, each result compared with the reference backend:
on a GPU, where they compile as they go, or with TRITON_INTERPRET=1 on the CPU.

    python tests/accept/triton_problems.py --results FILE.csv [--seconds S] [--workers N]

Every kernel with every dtype and layout comes first, then whatever else begins within the time. A
result is written as it is known. A problem that hangs, or takes the GPU's context with it, ends its
process alone.
"""

import argparse
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "emulator"))
import tiny_problems
from results_plugin import ResultsFile

from fastconv.selftest import children

DTYPES = {
    "bf16": torch.bfloat16,
    "tf32x3": torch.float32,
    "fp16": torch.float16,
    "tf32": torch.float32,
    "fp64": torch.float64,
}
ALGORITHMS = ("direct", "im2col", "implicit_gemm", "depthwise")
# (problem, algorithm): together they launch every kernel.
FIRST = (
    ("epilogue", "implicit_gemm"),
    ("split_gemm_k", "implicit_gemm"),
    ("dilated", "implicit_gemm"),
    ("strided", "direct"),
    ("grouped", "im2col"),
    ("depthwise_3x3", "depthwise"),
    ("max", None),
    ("avg", None),
    ("adaptive", None),
    ("adaptive_max", None),
)
MOST_SECONDS = 60  # of one problem
INCOMPLETE = 3  # exit status: all was well, but the time ended before FIRST did


@dataclass(frozen=True)
class Case:
    problem: object
    algorithm: str | None  # of a convolution
    math: str  # a key of DTYPES
    channels_last: bool

    @property
    def name(self):
        layout = "nhwc" if self.channels_last else "nchw"
        return "-".join(filter(None, (self.problem.name, self.algorithm, self.math, layout)))

    def run(self, report):
        """(outcome, reason, 1), as fastconv.selftest.children wants it."""
        report(self.name)
        backend = f"triton:{self.algorithm}" if self.algorithm else "triton"
        torch.backends.cudnn.allow_tf32 = self.math == "tf32"
        dtype = DTYPES[self.math]
        try:
            got = self.problem.run(backend, dtype, self.channels_last)
        except NotImplementedError as reason:
            return "skipped", str(reason).splitlines()[0], 0
        wrong = tiny_problems.wrong(self.problem, got, dtype, self.channels_last)
        return ("passed", "", 1) if wrong is None else ("failed", wrong, 1)


def cases():
    """(those that FIRST names, all others)"""
    problems = [(p, a) for p in tiny_problems.CONVS for a in ALGORITHMS]
    problems = [*problems, *((p, None) for p in tiny_problems.POOLS)]
    parts = [], []
    for math in DTYPES:
        for channels_last in (True, False):
            for problem, algorithm in problems:
                part = parts[(problem.name, algorithm) not in FIRST]
                part.append(Case(problem, algorithm, math, channels_last))
    return parts


def run_all(queue, results, seconds, workers):
    """Runs cases until they or the time are at an end. Returns {outcome: count}."""
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)

    def add(case, result):
        outcome = result.outcome if result.outcome in counts else "failed"
        results.add(case.name, outcome, result.seconds, result.reason)
        counts[outcome] += 1

    children.run_all(queue, add, MOST_SECONDS, workers, time.monotonic() + seconds)
    return counts


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--results", type=Path, required=True, help="a CSV, written line by line")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no case later")
    parser.add_argument("--workers", type=int, default=2, help="processes (default: 2)")
    options = parser.parse_args(argv)
    first, others = cases()
    results = ResultsFile(options.results)
    counts = run_all([*first, *others], results, options.seconds, options.workers)
    ran = sum(counts.values())
    words = ", ".join(f"{count} {outcome}" for outcome, count in counts.items())
    print(f"{words}, {len(first) + len(others) - ran} left for want of time")
    if counts["failed"] or not counts["passed"]:
        return 1
    return INCOMPLETE if ran < len(first) else 0


if __name__ == "__main__":
    sys.exit(main())
