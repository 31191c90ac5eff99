"""The public interface as type checkers see it: what it returns, and that they find mistakes."""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv

USE = Path(__file__).with_name("typed_use.py")
CHECKERS = {
    "mypy": ["--no-incremental"],
    "basedpyright": ["--level", "error", "--pythonpath", sys.executable],
}


@pytest.mark.parametrize("checker", CHECKERS)
def test_types_are_right_and_mistakes_are_found(checker, exhaustive, tmp_path):
    if not exhaustive:
        pytest.skip("a checker reads torch's types for seconds; --exhaustive runs it")
    if importlib.util.find_spec(checker) is None:
        pytest.skip(f"{checker} is not installed")
    root = Path(fastconv.__file__).parents[1]
    # Checkers do not follow editable installations: they find the package in their own folder.
    folder = tmp_path if root.name == "site-packages" else root
    command = [sys.executable, "-m", checker, *CHECKERS[checker], str(USE)]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    found = {int(line) for line in re.findall(rf"{USE.name}:(\d+)", done.stdout)}
    lines = enumerate(USE.read_text().splitlines(), start=1)
    assert found == {number for number, line in lines if line.endswith("# wrong")}, done.stdout
