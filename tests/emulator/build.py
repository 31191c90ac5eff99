"""Builds the CUDA kernels for the CPU: csrc/cuda and its bindings, by g++ against include/.

    python tests/emulator/build.py [--sanitize address|thread] [--debug]

prints the path of a Python module with the interface of fastconv._cuda. Objects are kept in
FASTCONV_EMULATOR_CACHE (default: the user's cache folder) and rebuilt when a source changes.
"""

import argparse
import fcntl
import hashlib
import os
import platform
import shlex
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

HERE = Path(__file__).parent.resolve()
ROOT = HERE.parent.parent

FLAGS = [
    *("-std=c++20", "-fPIC", "-pthread"),
    # Symbols are visible, so that a kernel's name can be told, but belong to this module alone.
    *("-fno-gnu-unique", "-fno-semantic-interposition"),
    *("-Wall", "-Wextra", "-Werror=return-type"),
    # Kernels say #pragma unroll, which g++ does not know.
    "-Wno-unknown-pragmas",
    "-DFASTCONV_EMULATOR",
    # The matrix units' sums are in a fixed order; whether they are fused is the compiler's choice.
    "-ffp-contract=fast",
]
if platform.machine().lower() in ("x86_64", "amd64"):
    FLAGS.append("-march=x86-64-v3")
SANITIZERS = {
    None: ([], []),
    "address": (
        ["-fsanitize=address,undefined", "-fno-sanitize=vptr", "-fno-sanitize-recover=all"],
        [],
    ),
    # The runtime itself is not instrumented: runtime/sanitizers.h.
    "thread": (["-fsanitize=thread"], ["-fno-sanitize=all", "-DFASTCONV_EMULATOR_TSAN"]),
}


def cache_folder():
    if "FASTCONV_EMULATOR_CACHE" in os.environ:
        return Path(os.environ["FASTCONV_EMULATOR_CACHE"])
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    for parent in (Path(home), Path(tempfile.gettempdir())):
        folder = parent / "fastconv-emulator"
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError:
            continue
        if os.access(folder, os.W_OK):
            return folder
    raise SystemExit("fastconv: no writable cache folder; set FASTCONV_EMULATOR_CACHE")


def build(sanitize=None, debug=False, csrc=ROOT / "csrc"):
    """The emulated fastconv._cuda of the sources in csrc."""
    import pybind11

    csrc = Path(csrc).resolve()
    sources = [
        *sorted((csrc / "cuda" / "launch").glob("*.cu")),
        *sorted((csrc / "plan").glob("*.cpp")),
        *sorted((csrc / "bindings").glob("cuda_*.cpp")),
    ]
    includes = [f"-I{csrc}", f"-isystem{pybind11.get_include()}"]
    includes += [f"-isystem{sysconfig.get_path('include')}"]
    name = "_cuda" + sysconfig.get_config_var("EXT_SUFFIX")
    return _link(name, sources, includes, sanitize, debug)


def build_test_kernels(sanitize=None, debug=False):
    """A library for ctypes with the kernels that tests/test_emulator.py launches."""
    sources = sorted((HERE / "test_kernels").glob("*.cu"))
    return _link("test_kernels.so", sources, [], sanitize, debug)


def build_library(source):
    """A library for ctypes of one .cu outside of this folder."""
    return _link(f"{source.stem}.so", [source], [f"-I{ROOT / 'csrc'}"], None, False)


def _link(name, sources, includes, sanitize, debug):
    from ninja.ninja_syntax import Writer

    instrument, uninstrument = SANITIZERS[sanitize]
    # -O1: frames and lines stay recognisable in a report.
    optimise = ["-O0", "-g"] if debug else ["-O1", "-g"] if sanitize else ["-O2"]
    if sanitize:
        optimise.append("-fno-omit-frame-pointer")
    flags = [f"-I{HERE / 'include'}", *FLAGS, *optimise, *instrument, *includes]
    flags += shlex.split(os.environ.get("CXXFLAGS", ""))
    compiler = os.environ.get("CXX", "g++")

    key = repr([compiler, flags, name, str(HERE)])
    folder = cache_folder() / hashlib.sha256(key.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / name
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with open(folder / "build.ninja", "w") as file:
            out = Writer(file)
            out.variable("cxx", compiler)
            out.variable("flags", [shlex.quote(flag) for flag in flags])
            out.rule(
                "compile",
                "$cxx -MMD -MF $out.d $flags $extra -x c++ -c $in -o $out",
                depfile="$out.d",
                deps="gcc",
                description="compile $out",
            )
            # A new file, so that a process which has loaded the old one goes on.
            out.rule(
                "link",
                f"$cxx -shared {' '.join(instrument)} $in -o $out.new -pthread -ldl"
                " && mv $out.new $out",
                description="link $out",
            )
            objects = []
            for source in sources:
                object_name = f"{source.parent.name}_{source.stem}.o"
                objects += out.build(object_name, "compile", str(source))
            for source in sorted((HERE / "runtime").glob("*.cpp")):
                extra = [*uninstrument, *([] if debug else ["-O3"])]
                objects += out.build(
                    f"runtime_{source.stem}.o", "compile", str(source), variables={"extra": extra}
                )
            out.build(name, "link", objects)
        _run_ninja(folder, name)
    return target


def _run_ninja(folder, name):
    import ninja

    jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(folder), *jobs]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode != 0:
        raise SystemExit(f"{done.stdout}\nfastconv: building the emulated {name} failed")
    if "warning:" in done.stdout:
        print(done.stdout, file=sys.stderr)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sanitize", choices=["address", "thread"])
    parser.add_argument("--debug", action="store_true", help="-O0 -g, for gdb")
    parser.add_argument("--csrc", type=Path, default=ROOT / "csrc")
    options = parser.parse_args()
    print(build(options.sanitize, options.debug, options.csrc))


if __name__ == "__main__":
    main()
