"""What is in the package: no torch in the native code, no instruction set where it may not be, and
errors that say what to do."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fastconv
from fastconv._native import core

BUILT_CUDA = next(Path(fastconv.__file__).parent.glob("_cuda.*.so"), None)
ROOT = Path(__file__).parents[2]
ISAS = ("baseline", "avx2", "avx512")


def run(code, **kwargs):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, **kwargs
    )


def test_csrc_includes_no_torch_header():
    sources = [p for p in (ROOT / "csrc").rglob("*") if p.suffix in (".h", ".cpp", ".cu", ".cuh")]
    assert len(sources) > 10
    for source in sources:
        assert not re.search(r'#include *[<"](torch|ATen|c10)/', source.read_text()), source


@pytest.mark.skipif(shutil.which("ldd") is None, reason="needs ldd")
def test_core_links_no_torch_and_no_python_library():
    libraries = subprocess.run(["ldd", core.__file__], capture_output=True, text=True).stdout
    assert "libc.so" in libraries
    assert not re.search(r"libtorch|libc10|libpython|libcuda", libraries), libraries


@pytest.mark.skipif(
    shutil.which("objdump") is None or core.instruction_set() == "baseline",
    reason="needs objdump and an x86 machine",
)
def test_avx_instructions_stay_inside_their_namespaces():
    """A template merged across instruction sets would crash machines that lack the wider one."""
    listing = subprocess.run(
        ["objdump", "-d", "--no-show-raw-insn", core.__file__], capture_output=True, text=True
    ).stdout
    function, avx, wide = "", set(), set()
    for line in listing.splitlines():
        if line.endswith(">:"):
            function = line
        elif re.match(r"\s+[0-9a-f]+:\s+v[a-z]", line):  # VEX or EVEX encoded
            avx.add(function)
            if "zmm" in line:
                wide.add(function)
    assert avx and wide
    assert not [f for f in avx if "avx2" not in f and "avx512" not in f]
    assert not [f for f in wide if "avx512" not in f]


def test_instruction_set_can_be_limited_and_results_agree(tmp_path):
    code = (
        "import sys, torch, fastconv; torch.manual_seed(0); "
        "y = fastconv.conv2d(torch.randn(1, 8, 9, 9), torch.randn(8, 8, 3, 3)); "
        "print(fastconv.info()['instruction_set'], y.double().sum().item())"
    )
    seen = {}
    for isa in ISAS:
        done = run(code, env={**os.environ, "FASTCONV_ISA": isa}, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        name, value = done.stdout.split()
        seen[name] = float(value)
    assert "baseline" in seen
    assert max(seen.values()) - min(seen.values()) < 1e-3
    done = run(code, env={**os.environ, "FASTCONV_ISA": "sse9"}, cwd=tmp_path)
    assert done.returncode != 0 and "FASTCONV_ISA must be" in done.stderr


def test_uncompiled_source_tree_says_what_to_do(tmp_path):
    shutil.copytree(
        Path(fastconv.__file__).parent,
        tmp_path / "fastconv",
        ignore=shutil.ignore_patterns("*.so", "__pycache__"),
    )
    (tmp_path / "setup.py").touch()
    # An editable install would complete the tree; only the directory itself may be found here.
    code = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'ditable' not in repr(f)]; "
        "import fastconv"
    )
    done = run(code, cwd=tmp_path)
    assert done.returncode != 0
    assert "another directory" in done.stderr and "pip install -e ." in done.stderr


def without_emulator():
    """The environment of a user: the _cuda that was built, or none."""
    return {name: v for name, v in os.environ.items() if name != "FASTCONV_CUDA_MODULE"}


def test_info_names_what_is_missing_and_why(tmp_path):
    info = fastconv.info()
    assert info["fastconv"] == fastconv.__version__
    assert "cpu:implicit_gemm" in info["backends"] and "instruction_set" in str(info)
    done = run(
        "import fastconv; print(fastconv.info()['cuda'])", env=without_emulator(), cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    if BUILT_CUDA is None:
        assert done.stdout.startswith("not available: ") and len(done.stdout) > 30
    elif torch.cuda.is_available():
        assert re.match(r"available: built for sm_\d+", done.stdout)
    else:
        assert re.match(r"built for sm_\d+.*; no device can be used here: \w+", done.stdout)


def test_the_cuda_backend_without_a_device_raises_and_says_why(tmp_path):
    """Whether it was built or not, with a driver or without."""
    code = (
        "import torch, fastconv; x = torch.zeros(1, 1, 3, 3); "
        "fastconv.conv2d(x, x, backend='cuda:direct')"
    )
    done = run(code, env=without_emulator(), cwd=tmp_path)
    assert done.returncode == 1
    assert "NotImplementedError" in done.stderr
    reason = r"got device cpu" if BUILT_CUDA else r"nvcc|FASTCONV_CUDA=0|no CUDA kernels"
    assert re.search(reason, done.stderr), done.stderr


@pytest.mark.skipif(BUILT_CUDA is None, reason="fastconv._cuda was not built")
@pytest.mark.skipif(shutil.which("ldd") is None or shutil.which("nm") is None, reason="needs nm")
def test_cuda_links_nothing_of_cuda_or_torch_and_shares_no_symbol():
    """cudart is inside, out of sight: torch's must not get calls of ours, nor ours of torch's."""
    libraries = subprocess.run(["ldd", BUILT_CUDA], capture_output=True, text=True).stdout
    assert "libc.so" in libraries
    assert not re.search(r"libtorch|libc10|libpython|libcuda", libraries), libraries
    symbols = subprocess.run(
        ["nm", "-D", "--defined-only", BUILT_CUDA], capture_output=True, text=True
    ).stdout
    names = [line.split()[-1] for line in symbols.splitlines()]
    assert "PyInit__cuda" in names
    assert not [
        name for name in names if re.search(r"cuda|fastconv", name) and "PyInit" not in name
    ]


def test_explain_shows_backend_algorithm_and_reason():
    net = fastconv.convert(
        torch.nn.Sequential(
            torch.nn.Conv2d(8, 8, 3), torch.nn.Conv2d(8, 8, 3, groups=8), torch.nn.MaxPool2d(2)
        )
    )
    explanation = fastconv.explain(net, torch.zeros(1, 8, 12, 12))
    assert [d.backend for d in explanation] == ["cpu"] * 3
    text = str(explanation)
    assert (
        "implicit_gemm" in text and "depthwise" in text and "GFLOP" in text and "max_pool2d" in text
    )
    refused = fastconv.explain(
        fastconv.conv2d, torch.zeros(1, 1, 3, 3).long(), torch.zeros(1, 1, 3, 3).long()
    )
    assert refused[0].backend is None and "int64" in str(refused)
