"""What the machine code of the CUDA kernels must and must not hold, read from cubins.

Needs nvcc or a built module, but no GPU.

python tests/gates/static_gates.py [--module fastconv/_cuda.so] [--archs 80,90a] [--csv PATH]

prints a table of all kernels and exits with 1 where a gate fails:
- no spills: no stack frame, no local memory, no LDL or STL;
- __launch_bounds__, and few enough registers for the warps that the kernel needs on an SM;
- HMMA in every tensor-core kernel;
- 16-byte global loads (LDG.E.128 or LDGSTS.E.128), or 8-byte ones, in every kernel that calls
  itself vectorised;
- a line in KERNELS for every kernel.
"""

import argparse
import csv
import functools
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "csrc"), str(Path(__file__).parent)]

from fastconv_build.toolkit import find_tool  # noqa: E402
from sass import Function, read_functions  # noqa: E402

ARCHS = ("80", "90a")
REGISTERS_PER_SM, MAX_WARPS_PER_SM = 64 << 10, 64
REGISTER_UNIT = 256  # registers that a warp gets at a time


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
    Family(r"conv2d_(gather|wgrad)_direct\b", 16, vectorised=r"DirectTile<[^>]*>, true"),
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
    Family(r"implicit_gemm_pack_filters|\w*reduce", 32),
]


@functools.cache
def _enumerators():
    """{enum: its enumerators' names} of the plan, by which template arguments are numbered."""
    text = (ROOT / "csrc" / "plan" / "cuda_plan.h").read_text()
    text = re.sub(r"//.*", "", text)
    return {
        name: re.findall(r"\w+", body)
        for name, body in re.findall(r"enum class (\w+) \{([^}]*)\}", text)
    }


def _enumerator(match):
    """The name of "(GemmKernel)0"; "0" where the enum is not the plan's, as in "(int)7"."""
    names = _enumerators().get(match[1])
    return match[2] if names is None else names[int(match[2])]


@dataclass
class Kernel:
    file: str  # stem of the .cu, where known
    name: str  # demangled
    arch: str
    registers: int
    stack: int
    local: int
    static_smem: int
    threads: int = 0  # __launch_bounds__; 0 without
    code_bytes: int = 0
    counts: Counter = field(default_factory=Counter)
    code: Function | None = None
    loop_spills: int = 0  # LDL and STL between a backward branch and its target

    @property
    def short_name(self):
        """The kernel's name without return type, namespaces and parameters."""
        name = re.sub(r"(\(anonymous namespace\)|fastconv|cuda)::", "", self.name)
        name = re.sub(r"^void ", "", name).rsplit("(", 1)[0]
        name = re.sub(r"\((\w+)\)(\d+)", _enumerator, name)
        return re.sub(r"(Gather)<GemmConfig<[^<>]*>\s*>", r"\1", name).replace(" >", ">")

    @property
    def warps_per_sm(self):
        """How many warps, in whole blocks, have room for their registers on an SM."""
        if self.threads == 0 or self.registers == 0:
            return 0
        per_warp = -(-self.registers * 32 // REGISTER_UNIT) * REGISTER_UNIT
        warps = min(REGISTERS_PER_SM // per_warp, MAX_WARPS_PER_SM)
        per_block = -(-self.threads // 32)
        return warps // per_block * per_block


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


def run(*command, cwd=None):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, cwd=cwd)
    if done.returncode != 0:
        raise RuntimeError(f"{shlex.join(map(str, command))} failed:\n{done.stdout}{done.stderr}")
    return done.stdout


def _demangle(names):
    """{mangled name: demangled name}; the mangled ones again where there is no demangler."""
    tool = find_tool("cu++filt") or shutil.which("c++filt")
    if tool is None or not names:
        return {name: name for name in names}
    done = subprocess.run([tool], input="\n".join(names), capture_output=True, text=True)
    return dict(zip(names, done.stdout.splitlines(), strict=True))


def _resources(cubin):
    """{mangled name: (registers, stack, shared, local)}"""
    found, name = {}, None
    for line in run(find_tool("cuobjdump"), "-res-usage", cubin).splitlines():
        if match := re.match(r"\s*Function (\S+):", line):
            name = match[1]
        elif match := re.match(r"\s*REG:(\d+) STACK:(\d+) SHARED:(\d+) LOCAL:(\d+)", line):
            found[name] = tuple(map(int, match.groups()))
    return found


def _opcode_keys(opcode):
    """The names under which an instruction is counted."""
    base, *modifiers = opcode.split(".")
    if base in ("LDG", "LDGSTS", "STG"):
        return [base, *(f"{base}.{width}" for width in ("64", "128") if width in modifiers)]
    return [base]


def _disassemble(cubin, kernels):
    """Sets the threads, code, instruction counts and spills of kernels ({mangled name: Kernel})."""
    functions = read_functions(run(find_tool("nvdisasm"), cubin))
    for name, kernel in kernels.items():
        if (code := functions.get(name)) is None:
            continue
        kernel.code = code
        kernel.threads, kernel.code_bytes = code.threads, code.code_bytes
        for instruction in code.instructions:
            kernel.counts.update(_opcode_keys(instruction.opcode))
        kernel.loop_spills = _loop_spills(code)


def _loop_spills(code):
    """LDL and STL between a backward branch and its target, each counted once, in however many
    loops it is."""
    spills = [i.address for i in code.instructions if i.base in ("LDL", "STL")]
    loops = [
        (code.labels[label], branch.address)
        for branch in code.instructions
        if branch.base == "BRA"
        for label in branch.targets
        if code.labels.get(label, branch.address) < branch.address
    ]
    return sum(any(begin <= spill < end for begin, end in loops) for spill in spills)


def read_cubin(cubin, file, arch):
    """The Kernels of a cubin."""
    resources = _resources(cubin)
    names = _demangle(list(resources))
    kernels = {
        mangled: Kernel(file, names[mangled], arch, registers, stack, local, shared)
        for mangled, (registers, stack, shared, local) in resources.items()
    }
    _disassemble(cubin, kernels)
    return list(kernels.values())


def kernels_of_module(module, archs=ARCHS):
    """{arch: Kernels} of a built fastconv._cuda, for the archs that it holds machine code for."""
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        run(find_tool("cuobjdump"), "-xelf", "all", Path(module).resolve(), cwd=folder)
        for cubin in sorted(Path(folder).glob("*.cubin")):
            arch = cubin.name.split(".")[-2].removeprefix("sm_")
            if arch in archs:
                found.setdefault(arch, []).extend(read_cubin(cubin, "", arch))
    return found


def compile_kernels(sources, archs, folder):
    """{arch: Kernels}, compiled by nvcc into a folder; files there that are up to date are kept."""
    import ninja
    from ninja.ninja_syntax import Writer

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "build.ninja", "w") as file:
        out = Writer(file)
        out.rule(
            "cubin",
            f"{shlex.quote(find_tool('nvcc'))} -std=c++20 -O3 -I{shlex.quote(str(ROOT / 'csrc'))} "
            "-gencode=arch=compute_$arch,code=sm_$arch -MMD -MF $out.d -cubin $in -o $out",
            depfile="$out.d",
            deps="gcc",
        )
        for source in sources:
            for arch in archs:
                out.build(
                    f"{source.stem}.{arch}.cubin",
                    "cubin",
                    str(source.resolve()),
                    variables={"arch": arch},
                )
    run(Path(ninja.BIN_DIR) / "ninja", "-C", folder)
    return {
        arch: [
            kernel
            for source in sources
            for kernel in read_cubin(folder / f"{source.stem}.{arch}.cubin", source.stem, arch)
        ]
        for arch in archs
    }


def launch_sources():
    return sorted((ROOT / "csrc" / "cuda" / "launch").rglob("*.cu"))


def is_current(module):
    """Whether a built module is younger than every file its kernels are made of."""
    folders = [ROOT / "csrc" / name for name in ("cuda", "problem", "plan")]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return Path(module).stat().st_mtime > max(path.stat().st_mtime for path in files)


READERS = ("cuobjdump", "nvdisasm")


def missing_tool(tools=("nvcc", *READERS)):
    """The first tool that is missing, or None."""
    return next((name for name in tools if not find_tool(name)), None)


COUNTS = ("HMMA", "LDGSTS.128", "LDGSTS", "LDSM", "LDG.128", "LDG", "STG.128", "FFMA", "IMAD")


def row(kernel):
    """A kernel's line of the table."""
    return {
        "kernel": kernel.short_name,
        "arch": f"sm_{kernel.arch}",
        "threads": kernel.threads,
        "registers": kernel.registers,
        "warps_per_sm": kernel.warps_per_sm,
        "static_smem": kernel.static_smem,
        "stack": kernel.stack,
        "spills": kernel.counts["LDL"] + kernel.counts["STL"],
        **{name: kernel.counts[name] for name in COUNTS},
        "code_bytes": kernel.code_bytes,
        "verdict": "; ".join(judge(kernel)) or "ok",
    }


def write_csv(path, rows):
    """Sorts by architecture and kernel."""
    rows = sorted(rows, key=lambda r: (r["arch"], r["kernel"]))
    if not rows:
        raise ValueError("there are no kernels")
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def summary(kernels):
    """Lines: the totals of each arch, then every kernel that fails."""
    lines = []
    for arch in dict.fromkeys(kernel.arch for kernel in kernels):
        own = [kernel for kernel in kernels if kernel.arch == arch]
        failed = sum(bool(judge(kernel)) for kernel in own)
        lines.append(
            f"sm_{arch}: {len(own)} kernels, {sum(k.code_bytes for k in own) / 2**20:.2f} MiB of "
            f"code, at most {max(k.registers for k in own)} registers, "
            f"{sum(k.counts['HMMA'] > 0 for k in own)} on tensor cores, {failed} fail"
        )
    for kernel in kernels:
        for reason in judge(kernel):
            lines.append(f"sm_{kernel.arch} {kernel.short_name}: {reason}")
    return lines


def collect(archs=ARCHS, module=None, folder=ROOT / "build" / "static_gates"):
    """Kernels of all archs: of the built module where it has them and is current, else compiled."""
    found = {}
    if module is not None and is_current(module):
        found = kernels_of_module(module, archs)
    if missing := [arch for arch in archs if arch not in found]:
        found |= compile_kernels(launch_sources(), missing, folder)
    return [kernel for arch in archs for kernel in found[arch]]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--module", help="a built fastconv._cuda, to save compiling")
    parser.add_argument("--archs", default=",".join(ARCHS), help=f"default: {','.join(ARCHS)}")
    parser.add_argument("--csv", help="write the table there")
    options = parser.parse_args()
    if tool := missing_tool():
        raise SystemExit(f"{tool} was found neither on PATH, in CUDA_HOME nor in Python's packages")
    kernels = collect(options.archs.split(","), options.module)
    if options.csv:
        write_csv(options.csv, map(row, kernels))
    print("\n".join(summary(kernels)))
    return int(any(map(judge, kernels)))


if __name__ == "__main__":
    sys.exit(main())
