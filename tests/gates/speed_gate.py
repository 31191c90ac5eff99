"""The gate on loops: none may need more clocks for its work than the committed table says; neither
the main one, in an SM and through L2, nor those that fill shared memory and store results.

Tables are bench/results/static_sm80.csv and so on. Clocks are predicted (loop_speed.py).
"""

import csv

from cubins import ROOT
from loop_speed import blocks_per_sm, loop_speed

RESULTS = ROOT / "bench" / "results"
# Clocks for the same work may grow by this factor: nvcc orders a loop anew for reasons of its own.
MOST_GROWTH = 1.02
_WORK = "clk_per_kwork"
_WRITE = "write it with --csv bench/results"


def table_path(arch, folder=RESULTS):
    return folder / f"static_sm{arch}.csv"


def speed_columns(kernel, dynamic_smem):
    """What a kernel's line of the table says of its loops, rounded. Clocks are an SM's for a block
    of as many threads as the kernel is compiled for; bytes and FLOP are the block's."""
    speed = loop_speed(kernel)
    clocks = speed.clocks
    return {
        "dynamic_smem": dynamic_smem,
        "blocks_per_sm": blocks_per_sm(kernel, kernel.static_smem + dynamic_smem),
        **{f"loop_{pipe}": count for pipe, count in speed.counts.items()},
        "loop_flop": speed.flop,
        "loop_bytes": speed.bytes,
        "tensor_clk": round(clocks.tensor),
        "shared_clk": round(clocks.shared),
        "fma_clk": round(clocks.fma),
        "alu_clk": round(clocks.alu),
        "issue_clk": round(clocks.issue),
        "l2_clk": round(speed.l2_clocks),
        "limiter": speed.limiter,
        "share": round(speed.share, 3),
        _WORK: float(f"{speed.clocks_per_kwork:.4g}"),
        "once_clk": round(speed.once.clocks),
        "load_clk": round(speed.load.clocks),
        "load_bytes": speed.load.bytes,
        "store_clk": round(speed.store.clocks),
        "store_bytes": speed.store.bytes,
    }


def clocks_for_work(row):
    """{what a kernel does: clocks for 1000 FLOP or bytes of it}, of a line of the table."""
    found = {"its main loop": float(row[_WORK])}
    if flop := int(row["loop_flop"]):
        found["its main loop's way through L2"] = 1000 * float(row["l2_clk"]) / flop
    for name, side in (("filling shared memory", "load"), ("storing results", "store")):
        if moved := int(row[f"{side}_bytes"]):
            found[name] = 1000 * float(row[f"{side}_clk"]) / moved
    return found


def read_table(path):
    """{kernel: its clocks_for_work} of a committed table; empty where there is none."""
    if not path.exists():
        return {}
    with open(path, newline="") as file:
        return {row["kernel"]: clocks_for_work(row) for row in csv.DictReader(file)}


def slower(rows, committed):
    """[(kernel, why it fails)] of an arch's new rows against its committed table, as read."""
    failed = []
    for row in rows:
        before = committed.get(row["kernel"])
        if before is None:
            failed.append((row["kernel"], f"is in no committed table: {_WRITE}"))
            continue
        for what, clocks in clocks_for_work(row).items():
            if what in before and clocks > before[what] * MOST_GROWTH:
                reason = (
                    f"{what} takes {clocks:.4g} clocks a kFLOP or kB, {before[what]:.4g} before"
                )
                failed.append((row["kernel"], reason))
    gone = committed.keys() - {row["kernel"] for row in rows}
    return failed + [(name, f"is in the committed table and gone: {_WRITE}") for name in gone]
