"""When calls go to Triton, and what is told where they cannot: without Triton, with one that is too
old, or interpreted too late. None of it may disturb the other backends."""

import os
import subprocess
import sys
import tempfile

import pytest
import torch
from devices import needs_triton
from torch._subclasses import FakeTensorMode

import fastconv
from fastconv.backends.cuda import conv2d as cuda
from fastconv.backends.triton import launch as triton_launch

CONV = (
    "import fastconv, torch\n"
    "x, w = torch.ones(1, 2, 5, 5), torch.ones(3, 2, 3, 3)\n"
    "assert torch.equal(fastconv.conv2d(x, w), torch.nn.functional.conv2d(x, w))\n"
)
NAMED = (
    "for call in (lambda: fastconv.conv2d(x, w, backend='triton'),\n"
    "             lambda: fastconv.max_pool2d(x, 2, backend='triton:direct')):\n"
    "    try: call()\n"
    "    except NotImplementedError as error: print(error)\n"
    "print(fastconv.info()['triton'])\n"
    "print(fastconv.info()['tuned'])\n"
)


def told(code, path=None, **environment):
    """Lines that a new process prints, in a usual environment."""
    usual = {k: v for k, v in os.environ.items() if not k.startswith(("TRITON_", "FASTCONV_"))}
    if path is not None:
        usual["PYTHONPATH"] = os.pathsep.join(filter(None, (str(path), usual.get("PYTHONPATH"))))
    with tempfile.TemporaryDirectory() as elsewhere:  # not beside a source tree
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=usual | environment,
            capture_output=True,
            text=True,
            cwd=elsewhere,
        )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_triton_absent():
    lines = told("import sys; sys.modules['triton'] = None\n" + CONV + NAMED)
    assert "fastconv.conv2d" in lines[0] and "fastconv.max_pool2d" in lines[1]
    assert all("triton is not installed" in line for line in lines[:2])
    assert lines[2:] == ["not available: triton is not installed", "none"]


@pytest.mark.parametrize(
    "module, reason",
    [
        ("__version__ = '3.3.1'", "needs triton 3.4 or later, found 3.3.1"),
        ("__version__ = 'unknown'", "needs triton 3.4 or later, found unknown"),
        ("raise ImportError('libfoo.so')", "triton could not be imported: libfoo.so"),
    ],
    ids=["old", "nameless", "broken"],
)
def test_triton_unusable(module, reason, tmp_path):
    (tmp_path / "triton.py").write_text(module)
    # torch, too, looks for Triton, and does without it where it is no package.
    lines = told(CONV + NAMED, tmp_path)
    assert all(line.endswith(f": {reason}") for line in lines[:2])
    assert lines[2:] == [f"not available: {reason}", "none"]


@needs_triton
def test_interpreted_too_late():
    late = "import triton, os; os.environ['TRITON_INTERPRET'] = '1'\n"
    lines = told(late + CONV + NAMED)
    assert all("TRITON_INTERPRET was changed after triton was imported" in n for n in lines[:3])


@needs_triton
def test_cpu_tensors_only_where_interpreted():
    lines = told(CONV + NAMED)
    assert all("runs CPU tensors only where TRITON_INTERPRET=1 is set" in n for n in lines[:2])
    state = "available: " if torch.cuda.is_available() else ""
    assert lines[2].startswith(f"{state}3.")
    interpreted = told(CONV + "print(fastconv.info()['triton'])", TRITON_INTERPRET="1")
    assert interpreted[0].startswith("interpreted: 3.")


def test_importing_fastconv_imports_no_compiler():
    """It takes seconds, and looks at every part of Triton."""
    assert told("import sys, fastconv; print('torch._dynamo' in sys.modules)") == ["False"]


def test_unknown_names_stay_value_errors():
    x = torch.ones(1, 1, 3, 3)
    with pytest.raises(ValueError, match="triton:implicit_gemm"):
        fastconv.conv2d(x, x, backend="triton:fft")
    with pytest.raises(ValueError):
        fastconv.backend("Triton")


@pytest.fixture
def gpu(monkeypatch):
    """A GPU as far as dispatch can see; tensors on it are fake."""
    monkeypatch.setattr(triton_launch, "device_type", lambda: "cuda")
    monkeypatch.setattr(triton_launch, "_gpu_reason", lambda index: None)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "DEVICE", "cuda")
    monkeypatch.setattr(cuda, "unusable_reason", lambda index: None)


def chosen(function, *sizes, **options):
    with FakeTensorMode():
        tensors = [torch.empty(size, device="cuda") for size in sizes]
        (decision,) = fastconv.explain(function, *tensors, **options)
    return decision


@needs_triton
def test_automatic_where_cuda_is_not_built(gpu, monkeypatch):
    conv = (fastconv.conv2d, (1, 4, 8, 8), (8, 4, 3, 3))
    monkeypatch.setattr(cuda, "cuda", object())
    assert chosen(*conv).backend == "cuda"
    monkeypatch.setattr(cuda, "cuda", None)
    monkeypatch.setattr(cuda, "cuda_missing", "built with FASTCONV_CUDA=0")
    decision = chosen(*conv)
    assert decision.backend == "triton"
    assert decision.rejected == {"cuda": "built with FASTCONV_CUDA=0"}


def test_neither_cuda_nor_triton_goes_to_aten(gpu, monkeypatch, strict):
    monkeypatch.setattr(cuda, "cuda", None)
    monkeypatch.setattr(cuda, "cuda_missing", "built with FASTCONV_CUDA=0")
    monkeypatch.setattr(triton_launch, "missing_reason", lambda: "triton is not installed")
    conv = (fastconv.conv2d, (1, 4, 8, 8), (8, 4, 3, 3))
    with pytest.raises(NotImplementedError, match=r"cuda: built.*; triton: .* not installed"):
        chosen(*conv)
    monkeypatch.delenv("FASTCONV_STRICT")
    decision = chosen(*conv)
    assert decision.backend is None and list(decision.rejected) == ["cuda", "triton"]
