"""The steps: what each runs, and for how long it may."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import clock
from summary import count_tests

ROOT = Path(__file__).resolve().parent.parent.parent
TOTAL_SECONDS = 540.0
RESERVE = clock.Clock.reserve
NEEDED = ("torch", "numpy", "pytest", "pybind11", "ninja", "setuptools")


@dataclass(frozen=True)
class Place:
    """Where a run reads and writes."""

    out: Path
    root: Path = ROOT

    @property
    def site(self):
        """fastconv is installed there, so that the machine's own packages stay as they are."""
        return self.root / "build" / "accept" / "site"

    def environment(self, **more):
        paths = [str(self.site), *filter(None, [os.environ.get("PYTHONPATH")])]
        values = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        values.pop("FASTCONV_CUDA_MODULE", None)  # the real module, not an emulated one
        return values | more


def _execute(place, output, command, seconds, **environment):
    """None, or what went wrong with a command, whose words go to the log. It starts outside of the
    source tree, which would hide the installed package."""
    with tempfile.NamedTemporaryFile("w+b") as raw, tempfile.TemporaryDirectory() as folder:
        environment = place.environment(**environment)
        status = clock.run(list(map(str, command)), raw, seconds, cwd=folder, env=environment)
        output.keep(command, raw)
    if status is None:
        return f"stopped after {seconds:.0f} s"
    return None if status == 0 else f"exit status {status}"


def _last_line(*command, timeout=10):
    """Of what a command prints, or why it does not."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[-1] if lines else ""


def _commit(root):
    """What is built: FASTCONV_COMMIT where the tree is a copy without its history."""
    if os.environ.get("FASTCONV_COMMIT"):
        return os.environ["FASTCONV_COMMIT"]
    text = _last_line("git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12")
    return "" if text.startswith(("fatal", "[Errno")) else text


def environment(place, seconds, output):
    """environment.json, and the first thing that is missing."""
    about = """
import json, platform, torch
ready = torch.cuda.is_available()
print(json.dumps({
    "python": platform.python_version(), "torch": torch.__version__,
    "cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(),
    "gpu": torch.cuda.get_device_name() if ready else None,
    "capability": "%d.%d" % torch.cuda.get_device_capability() if ready else None,
}))
"""
    facts = {"commit": _commit(place.root), "cpus": os.cpu_count()}
    facts["nvcc"] = _last_line("nvcc", "--version")
    facts["driver"] = _last_line(
        "nvidia-smi",
        "--query-gpu=name,driver_version,clocks.sm,clocks.mem",
        "--format=csv,noheader",
    )
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if shutil.which("nvcc") is None:
        missing.append("nvcc")
    facts["missing"] = missing
    if "torch" not in missing:
        try:
            facts |= json.loads(_last_line(sys.executable, "-c", about, timeout=seconds))
        except ValueError as error:
            facts["torch_error"] = str(error)
    (place.out / "environment.json").write_text(json.dumps(facts, indent=1) + "\n")
    output.say(json.dumps(facts))
    if missing:
        return f"missing: {', '.join(missing)}"
    return None if facts.get("gpu") else "torch sees no GPU"


def _architecture(place):
    """What to compile for: the GPU that is there."""
    try:
        facts = json.loads((place.out / "environment.json").read_text())
        major, minor = facts["capability"].split(".")
    except (OSError, ValueError, KeyError, AttributeError):
        return "90a"
    return {"8": "80", "9": "90a"}.get(major, major + minor)


def build(place, seconds, output):
    if importlib.util.find_spec("setuptools") is None:
        return "setuptools is missing, which `pip install --no-build-isolation` needs"
    shutil.rmtree(place.site, ignore_errors=True)
    command = [sys.executable, "-m", "pip", "install", "--no-build-isolation", "--no-deps"]
    command += ["--no-index", "--target", place.site, place.root]
    return _execute(
        place, output, command, seconds, FASTCONV_CUDA="1", FASTCONV_CUDA_ARCHS=_architecture(place)
    )


def _pytest(place, output, seconds, report, files):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--durations=10"]
    command += [f"--junitxml={place.out / report}", f"--rootdir={place.root}"]
    command += ["-c", place.root / "pyproject.toml"]
    if importlib.util.find_spec("xdist") and len(files) > 1:
        command += ["-n", min(6, os.cpu_count() or 1), "--dist", "loadgroup"]
    if importlib.util.find_spec("pytest_timeout"):
        command += ["--timeout", 60]
    (place.out / report).unlink(missing_ok=True)
    wrong = _execute(place, output, [*command, *files], seconds)
    counts = count_tests(place.out / report)
    if wrong is None and not (counts and counts[0]):
        return "no test ran"  # all were skipped, which pytest calls a success
    return wrong


def wrappers(place, seconds, output):
    files = [place.root / "tests" / "test_device_wrappers.py"]
    return _pytest(place, output, seconds, "wrappers.xml", files)


def tests(place, seconds, output):
    folder = place.root / "tests"
    files = [folder / "test_gpu.py", *sorted(folder.glob("test_cuda*.py"))]
    files.append(folder / "test_epilogue_kernels.py")
    return _pytest(place, output, seconds, "tests.xml", [*files, "-k", "not triton"])


def triton(place, seconds, output):
    if importlib.util.find_spec("triton") is None:
        return "triton is missing"
    files = sorted((place.root / "tests").glob("test_triton*.py"))
    shared = ("pool2d", "pool2d_opinfo", "epilogue_kernels")
    files += [place.root / "tests" / f"test_{name}.py" for name in shared]
    return _pytest(place, output, seconds, "triton.xml", [*files, "-k", "triton"])


def sanitizer(place, seconds, output):
    """memcheck, then racecheck, each with half of the time, on problems of a few blocks."""
    tool = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    wrong = []
    for name in ("memcheck", "racecheck"):
        command = [tool, "--tool", name, "--error-exitcode", "9", "--target-processes", "all"]
        command += ["--kernel-name", "kernel_substring=fastconv", "--report-api-errors", "no"]
        command += [sys.executable, place.root / "tests" / "emulator" / "tiny_problems.py", ""]
        command += [f"--seconds={max(seconds / 2 - 15, 5):.0f}"]  # to begin problems in
        # Each tensor an allocation of its own, so that an access beside it is seen.
        own = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"} if name == "memcheck" else {}
        if error := _execute(place, output, command, seconds / 2, **own):
            wrong.append(f"{name}: {error}")
    return "; ".join(wrong) or None


def bench(place, seconds, output):
    command = [sys.executable, "-m", "fastconv.bench.sweep", "--out", place.out]
    # It stops by itself between two lines; the limit is for a line that hangs.
    command += ["--seconds", f"{max(seconds - 20, 5):.0f}"]
    return _execute(place, output, command, seconds, FASTCONV_COMMIT=_commit(place.root))


@dataclass(frozen=True)
class Step:
    run: Callable
    seconds: float  # its limit where the whole run has TOTAL_SECONDS
    what: str


STEPS = {
    "environment": Step(environment, 30, "versions, driver, GPU, and what is missing"),
    "build": Step(build, 100, "pip install --no-build-isolation --no-deps, both modules"),
    "wrappers": Step(wrappers, 40, "each PTX wrapper against the formula its host twin keeps to"),
    "tests": Step(tests, 115, "the test suite on the GPU: kernels, gradcheck, ResNet-18, graphs"),
    "triton": Step(triton, 90, "the tests of the Triton kernels, which compile as they go"),
    "sanitizer": Step(sanitizer, 60, "compute-sanitizer memcheck and racecheck, tiny problems"),
    "bench": Step(bench, 100, "layers.csv and pools.csv against cuDNN and ATen; gets what is left"),
}


def limits(names, seconds=TOTAL_SECONDS):
    """{step: seconds}, which together stay within the whole time."""
    scale = (seconds - RESERVE) / (TOTAL_SECONDS - RESERVE)
    return {name: STEPS[name].seconds * scale for name in names}
