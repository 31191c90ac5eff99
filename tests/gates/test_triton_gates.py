"""The gates of tests/gates/triton_gates.py, each seen to fail on a kernel that breaks it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from cubins import READERS, missing_tool
from devices import triton_missing

FIXTURE = Path(__file__).parent / "triton_gate_fixture.py"
missing = triton_missing or missing_tool(READERS)
pytestmark = pytest.mark.skipif(missing is not None, reason=f"missing: {missing}")

# (kernel, words of its verdict) in the fixture's order.
EXPECTED = [
    ("epilogue_forward",),
    ("epilogue_forward", "no 8-byte LDG or LDGSTS", "no 8-byte STG"),
    ("nameless", "no line of KERNELS"),
    ("split_k_reduce", "warps on an SM, needs 24"),
    ("conv2d_gather_direct", "of them in loops"),
    ("conv2d_implicit_gemm", {"80": "no HMMA", "90": "no HGMMA"}),
    ("conv2d_implicit_gemm",),
    ("conv2d_implicit_gemm", "bytes of shared memory"),
    ("conv2d_implicit_gemm", "does not compile"),
]


def test_each_gate_fails_on_a_kernel_that_breaks_it(tmp_path):
    compiled = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, FIXTURE],
        env=compiled | {"TRITON_CACHE_DIR": str(tmp_path / "cache")},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line[:3] in ("80 ", "90 ")]
    assert len(lines) == 2 * len(EXPECTED), done.stdout
    for line, (name, *words) in zip(lines, 2 * EXPECTED, strict=True):
        arch, got, verdict = line.split(" ", 2)
        assert got == name
        assert bool(verdict) == bool(words), line
        for word in words:
            assert (word[arch] if isinstance(word, dict) else word) in verdict, line
