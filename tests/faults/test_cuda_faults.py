"""Do the tests of the CUDA kernels catch mistakes? Faults are seeded; a named test must catch each.

All sources that include the file with the fault are compiled again for the emulator, and the named
test runs against that module in a process of its own. Asynchronous copies are lazy. A fault that
shows only in some order of threads or blocks has the seed of such an order."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("ninja")
pytest.importorskip("pybind11")

from cuda_faults import FAULTS, Fault
from emulator import build as emulator

ROOT = Path(__file__).parents[2]
# The fault of a run without --exhaustive: the one that takes the least to compile.
QUICK = "pool: NaN loses"


def run(fault, changed):
    """The tests that are to catch a fault, against a module of changed files."""
    env = {
        **os.environ,
        "FASTCONV_CUDA_MODULE": str(emulator.build(changed=changed)),
        "FASTCONV_EMULATOR_ASYNC": "lazy",
        "FASTCONV_EMULATOR_SEED": str(fault.seed),
    }
    path, _, keyword = fault.caught_by.partition(" -k ")
    options = ["-k", keyword.strip("'")] if keyword else []
    return subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-x", "-q", "--exhaustive"),
            *("-p", "no:cacheprovider"),
            str(ROOT / "tests" / path),
            *options,
        ],
        # python -m looks for modules in the current directory first, and the root has a fastconv
        # that is not compiled where the package is installed elsewhere.
        cwd=ROOT / "tests" / "faults",
        env=env,
        capture_output=True,
        text=True,
        timeout=600,
    )


def faulty(fault):
    """{path: text} of a fault."""
    path = f"cuda/{fault.file}"
    text = (ROOT / "csrc" / path).read_text()
    assert text.count(fault.right) >= 1, f"{fault.right!r} is no longer in {path}"
    return {path: text.replace(fault.right, fault.wrong)}


def test_every_fault_has_its_place():
    for fault in FAULTS:
        assert faulty(fault)


@pytest.mark.parametrize("fault", FAULTS, ids=str)
def test_fault_is_caught(fault, exhaustive):
    if not exhaustive and fault.name != QUICK:
        pytest.skip("--exhaustive tries it")
    done = run(fault, faulty(fault))
    # 1: tests failed; negative: the emulator's own report, or a crash. Others mean no test ran.
    assert done.returncode == 1 or done.returncode < 0, done.stdout + done.stderr


def test_what_catches_the_faults_passes_without_one(exhaustive):
    """Under the same schedules: a test that fails anyway would catch anything."""
    if not exhaustive:
        pytest.skip("--exhaustive runs it")
    for caught_by, seed in {(fault.caught_by, fault.seed) for fault in FAULTS if fault.seed}:
        fault = Fault("none", "", "", "", caught_by, seed)
        done = run(fault, None)
        assert done.returncode == 0, done.stdout + done.stderr
