import os
import shutil
import sys
from pathlib import Path

import pytest

# Before torch loads OpenMP, whose idle threads would spin: half of the CPU time of small problems.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
# The tests try every kernel, faulty ones too; those of first_use.py turn its checks on.
os.environ.setdefault("FASTCONV_SELFTEST", "0")
import torch

ROOT = Path(__file__).parent.parent
if not list((ROOT / "fastconv").glob("_core*")):
    # `python -m pytest` puts the source tree first; test the installed package instead.
    sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != ROOT]


def pytest_configure(config):
    """The CUDA and Triton kernels run on the GPU where there is one, and otherwise on the CPU,
    emulated and interpreted."""
    if torch.cuda.is_available():
        return
    os.environ.setdefault("TRITON_INTERPRET", "1")
    if "FASTCONV_CUDA_MODULE" in os.environ:
        return
    if shutil.which(os.environ.get("CXX", "c++")):  # without: the CUDA tests skip and say why
        from emulator.build import build

        os.environ["FASTCONV_CUDA_MODULE"] = str(build())


def pytest_addoption(parser):
    parser.addoption("--exhaustive", action="store_true", help="wider sweeps, many minutes")
    parser.addoption("--kernels", metavar="CSV", help="note down which kernels were executed")


def pytest_collection_finish(session):
    if session.config.getoption("--kernels"):
        from coverage_of_kernels import Recorder

        session.config.kernels = Recorder()
        session.config.kernels.install()


def pytest_sessionfinish(session):
    if recorder := getattr(session.config, "kernels", None):
        recorder.write(session.config.getoption("--kernels"))


def pytest_terminal_summary(terminalreporter):
    """What a change of the tests costs can be read from any run."""
    spent = os.times()
    here, started = spent.user + spent.system, spent.children_user + spent.children_system
    terminalreporter.write_line(f"CPU time: {here:.0f} s, and {started:.0f} s in other processes")


@pytest.fixture
def exhaustive(request):
    return request.config.getoption("--exhaustive")


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def threads():
    """threads(n) sets torch's number of threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def strict(monkeypatch):
    """No call of the test may fall back to ATen."""
    monkeypatch.setitem(os.environ, "FASTCONV_STRICT", "1")
