"""Runs every CUDA kernel on tiny problems under a sanitizer, on the CPU.

    python tests/emulator/sanitize.py address|thread [-k part-of-a-name] [--list]

address: out-of-bounds accesses of global and shared memory, and undefined behaviour.
thread:  races between threads of a block, and between blocks. Each CUDA thread is a fiber to
         ThreadSanitizer, so a missing barrier is a report whether or not the result is wrong.

Exits with an error on any report, wrong result, or if no kernel ran.
"""

import argparse
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent.resolve()
sys.path.insert(0, str(HERE.parent))
from emulator import build  # noqa: E402 (by this name, since PyPI has a "build" as well)

RUNTIME = {"address": "libasan.so", "thread": "libtsan.so"}
OPTIONS = {
    # Python itself does not free everything before it exits.
    "address": {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1"},
    # Only accesses of kernels are of interest; a CUDA thread needs little history.
    "thread": {"TSAN_OPTIONS": "ignore_noninstrumented_modules=1 history_size=0 exitcode=66"},
}


def _library(name):
    compiler = os.environ.get("CXX", "g++")
    command = [compiler, f"-print-file-name={name}"]
    path = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    if not os.path.isabs(path):
        raise SystemExit(f"fastconv: {compiler} has no {name}")
    return path


def sanitizer_environment(sanitize):
    """What a Python process must be started with to load a module that build() instrumented."""
    # libstdc++ too: the sanitizer looks up the functions of exceptions when it starts.
    libraries = [_library(RUNTIME[sanitize]), _library("libstdc++.so.6")]
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    return {**os.environ, **OPTIONS[sanitize], **threads, "LD_PRELOAD": " ".join(libraries)}


def sanitizer_command(sanitize):
    """The command that starts Python; without random addresses for ThreadSanitizer, which
    before g++ 14 gives up where they are too random."""
    if sanitize == "thread" and shutil.which("setarch"):
        return ["setarch", "-R", sys.executable]
    return [sys.executable]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("sanitizer", choices=RUNTIME)
    parser.add_argument("-k", default="", metavar="PART", help="only problems whose name has PART")
    parser.add_argument("--seed", default="0", help="schedule, see FASTCONV_EMULATOR_SEED")
    parser.add_argument("--list", action="store_true", help="only print the problems' names")
    options = parser.parse_args()
    env = sanitizer_environment(options.sanitizer)
    env["FASTCONV_CUDA_MODULE"] = str(build.build(options.sanitizer))
    env["FASTCONV_EMULATOR_SEED"] = options.seed
    command = [*sanitizer_command(options.sanitizer), str(HERE / "tiny_problems.py"), options.k]
    command += ["--list"] if options.list else []
    # In another folder: Python must not find an uncompiled fastconv in this one.
    raise SystemExit(subprocess.run(command, env=env, cwd=HERE).returncode)


if __name__ == "__main__":
    main()
