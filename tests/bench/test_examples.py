"""The scripts of bench/examples, which check their own results, in small."""

import runpy
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "bench" / "examples"
SMALL = {
    "epilogue.py": [],
    "swap.py": ["resnet18", "--image-size", "32"],
    "train.py": ["--compiler", "aot_eager", "--steps", "3", "--batch", "2", "--image-size", "32"],
    "export.py": ["--image-size", "32"],
}
BY_TORCHRUN = "data_parallel.py"
SLOW = {"train.py": "torch.compile", "export.py": "torch.export and ONNX"}


def test_no_example_is_missing():
    assert {path.name for path in FOLDER.glob("*.py")} == {*SMALL, BY_TORCHRUN}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("name", SMALL)
def test_examples_run(name, exhaustive, monkeypatch, tmp_path):
    if name in SLOW and not exhaustive:
        pytest.skip(f"seconds of {SLOW[name]}; --exhaustive runs it")
    monkeypatch.setitem(sys.modules, "timm", None)  # fails to import: the names are in our models
    monkeypatch.setattr(sys, "argv", [name, *SMALL[name]])
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(FOLDER / name), run_name="__main__")


def test_data_parallel_by_torchrun(exhaustive):
    if not exhaustive:
        pytest.skip("test_data_parallel.py starts such processes too; --exhaustive runs it")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*torchrun, "--nproc-per-node", "2", str(FOLDER / BY_TORCHRUN)],
        capture_output=True,
        text=True,
        timeout=180,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("the gradients are those of the whole batch") == 2
