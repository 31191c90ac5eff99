"""What the machine code of the Triton kernels must and must not hold, compiled ahead of time.

Needs triton, cuobjdump and nvdisasm, but no GPU.

python tests/gates/triton_gates.py [--archs 80,90] [--kernels REGEX] [--exhaustive] [--csv PATH]

prints a summary and exits with 1 where a gate fails:
- no spills in a loop, and few elsewhere: ptxas spills some values around a loop where that makes
  room for one more block on an SM, and keeps them in registers where maxnreg is given;
- HGMMA on sm_90, HMMA on sm_80, in every kernel that multiplies on tensor cores; HMMA, too, on
  sm_90 where a tile has fewer rows than HGMMA;
- few enough registers for the warps that the kernel needs on an SM;
- shared memory that every GPU since compute capability 8.0 has;
- 16-byte (or 8-byte) global accesses where tensors are channels_last with 16s of channels;
- a line in KERNELS for every kernel, and a launch of every kernel of triton_kernels.

The instances that are compiled are those that calls of the package launch (triton_launches.py).
With --exhaustive they are all, else so many that for each kernel every tile, alignment and constant
parameter is compiled with every dtype that it is launched with.
"""

import argparse
import multiprocessing
import os
import re
import sys
import tempfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)
ROOT = Path(__file__).resolve().parents[2]
os.environ.setdefault("TRITON_CACHE_DIR", str(ROOT / "build" / "triton_gates"))

sys.path.append(str(ROOT / "tests"))
import cubins  # noqa: E402
import triton  # noqa: E402
import triton_launches  # noqa: E402
from static_gates import write_csv  # noqa: E402
from triton.backends.compiler import GPUTarget  # noqa: E402
from triton.compiler import ASTSource  # noqa: E402

ARCHS = ("80", "90")
# Bytes of a block: compute capabilities 8.6, 8.9 and 12.0 have the least.
SHARED_LIMIT = 99 << 10
HGMMA_ROWS = 64
# LDL and STL outside of loops, per thread.
MOST_SPILLS = 12


@dataclass(frozen=True)
class Family:
    """The limits for kernels whose name matches `names`."""

    names: str  # a regular expression
    min_warps: int  # on an SM, as far as registers go
    tensor_cores: bool = False
    loads: int = 0  # bytes of the widest global load in aligned instances, at least
    stores: int = 0


# As in static_gates.py: two warps for each of an SM's schedulers.
KERNELS = [
    Family(r"conv2d_(wgrad_)?implicit_gemm", 8, tensor_cores=True, loads=16, stores=16),
    Family(r"conv2d_(gather|wgrad)_direct", 8),
    Family(r"conv2d_[fd](prop|grad)_depthwise", 8, loads=8, stores=8),
    Family(r"conv2d_wgrad_depthwise", 8, loads=8),
    Family(r"conv2d_(im2col|col2im)", 8, loads=8, stores=8),
    Family(r"epilogue_forward", 16, loads=8, stores=8),
    Family(r"epilogue_backward", 8, loads=8),
    Family(r"epilogue_bias_reduce", 16),
    Family(r"pool2d_reduce", 8, loads=8),
    Family(r"pool2d_avg_bwd", 8, stores=8),
    Family(r"pool2d_(max_bwd|max_bwd_cells|avg_bwd_cells)", 8, loads=8, stores=8),
    Family(r"split_k_reduce", 24),
]
NOTHING = cubins.Kernel("", "", "", 0, 0, 0, 0)


@dataclass
class Compiled:
    """An instance's machine code for an architecture."""

    instance: triton_launches.Instance
    arch: str
    shared: int
    code: cubins.Kernel
    error: str = ""

    @property
    def label(self):
        i = self.instance
        words = " ".join(f"{name}={value}" for name, value in i.words.items())
        return f"{i.name} {i.dtype} {words} {i.options['num_warps']}w{i.options['num_stages']}s"


def judge(compiled):
    """What an instance fails by: a list of words, empty where it passes."""
    if compiled.error:
        return [compiled.error]
    instance, code = compiled.instance, compiled.code
    wrong, counts = [], code.counts
    if not code.code_bytes:
        wrong.append("its instructions were not found")
    spills = counts["LDL"] + counts["STL"]
    if code.loop_spills or spills > MOST_SPILLS:
        wrong.append(f"{spills} spills, {code.loop_spills} of them in loops")
    if compiled.shared > SHARED_LIMIT:
        wrong.append(f"{compiled.shared} bytes of shared memory, {SHARED_LIMIT} are there")
    family = next((f for f in KERNELS if re.fullmatch(f.names, instance.name)), None)
    if family is None:
        return [*wrong, "no line of KERNELS in tests/gates/triton_gates.py knows it"]
    if code.warps_per_sm < family.min_warps:
        wrong.append(
            f"{code.registers} registers leave room for {code.warps_per_sm} warps on an SM, "
            f"needs {family.min_warps}"
        )
    if family.tensor_cores and instance.dtype != "fp64":
        wide = compiled.arch == "90" and instance.words["BLOCK_M"] >= HGMMA_ROWS
        if not counts["HGMMA" if wide else "HMMA"]:
            wrong.append(f"no {'HGMMA' if wide else 'HMMA'}")
    if instance.aligned:
        for bytes_, names in (family.loads, ("LDG", "LDGSTS")), (family.stores, ("STG",)):
            widths = [w for w in (64, 128) if w >= 8 * bytes_]
            if bytes_ and not any(counts[f"{name}.{w}"] for name in names for w in widths):
                wrong.append(f"aligned, but has no {bytes_}-byte {' or '.join(names)}")
    return wrong


def _compile(index, arch):
    """(bytes of shared memory, Kernel), or the words of an error."""
    instance = _instances[index]
    source = ASTSource(instance.kernel, instance.signature, instance.constants, instance.attributes)
    target = GPUTarget("cuda", int(arch), 32)
    try:
        done = triton.compile(source, target=target, options=instance.options)
    except Exception as error:  # whatever it is, the other instances are to be told about too
        return f"does not compile: {error}"
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(done.asm["cubin"])
        file.flush()
        (code,) = cubins.read_cubin(file.name, "", arch)
    code.threads = 32 * instance.options["num_warps"]
    return done.metadata.shared, code


def compile_all(instances, archs=ARCHS):
    """Compiled, of every instance and architecture, by as many processes as there are cores."""
    global _instances
    _instances = instances  # which forked processes inherit
    jobs = [(index, arch) for arch in archs for index in range(len(instances))]
    with ProcessPoolExecutor(mp_context=multiprocessing.get_context("fork")) as pool:
        results = pool.map(_compile, *zip(*jobs))
        return [
            Compiled(
                instances[index],
                arch,
                *((0, NOTHING, result) if isinstance(result, str) else result),
            )
            for (index, arch), result in zip(jobs, results)
        ]


COUNTS = (
    *("HGMMA", "HMMA", "LDGSTS.128", "LDGSTS.64", "LDGSTS", "LDG.128", "LDG.64", "LDG"),
    *("STG.128", "STG.64", "STG", "BAR", "FFMA", "FADD", "DFMA", "IMAD"),
)


def row(compiled):
    """An instance's line of the table."""
    instance, code = compiled.instance, compiled.code
    return {
        "kernel": instance.name,
        "arch": f"sm_{compiled.arch}",
        "dtype": instance.dtype,
        "constants": " ".join(f"{name}={value}" for name, value in instance.words.items()),
        "aligned": int(instance.aligned),
        "warps": instance.options["num_warps"],
        "stages": instance.options["num_stages"],
        "registers": code.registers,
        "warps_per_sm": code.warps_per_sm,
        "shared": compiled.shared,
        "stack": code.stack,
        "spills": code.counts["LDL"] + code.counts["STL"],
        "loop_spills": code.loop_spills,
        **{name: code.counts[name] for name in COUNTS},
        "code_bytes": code.code_bytes,
        "verdict": "; ".join(judge(compiled)) or "ok",
        "first_call": instance.seen,
    }


def summary(compiled):
    """Lines: the totals of each kernel and arch, then every instance that fails."""
    lines = []
    groups = {}
    for one in compiled:
        groups.setdefault((one.arch, one.instance.name), []).append(one)
    for (arch, name), own in sorted(groups.items()):
        registers = [one.code.registers for one in own]
        lines.append(
            f"sm_{arch} {name}: {len(own)} instances, {min(registers)} to {max(registers)} "
            f"registers, at most {max(one.shared for one in own)} bytes of shared memory, "
            f"{sum(bool(judge(one)) for one in own)} fail"
        )
    for one in compiled:
        for reason in judge(one):
            lines.append(f"sm_{one.arch} {one.label}: {reason} ({one.instance.seen})")
    return lines


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--archs", default=",".join(ARCHS), help=f"default: {','.join(ARCHS)}")
    parser.add_argument("--kernels", default=".", help="names of kernels, a regular expression")
    parser.add_argument("--exhaustive", action="store_true", help="all instances, many minutes")
    parser.add_argument("--csv", help="write the table there")
    options = parser.parse_args()
    if tool := cubins.missing_tool(cubins.READERS):
        raise SystemExit(f"{tool} was found neither on PATH, in CUDA_HOME nor in Python's packages")
    instances = triton_launches.record()
    never = triton_launches.never_launched(instances)
    if not options.exhaustive:
        instances = triton_launches.representatives(instances)
    instances = [one for one in instances if re.search(options.kernels, one.name)]
    compiled = compile_all(instances, options.archs.split(","))
    if options.csv:
        rows = sorted(map(row, compiled), key=lambda row: (row["arch"], row["kernel"]))
        write_csv(options.csv, rows)
    print("\n".join(summary(compiled)))
    for name in never:
        print(f"{name}: no recorded call launches it")
    return int(bool(never) or any(map(judge, compiled)))


if __name__ == "__main__":
    sys.exit(main())
