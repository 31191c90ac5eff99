"""The folders of a run, and how it runs a command."""

import os
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import clock

ROOT = Path(__file__).resolve().parent.parent.parent
CARRIED = ROOT / "build" / "carried"

sys.path.append(str(ROOT / "csrc"))
from fastconv_build.toolkit import find_tool  # noqa: E402, F401


@dataclass(frozen=True)
class Place:
    out: Path
    root: Path = ROOT
    carried: Path = CARRIED
    rehearsal: bool = False  # without a GPU: emulated and interpreted kernels, fewer of everything

    @property
    def site(self):
        """fastconv is installed there, so that the machine's own packages stay as they are."""
        return self.root / "build" / "accept" / "site"

    @property
    def emulated(self):
        """The CUDA module of a rehearsal, whose kernels run on the CPU."""
        return self.root / "build" / "accept" / "emulated.so"

    def emulate(self):
        """Builds the emulated module. That takes minutes once, and counts for no step, since a run
        with a GPU does not need it."""
        build = self.root / "tests" / "emulator" / "build.py"
        done = subprocess.run(
            [sys.executable, build], stdout=subprocess.PIPE, text=True, check=True
        )
        self.emulated.parent.mkdir(parents=True, exist_ok=True)
        self.emulated.unlink(missing_ok=True)
        self.emulated.symlink_to(done.stdout.strip())

    def environment(self, **more):
        paths = [str(self.site), *filter(None, [os.environ.get("PYTHONPATH")])]
        values = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
        values["FASTCONV_SELFTEST"] = "0"  # the steps try the kernels themselves
        for name in ("FASTCONV_CUDA_MODULE", "TRITON_INTERPRET"):
            values.pop(name, None)
        if self.rehearsal:
            values |= {"FASTCONV_CUDA_MODULE": str(self.emulated), "TRITON_INTERPRET": "1"}
        return values | more


def execute(place, output, command, seconds, **environment):
    """None, or what went wrong with a command; what it prints goes to the log. It starts outside of
    the source tree, where Python would find the sources instead of the installed package."""
    with tempfile.NamedTemporaryFile("w+b") as raw, tempfile.TemporaryDirectory() as folder:
        environment = place.environment(**environment)
        status = clock.run(list(map(str, command)), raw, seconds, cwd=folder, env=environment)
        output.keep(command, raw)
    if status is None:
        return clock.Stopped(f"stopped after {seconds:.0f} s")
    return None if status == 0 else f"exit status {status}"


def last_line(*command, timeout=10):
    """The last line that a command prints, or why it does not run."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    lines = (done.stdout or done.stderr).strip().splitlines()
    return lines[-1] if lines else ""


def commit(root):
    """What is built: FASTCONV_COMMIT where the tree is a copy without its history."""
    if os.environ.get("FASTCONV_COMMIT"):
        return os.environ["FASTCONV_COMMIT"]
    text = last_line("git", "-C", str(root), "describe", "--always", "--dirty=+", "--abbrev=12")
    return "" if text.startswith(("fatal", "[Errno")) else text
