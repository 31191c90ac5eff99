"""Tests again under the instruction sets that the machine has and this process does not use."""

import os
import subprocess
import sys

import pytest

import fastconv

INSTRUCTION_SETS = ("baseline", "avx2", "avx512")
once_for_each = pytest.mark.parametrize("instruction_set", INSTRUCTION_SETS)


def check_under(instruction_set, folder, *arguments):
    """Runs pytest with these arguments under an instruction set; skips where there is none such."""
    if "FASTCONV_ISA" in os.environ:
        pytest.skip("limited to one already")

    def run(*command):
        return subprocess.run(
            [sys.executable, *command],
            env={**os.environ, "FASTCONV_ISA": instruction_set},
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=600,
        )

    used = run("-c", "import fastconv; print(fastconv.info()['instruction_set'])").stdout.strip()
    if used != instruction_set:
        pytest.skip(f"{instruction_set} is not there: {used} is")
    if used == fastconv.info()["instruction_set"]:
        pytest.skip("what the other tests ran")
    done = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments)
    assert done.returncode == 0, done.stdout + done.stderr
