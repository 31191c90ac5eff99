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
import shutil
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
    *("-Wall", "-Wextra", "-Werror=switch", "-Werror=return-type"),
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


def build(sanitize=None, debug=False, changed=None):
    """The emulated fastconv._cuda.

    changed: {path below csrc: text}, for a module in which these files have other texts. Objects
    that do not depend on them are taken from the usual build."""
    import pybind11

    csrc = ROOT / "csrc"
    sources = [
        *sorted((csrc / "cuda" / "launch").rglob("*.cu")),
        *sorted((csrc / "plan").glob("*.cpp")),
        csrc / "bindings" / "cuda_module.cpp",
    ]
    includes = [f"-I{csrc}", f"-isystem{pybind11.get_include()}"]
    includes += [f"-isystem{sysconfig.get_path('include')}"]
    name = "_cuda" + sysconfig.get_config_var("EXT_SUFFIX")
    return _link(name, sources, includes, sanitize, debug, changed)


def build_test_kernels(sanitize=None, debug=False):
    """A library for ctypes with the kernels that tests/cuda_kernels/test_emulator.py launches."""
    sources = sorted((HERE / "test_kernels").glob("*.cu"))
    return _link("test_kernels.so", sources, [], sanitize, debug)


def build_library(source):
    """A library for ctypes of one .cu outside of this folder."""
    return _link(f"{source.stem}.so", [source], [f"-I{ROOT / 'csrc'}"], None, False)


def _link(name, sources, includes, sanitize, debug, changed=None):
    instrument, uninstrument = SANITIZERS[sanitize]
    # -O1: frames and lines stay recognisable in a report.
    optimise = ["-O0", "-g"] if debug else ["-O1", "-g"] if sanitize else ["-O2"]
    if sanitize:
        optimise.append("-fno-omit-frame-pointer")
    flags = [f"-I{HERE / 'include'}", *FLAGS, *optimise, *instrument, *includes]
    flags += shlex.split(os.environ.get("CXXFLAGS", ""))
    runtime = [*uninstrument, *([] if debug else ["-O3"])]
    objects = {f"{source.parent.name}_{source.stem}.o": (source, []) for source in sources}
    for source in sorted((HERE / "runtime").glob("*.cpp")):
        objects[f"runtime_{source.stem}.o"] = source, runtime

    key = repr([compiler(), flags, name, str(HERE)])
    folder = cache_folder() / hashlib.sha256(key.encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        target = _run_ninja(folder, name, flags, instrument, objects)
        if not changed:
            return target
        stale = {ROOT / "csrc" / path for path in changed}
        kept = [n for n, files in _dependencies(folder).items() if not stale & files]
    return _link_changed(folder, name, flags, instrument, objects, changed, kept)


def _link_changed(usual, name, flags, instrument, objects, changed, kept):
    """Compiles the objects that are not `kept` of the usual build. The changed files are in a
    folder that the compiler searches first."""
    folder = usual / "changed" / hashlib.sha256(repr(changed).encode()).hexdigest()[:16]
    for path, text in changed.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    stale = {}
    for object_name in objects.keys() - set(kept):
        source, extra = objects[object_name]
        below = source.relative_to(ROOT)
        path = str(Path(*below.parts[1:]))
        stale[object_name] = folder / path if path in changed else source, extra
    others = [usual / object_name for object_name in kept]
    return _run_ninja(folder, name, [f"-I{folder}", *flags], instrument, stale, others)


def compiler():
    """$CXX, or g++ through ccache where that is installed."""
    return os.environ.get("CXX", "ccache g++" if shutil.which("ccache") else "g++")


def _run_ninja(folder, name, flags, instrument, objects, others=()):
    """Builds and returns folder/name from objects {name: (source, extra flags)}, which it compiles,
    and from `others`, which are object files."""
    import ninja
    from ninja.ninja_syntax import Writer

    with open(folder / "build.ninja", "w") as file:
        out = Writer(file)
        out.variable("cxx", compiler())
        out.variable("flags", [shlex.quote(flag) for flag in flags])
        out.rule(
            "compile",
            "$cxx -MMD -MF $out.d $flags $extra -x c++ -c $in -o $out",
            depfile="$out.d",
            deps="gcc",
            description="compiling $out",
        )
        # A new file, so that a process which has loaded the old one goes on.
        out.rule(
            "link",
            f"$cxx -shared {' '.join(instrument)} $in -o $out.new -pthread -ldl"
            " && mv $out.new $out",
            description="linking $out",
        )
        for object_name, (source, extra) in objects.items():
            out.build(object_name, "compile", str(source), variables={"extra": extra})
        out.build(name, "link", [*objects, *map(str, others)])
    jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(folder), *jobs]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as running:
        words = _show_progress(running.stdout)
    if running.returncode != 0:
        raise SystemExit(f"{words}\nfastconv: building the emulated {name} failed")
    if "warning:" in words:
        print(words, file=sys.stderr)
    return folder / name


def _show_progress(lines):
    """Writes ninja's lines "[3/43] compiling ..." to stderr while it runs; returns the others."""
    others = []
    for line in lines:
        if line.startswith("["):
            print(f"emulator: {line}", end="", file=sys.stderr, flush=True)
        else:
            others.append(line)
    return "".join(others)


def _dependencies(folder):
    """{object: the files it was compiled from} of a build."""
    import ninja

    command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(folder), "-t", "deps"]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = {}
    for block in listing.strip().split("\n\n"):
        head, *files = block.splitlines()
        # ccache may have made the paths relative.
        found[head.partition(":")[0]] = {(folder / file.strip()).resolve() for file in files}
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sanitize", choices=["address", "thread"])
    parser.add_argument("--debug", action="store_true", help="-O0 -g, for gdb")
    options = parser.parse_args()
    print(build(options.sanitize, options.debug))


if __name__ == "__main__":
    main()
