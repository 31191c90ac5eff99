"""Builds fastconv's native modules through ninja. Metadata is in pyproject.toml.

fastconv._core is always built: problems, plans and CPU kernels. A kernel file is compiled once for
each instruction set, into a namespace named after it (csrc/cpu/isa.h). fastconv._cuda will be built
where an nvcc is found: FASTCONV_CUDA=auto|0|1, FASTCONV_CUDA_ARCHS=80,90a,...
"""

import os
import platform
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent.resolve()

CXX_FLAGS = [
    *("-std=c++20", "-O3", "-fPIC", "-fvisibility=hidden"),
    # Contraction to fused multiply-adds is what the kernels' inner loops live on.
    "-ffp-contract=fast",
    # No kernel reads errno or floating-point traps; without this rounding loops do not vectorise.
    "-fno-math-errno",
    "-fno-trapping-math",
    *("-Wall", "-Wextra"),
]
# Compiled for every instruction set.
KERNELS = """
    activation.cpp conv2d_depthwise.cpp conv2d_direct.cpp conv2d_im2col.cpp kernel_table.cpp
    pool2d_avg.cpp pool2d_max.cpp
""".split()
AVX2 = ["-mavx2", "-mfma", "-mf16c"]
AVX512 = [*AVX2, "-mavx512f", "-mavx512bw", "-mavx512dq", "-mavx512vl", "-mprefer-vector-width=512"]
INSTRUCTION_SETS = {"baseline": []}
if platform.machine().lower() in ("x86_64", "amd64"):
    INSTRUCTION_SETS |= {"avx2": AVX2, "avx512": AVX512}
# FASTCONV_INSTRUCTION_SETS=baseline,avx2 narrows the build; baseline is always there.
if "FASTCONV_INSTRUCTION_SETS" in os.environ:
    wanted = {"baseline", *os.environ["FASTCONV_INSTRUCTION_SETS"].split(",")}
    if not wanted <= INSTRUCTION_SETS.keys():
        raise SystemExit(f"fastconv: FASTCONV_INSTRUCTION_SETS must be of {[*INSTRUCTION_SETS]}")
    INSTRUCTION_SETS = {name: INSTRUCTION_SETS[name] for name in INSTRUCTION_SETS if name in wanted}


def cuda_status():
    """Why fastconv._cuda is not built, for fastconv.info(). SystemExit if it was demanded."""
    wanted = os.environ.get("FASTCONV_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"fastconv: FASTCONV_CUDA must be auto, 0 or 1, got {wanted!r}")
    if wanted == "0":
        return "built with FASTCONV_CUDA=0"
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    if shutil.which("nvcc") or shutil.which("nvcc", path=f"{home}/bin"):
        status = "this version of fastconv has no CUDA kernels yet"
    else:
        status = "no nvcc was found on PATH or in CUDA_HOME when fastconv was built"
    if wanted == "1":
        raise SystemExit(f"fastconv: FASTCONV_CUDA=1, but {status}")
    return status


def core_compilations():
    """(source, object name, extra flags) of every compilation of fastconv._core."""
    csrc = ROOT / "csrc"
    kernels = {csrc / "cpu" / name for name in KERNELS}
    for isa, flags in INSTRUCTION_SETS.items():
        for source in sorted(kernels):
            yield source, f"{source.stem}.{isa}.o", [f"-DFASTCONV_ISA={isa}", *flags]
    portable = ["-DFASTCONV_ISA=baseline", f"'-DFASTCONV_CUDA_STATUS=\"{cuda_status()}\"'"]
    portable += [f"-DFASTCONV_HAS_{isa.upper()}" for isa in INSTRUCTION_SETS]
    for folder in ("bindings", "cpu", "plan"):
        for source in sorted(set((csrc / folder).glob("*.cpp")) - kernels):
            if source.name.startswith("cuda_") and folder == "bindings":
                continue  # fastconv._cuda
            yield source, f"{folder}_{source.stem}.o", portable


class NinjaBuild(build_ext):
    """Writes build.ninja and runs it: parallel, incremental, and a failing compile is an error."""

    def build_extension(self, ext):
        import ninja
        import pybind11
        from ninja.ninja_syntax import Writer

        build_dir = Path(self.build_temp).resolve() / ext.name
        build_dir.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        includes = [f"-I{ROOT / 'csrc'}"]
        includes += [f"-isystem{path}" for path in (pybind11.get_include(), *self.include_dirs)]

        with open(build_dir / "build.ninja", "w") as file:
            out = Writer(file)
            out.variable("cxx", os.environ.get("CXX", "c++"))
            out.variable("user_flags", os.environ.get("CXXFLAGS", ""))
            out.variable("flags", [*CXX_FLAGS, *map(shlex.quote, includes)])
            out.rule(
                "compile",
                "$cxx -MMD -MF $out.d $flags $extra $user_flags -c $in -o $out",
                depfile="$out.d",
                deps="gcc",
                description="compile $out",
            )
            link = "-bundle -undefined dynamic_lookup" if sys.platform == "darwin" else "-shared"
            out.rule("link", f"$cxx {link} $in -o $out -pthread", description="link $out")
            objects = []
            for source, name, extra in core_compilations():
                objects += out.build(name, "compile", str(source), variables={"extra": extra})
            out.build(str(target), "link", objects)

        jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
        command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(build_dir), *jobs]
        if subprocess.run(command, check=False).returncode != 0:
            raise SystemExit(
                f"fastconv: building {ext.name} failed; the compiler's output is above"
            )


setup(
    ext_modules=[Extension("fastconv._core", sources=[])],
    cmdclass={"build_ext": NinjaBuild},
)
