"""The Triton kernels on problems of a few blocks, each result compared with the reference backend:
on a GPU, where they compile as they go, or with TRITON_INTERPRET=1 on the CPU.

    python tests/accept/triton_problems.py --results FILE.csv [--seconds S] [--workers N]

Every kernel with every dtype and layout comes first, then whatever else begins within the time. A
result is written as it is known. A problem that hangs, or takes the GPU's context with it, ends its
process alone.
"""

import argparse
import multiprocessing
import sys
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "emulator"))
import tiny_problems
from results_plugin import ResultsFile, context_is_lost

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

    def run(self):
        """What is wrong, or None."""
        backend = f"triton:{self.algorithm}" if self.algorithm else "triton"
        torch.backends.cudnn.allow_tf32 = self.math == "tf32"
        dtype = DTYPES[self.math]
        got = self.problem.run(backend, dtype, self.channels_last)
        return tiny_problems.wrong(self.problem, got, dtype, self.channels_last)


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


def outcome(case):
    """(outcome, seconds, reason)"""
    begin = time.perf_counter()
    try:
        wrong = case.run()
        word = "passed" if wrong is None else "failed"
    except NotImplementedError as reason:
        word, wrong = "skipped", str(reason).splitlines()[0]
    except Exception as error:  # whatever a compiler or a driver says
        word, wrong = "failed", f"{type(error).__name__}: {error}"
    return word, time.perf_counter() - begin, wrong or ""


def _serve(connection):
    """A worker's process: runs the cases that it is sent."""
    torch.set_num_threads(1)
    while True:
        result = outcome(connection.recv())
        lost = result[0] == "failed" and context_is_lost()
        connection.send((*result, lost))
        if lost:
            return


class Worker:
    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()  # or the end of the process would not be the end of the pipe

    def run(self, case):
        """((outcome, seconds, reason), whether it can run more)"""
        begin = time.perf_counter()
        try:
            self._connection.send(case)
            if self._connection.poll(MOST_SECONDS):
                *result, lost = self._connection.recv()
                return tuple(result), not lost
            reason = f"stopped after {MOST_SECONDS} s"
        except (EOFError, OSError):
            self._process.join(1)
            reason = f"its process ended with status {self._process.exitcode}"
        return ("failed", time.perf_counter() - begin, reason), False

    def stop(self):
        self._process.kill()
        self._process.join()
        self._connection.close()


def run_all(queue, results, seconds, workers):
    """Runs cases until they or the time are at an end. Returns {outcome: count}."""
    end, lock = time.monotonic() + seconds, threading.Lock()
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    remaining = iter(queue)

    def work():
        worker = Worker()
        while time.monotonic() < end:
            with lock:
                case = next(remaining, None)
            if case is None:
                break
            result, usable = worker.run(case)
            with lock:
                results.add(case.name, *result)
                counts[result[0]] += 1
            if not usable:
                worker.stop()
                worker = Worker()
        worker.stop()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
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
