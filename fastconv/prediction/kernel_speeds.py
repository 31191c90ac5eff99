"""What the machine code of each kernel issues, as tests/gates/static_gates.py wrote it into
bench/results/static_sm80.csv and static_sm90a.csv."""

import csv
import functools
from dataclasses import dataclass
from pathlib import Path

import torch

from .. import bench

# The names of element types among template arguments.
TYPE_NAMES = {
    torch.float64: "double",
    torch.float32: "float",
    torch.float16: "__half",
    torch.bfloat16: "__nv_bfloat16",
}

_UNITS = ("tensor", "shared", "fma", "alu", "issue")
_PIPES = ("tensor", "shared", "global", "fma", "integer", "control")


@dataclass(frozen=True)
class KernelSpeed:
    """A kernel as it was compiled for one architecture. Clocks are an SM's for a block of so many
    threads, bytes and FLOP are the block's."""

    name: str
    threads: int
    blocks_per_sm: int  # blocks on an SM, as far as registers and shared memory known go
    loop_instructions: int  # of one warp in a turn of the main loop
    loop_flop: int
    loop_bytes: int
    clocks: dict  # unit -> clocks of a turn
    once_clocks: float  # before and after the loops
    load_clocks: float  # of a turn of the loop that fills shared memory, 0 without one
    load_bytes: int
    store_clocks: float  # of a turn of the loop that stores results, 0 without one
    store_bytes: int

    @property
    def loop_clocks(self):
        return max(self.clocks.values())

    @property
    def unit(self):
        """The unit that is busy the longest in a turn."""
        return max(self.clocks, key=self.clocks.get)

    @property
    def arguments(self):
        """The template arguments: those of templates inside are taken apart, too."""
        text = self.name.partition("<")[2]
        return [part.strip(" >") for part in text.replace("<", ",").split(",")]


def _read(row):
    return KernelSpeed(
        row["kernel"],
        int(row["threads"]),
        int(row["blocks_per_sm"]),
        sum(int(row[f"loop_{pipe}"]) for pipe in _PIPES),
        int(row["loop_flop"]),
        int(row["loop_bytes"]),
        {unit: float(row[f"{unit}_clk"]) for unit in _UNITS},
        float(row["once_clk"]),
        float(row["load_clk"]),
        int(row["load_bytes"]),
        float(row["store_clk"]),
        int(row["store_bytes"]),
    )


@functools.cache
def _speeds(arch):
    path = Path(bench.__file__).parent / "results" / f"static_sm{arch}.csv"
    with open(path, newline="") as file:
        return [_read(row) for row in csv.DictReader(file)]


@functools.cache
def kernel_speed(arch, kernel, *arguments):
    """The KernelSpeed of an instance.

    Args:
        arch: "80" or "90a".
        kernel: "conv2d_implicit_gemm".
        arguments: words that its template arguments must hold in this order, others in between:
            "bf16", "tile128x64", "VectorGather". An argument may go on after a word with "_".
    Raises:
        LookupError: the table has none. Of several it is the one whose name is the shortest.
    """
    found = [
        speed
        for speed in _speeds(arch)
        if speed.name.partition("<")[0] == kernel and _holds(speed.arguments, arguments)
    ]
    if not found:
        wanted = f"{kernel}<{', '.join(arguments)}>"
        raise LookupError(f"static_sm{arch}.csv has no kernel {wanted}: write it anew")
    return min(found, key=lambda speed: len(speed.name))


def _holds(arguments, words):
    rest = iter(arguments)
    return all(any(f"{argument}_".startswith(f"{word}_") for argument in rest) for word in words)
