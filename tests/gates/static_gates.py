"""What the machine code of the CUDA kernels must and must not hold, read from cubins.

Needs nvcc or a built module, but no GPU.

python tests/gates/static_gates.py [--module fastconv/_cuda.so] [--archs 80,90a] [--csv FOLDER]

prints a table of all kernels and exits with 1 where a gate fails:
- no spills: no stack frame, no local memory, no LDL or STL;
- __launch_bounds__, and few enough registers for the warps that the kernel needs on an SM;
- HMMA in every tensor-core kernel;
- 16-byte global loads (LDG.E.128 or LDGSTS.E.128), or 8-byte ones, in every kernel that calls
  itself vectorised;
- a line in KERNELS for every kernel;
- no loop that takes more clocks for its work than bench/results/static_sm*.csv say, which --csv
  bench/results writes anew (speed_gate.py).
"""

import argparse
import csv
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from cubins import ARCHS, collect, missing_tool
from shared_bytes import dynamic_shared_bytes
from speed_gate import RESULTS, read_table, slower, speed_columns, table_path


@dataclass(frozen=True)
class Family:
    """The limits for kernels whose demangled name begins with a match of `names`."""

    names: str  # a regular expression
    min_warps: int  # on an SM, as far as registers go
    tensor_cores: bool = False
    vectorised: str | None = None  # a regular expression: which instances have such loads:
    access: int = 128  # bits


# Template arguments of vectorised instances: a type, and how many of it are 16 bytes.
_VECTORS = r"(__half|__nv_bfloat16|short), 8\b|(float|int), 4\b|(double|long), 2\b"
# Memory-bound kernels hide latency with warps; those that compute from registers and shared memory
# need the four schedulers fed: two warps each, or four where operands come from shared memory.
KERNELS = [
    Family(r"conv2d_(wgrad_)?implicit_gemm\b", 8, tensor_cores=True, vectorised=r"VectorGather"),
    Family(r"conv2d_(fprop_stem|grouped|wgrad_grouped)_gemm\b", 12, tensor_cores=True),
    Family(r"conv2d_(gather|wgrad)_direct\b", 16, vectorised=r"DirectTile<[^>]*>, true"),
    Family(r"conv2d_fprop_stem<double", 8),
    Family(r"conv2d_fprop_stem\b", 16),
    Family(r"conv2d_(fprop|dgrad|wgrad)_depthwise<\w+, \(?(int\))?7", 12, vectorised="."),
    Family(r"conv2d_(fprop|dgrad|wgrad)_depthwise<", 16, vectorised="."),
    Family(r"conv2d_(fprop|dgrad)_depthwise_vectors<float, [35]", 16, vectorised=".", access=64),
    # 7x7, and wgrad of 5x5, have vectors of two channels.
    Family(
        r"conv2d_\w+_depthwise_vectors<",
        12,
        vectorised=r"<float|, 3,|(fprop|dgrad).*, 5,",
        access=64,
    ),
    Family(r"conv2d_(fprop|dgrad|wgrad)_depthwise_generic\b", 16),
    Family(r"pool2d_\w+", 32, vectorised=_VECTORS),
    Family(r"epilogue_\w+|conv2d_(im2col|col2im)\b", 32, vectorised=_VECTORS),
    Family(r"implicit_gemm_pack_filters|pack_source|\w*reduce", 32),
]


def judge(kernel):
    """What a kernel fails by: a list of words, empty where it passes."""
    wrong, counts = [], kernel.counts
    if kernel.stack or kernel.local or counts["LDL"] or counts["STL"]:
        wrong.append(
            f"spills: stack {kernel.stack} B, local {kernel.local} B, {counts['LDL']} LDL, "
            f"{counts['STL']} STL"
        )
    if kernel.threads == 0:
        wrong.append("no __launch_bounds__")
    family = next((f for f in KERNELS if re.match(f.names, kernel.short_name)), None)
    if family is None:
        return [*wrong, "no line of KERNELS in tests/gates/static_gates.py knows it"]
    if kernel.threads and kernel.warps_per_sm < family.min_warps:
        wrong.append(
            f"{kernel.registers} registers leave room for {kernel.warps_per_sm} warps on an SM, "
            f"needs {family.min_warps}"
        )
    if family.tensor_cores and not counts["HMMA"]:
        wrong.append("no HMMA")
    if family.vectorised and re.search(family.vectorised, kernel.short_name):
        if not counts[f"LDG.{family.access}"] + counts[f"LDGSTS.{family.access}"]:
            wrong.append(f"vectorised, but has no {family.access // 8}-byte global load")
    return wrong


COUNTS = ("HMMA", "LDGSTS.128", "LDGSTS", "LDSM", "LDG.128", "LDG", "STG.128", "FFMA", "IMAD")


def row(kernel, dynamic_smem=0):
    """A kernel's line of the table."""
    return {
        "kernel": kernel.short_name,
        "threads": kernel.threads,
        "registers": kernel.registers,
        "warps_per_sm": kernel.warps_per_sm,
        "static_smem": kernel.static_smem,
        "spills": kernel.counts["LDL"] + kernel.counts["STL"],
        **{name: kernel.counts[name] for name in COUNTS},
        "code_bytes": kernel.code_bytes,
        **speed_columns(kernel, dynamic_smem),
        "verdict": "; ".join(judge(kernel)) or "ok",
    }


def rows_by_arch(kernels):
    """{arch: lines of its table}, sorted by kernel."""
    dynamic = dynamic_shared_bytes(kernel.name for kernel in kernels)
    rows = {kernel.arch: [] for kernel in kernels}
    for kernel in sorted(kernels, key=lambda kernel: kernel.short_name):
        rows[kernel.arch].append(row(kernel, dynamic.get(kernel.name, 0)))
    return rows


def write_csv(path, rows):
    """Writes lines, of which there must be one at least."""
    rows = list(rows)
    if not rows:
        raise ValueError("there are no kernels")
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def failures(kernels, rows, tables=RESULTS):
    """{(arch, kernel): why it fails}; `tables` is the folder of the committed ones, None to compare
    with none."""
    failed = {}
    for kernel in kernels:
        for reason in judge(kernel):
            failed.setdefault((kernel.arch, kernel.short_name), []).append(reason)
    for arch in rows if tables else ():
        committed = read_table(table_path(arch, tables))
        for name, reason in slower(rows[arch], committed):
            failed.setdefault((arch, name), []).append(reason)
    return failed


def summary(kernels, failed):
    """Lines: the totals of each arch, then every failure."""
    lines = []
    for arch in dict.fromkeys(kernel.arch for kernel in kernels):
        own = [kernel for kernel in kernels if kernel.arch == arch]
        lines.append(
            f"sm_{arch}: {len(own)} kernels, {sum(k.code_bytes for k in own) / 2**20:.2f} MiB of "
            f"code, at most {max(k.registers for k in own)} registers, "
            f"{sum(k.counts['HMMA'] > 0 for k in own)} on tensor cores, "
            f"{sum(of == arch for of, _ in failed)} fail"
        )
    for (arch, name), reasons in failed.items():
        lines += [f"sm_{arch} {name}: {reason}" for reason in reasons]
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", help="a built fastconv._cuda, to save compiling")
    parser.add_argument("--archs", default=",".join(ARCHS), help=f"default: {','.join(ARCHS)}")
    parser.add_argument("--csv", type=Path, metavar="FOLDER", help="write the tables there")
    options = parser.parse_args()
    if tool := missing_tool():
        raise SystemExit(f"{tool} was found neither on PATH, in CUDA_HOME nor in Python's packages")
    kernels = collect(options.archs.split(","), options.module)
    rows = rows_by_arch(kernels)
    for arch in rows if options.csv else ():
        write_csv(table_path(arch, options.csv), rows[arch])
    failed = failures(kernels, rows, options.csv or RESULTS)
    print("\n".join(summary(kernels, failed)))
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
