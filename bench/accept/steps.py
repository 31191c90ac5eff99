"""What each step runs. A step is a function (place, seconds, output) that returns None, or what
went wrong."""

import importlib.util
import json
import os
import shutil
import sys
import time

import carried
import selection
from clock import Stopped
from place import commit, execute, find_tool, last_line
from summary import count_tests

NEEDED = ("torch", "numpy", "pytest")
TO_BUILD = ("pybind11", "ninja", "setuptools")
WORKERS = min(14, os.cpu_count() or 1)
_ABOUT = """
import json, platform, torch
ready = torch.cuda.is_available()
print(json.dumps({
    "python": platform.python_version(), "torch": torch.__version__,
    "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
    "gpu": torch.cuda.get_device_name() if ready else None,
    "capability": "%d.%d" % torch.cuda.get_device_capability() if ready else None,
}))
"""
# Fails unless the CUDA module is there and holds machine code for this GPU.
_USABLE = """
import sys, torch, fastconv
from fastconv import _native
assert _native.cuda, _native.cuda_missing
if sys.argv[1:] != ["rehearsal"]:
    x = torch.ones(1, 1, 3, 3, device="cuda")
    print(fastconv.conv2d(x, x, backend="cuda:direct").item())
"""


def environment(place, seconds, output):
    """Writes environment.json, and fails where something is missing."""
    nvcc, (wheel, why) = find_tool("nvcc"), carried.find(place.root, place.carried)
    facts = {
        "commit": commit(place.root),
        "cpus": os.cpu_count(),
        "carried": wheel.name if wheel else why,
        "nvcc": last_line(nvcc, "--version") if nvcc else None,
        "driver": last_line(
            "nvidia-smi",
            "--query-gpu=name,driver_version,clocks.sm,clocks.mem",
            "--format=csv,noheader",
        ),
    }
    needed = NEEDED if wheel else NEEDED + TO_BUILD
    missing = [name for name in needed if importlib.util.find_spec(name) is None]
    if nvcc is None:
        missing.append("nvcc")
    facts["missing"] = missing
    if "torch" not in missing:
        try:
            facts |= json.loads(last_line(sys.executable, "-c", _ABOUT, timeout=seconds))
        except ValueError as error:
            facts["torch_error"] = str(error)
    (place.out / "environment.json").write_text(json.dumps(facts, indent=1) + "\n")
    output.say(json.dumps(facts))
    if missing:
        return f"missing: {', '.join(missing)}"
    return None if facts.get("gpu") or place.rehearsal else "torch sees no GPU"


def _architecture(place):
    """The architecture of the GPU that is there."""
    try:
        facts = json.loads((place.out / "environment.json").read_text())
        major, minor = facts["capability"].split(".")
    except (OSError, ValueError, KeyError, AttributeError):
        return "90a"
    return {"8": "80", "9": "90a"}.get(major, major + minor)


def build(place, seconds, output):
    """Installs the wheel that was carried along, or builds one."""
    end = time.monotonic() + seconds
    pip = [sys.executable, "-m", "pip", "install", "--no-deps", "--no-index"]
    pip += ["--target", place.site]
    shutil.rmtree(place.site, ignore_errors=True)
    wheel, wrong = carried.find(place.root, place.carried)
    if wheel:
        wrong = execute(place, output, [*pip, wheel], seconds)
        check = [sys.executable, "-c", _USABLE, *["rehearsal"] * place.rehearsal]
        wrong = wrong or execute(place, output, check, seconds, FASTCONV_CUDA_MODULE="")
    if wrong:
        shutil.rmtree(place.site, ignore_errors=True)
        if place.rehearsal and importlib.util.find_spec("fastconv"):
            output.say(f"rehearsing with the fastconv that is installed: {wrong}")
        else:
            return _build(place, output, pip, end - time.monotonic(), wrong)
    return None


def _build(place, output, pip, seconds, reason):
    output.say(f"building, as no carried wheel serves: {reason}")
    if importlib.util.find_spec("setuptools") is None:
        return "setuptools is missing, which `pip install --no-build-isolation` needs"
    how = {"FASTCONV_CUDA": "1", "FASTCONV_CUDA_ARCHS": _architecture(place)}
    if place.rehearsal:
        how = {"FASTCONV_CUDA": "0", "FASTCONV_INSTRUCTION_SETS": "baseline"}
    command = [*pip, "--no-build-isolation", place.root]
    return execute(place, output, command, seconds, **how)


def _pytest(place, output, seconds, results, arguments, workers=1):
    """Runs tests. Each result is written to a file when the test ends, so that a run that is
    stopped leaves those it has."""
    plugins = place.root / "tests" / "accept"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=10"]
    command += ["--tb=short", "--continue-on-collection-errors", f"--rootdir={place.root}"]
    command += ["-c", place.root / "pyproject.toml"]
    command += ["-p", "results_plugin", f"--results={place.out / results}"]
    if importlib.util.find_spec("xdist") and workers > 1:
        command += ["-n", workers, "--dist", "loadgroup"]
    if importlib.util.find_spec("pytest_timeout"):
        # From a thread: a signal does not reach a program that waits for the GPU.
        command += ["--timeout", 60, "--timeout-method", "thread"]
    (place.out / results).unlink(missing_ok=True)
    paths = os.pathsep.join([str(plugins), place.environment()["PYTHONPATH"]])
    wrong = execute(place, output, [*command, *arguments], seconds, PYTHONPATH=paths)
    if wrong is None and not count_tests(place.out / results)[0]:
        return "no test ran"  # all were skipped, which pytest calls a success
    return wrong


def wrappers(place, seconds, output):
    file = place.root / "tests" / "gpu" / "test_device_wrappers.py"
    # With a GPU the instructions themselves are tested, without one their host twins are.
    words = "not gpu" if place.rehearsal else "not twin"
    return _pytest(place, output, seconds, "wrappers.csv", [file, "-k", words])


def selftest(place, seconds, output):
    """Its table is in the log, the lines that did not pass stand at its end."""
    command = [sys.executable, "-m", "fastconv", "selftest", "--device", "cuda"]
    # The first problem also pays for the GPU's context. After --seconds no further line begins.
    command += ["--time-limit", 10, "--seconds", f"{max(seconds - 15, 5):.0f}"]
    if place.rehearsal:  # a line of each algorithm and pass
        command += ["--only", " float32 channels_last"]
    wrong = execute(place, output, command, seconds)
    if wrong == "exit status 3":  # INCOMPLETE of fastconv/selftest/command.py
        return Stopped("the time ended before every line had run")
    return wrong


def tests(place, seconds, output):
    arguments = [*selection.test_files(place.root / "tests"), "-k", selection.WORDS]
    if place.rehearsal:  # emulated kernels are too slow to finish in any case
        seconds = min(seconds, 40)
    return _pytest(place, output, seconds, "tests.csv", arguments, WORKERS)


def triton(place, seconds, output):
    if importlib.util.find_spec("triton") is None:
        return "triton is missing"
    results = place.out / "triton.csv"
    results.unlink(missing_ok=True)
    program = place.root / "tests" / "accept" / "triton_problems.py"
    command = [sys.executable, program, "--results", results]
    # After these seconds it begins no further problem; the step's limit is for one that hangs.
    command += ["--seconds", f"{max(seconds - 15, 5):.0f}", "--workers", WORKERS]
    wrong = execute(place, output, command, seconds)
    if wrong == "exit status 3":  # INCOMPLETE of triton_problems.py
        return Stopped("the time ended before every kernel had run")
    return wrong


def sanitizer(place, seconds, output):
    """memcheck, then racecheck, each with half of the time, on problems of a few blocks."""
    tool, wrong = find_tool("compute-sanitizer"), []
    if tool is None and not place.rehearsal:
        return "compute-sanitizer is missing"
    for name in ("memcheck", "racecheck"):
        command = [tool, "--tool", name, "--error-exitcode", "9", "--target-processes", "all"]
        command += ["--kernel-name", "kernel_substring=fastconv", "--report-api-errors", "no"]
        if place.rehearsal:  # the tool starts no program where it finds no GPU
            command = []
        command += [sys.executable, place.root / "tests" / "emulator" / "tiny_problems.py", ""]
        command += [f"--seconds={max(seconds / 2 - 15, 5):.0f}"]  # after which no problem begins
        # Each tensor is an allocation of its own, so that an access beside it is noticed.
        own = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if name == "memcheck" else {}
        if error := execute(place, output, command, seconds / 2, **own):
            wrong.append((name, error))
    if not wrong:
        return None
    kind = Stopped if all(isinstance(error, Stopped) for _, error in wrong) else str
    return kind("; ".join(f"{name}: {error}" for name, error in wrong))


def bench(place, seconds, output):
    command = [sys.executable, "-m", "fastconv.bench.sweep", "--out", place.out]
    # It stops by itself between two lines of results; the step's limit is for one that hangs.
    command += ["--seconds", f"{max(seconds - 20, 5):.0f}"]
    command += ["--device", "cpu"] if place.rehearsal else []
    return execute(place, output, command, seconds, FASTCONV_COMMIT=commit(place.root))
