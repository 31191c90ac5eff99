"""A copy of the sources, compiled into a copy of the installed Python files, for tests of what a
change does."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import fastconv.bench
import fastconv.triton_kernels

ROOT = Path(__file__).parents[1]
# The copy comes first, before an editable install of the original.
_COPY_FIRST = (
    "import sys; sys.meta_path = [f for f in sys.meta_path if 'ditable' not in repr(f)]; "
    "sys.path.insert(0, {site!r}); "
)


class SourceCopy:
    def __init__(self, folder):
        for module in ("setuptools", "pybind11", "ninja"):
            pytest.importorskip(module)
        self.source, self.site = folder / "source", folder / "site"
        self.source.mkdir()
        for name in ("csrc", "setup.py", "pyproject.toml", "README.md", "LICENSE"):
            copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
            copy(ROOT / name, self.source / name)
        for package in (fastconv, fastconv.bench, fastconv.triton_kernels):
            shutil.copytree(
                Path(package.__file__).parent,
                self.site.joinpath(*package.__name__.split(".")),
                ignore=shutil.ignore_patterns("*.so", "__pycache__"),
                dirs_exist_ok=True,  # an editable install has them side by side
            )

    def build(self):
        """The finished build: the baseline instruction set, with little optimisation."""
        env = {**os.environ, "FASTCONV_INSTRUCTION_SETS": "baseline", "CXXFLAGS": "-O1"}
        env["FASTCONV_CUDA"] = "0"
        places = ["--build-lib", self.site, "--build-temp", self.source / "build"]
        return subprocess.run(
            [sys.executable, "setup.py", "-q", "build_ext", *places],
            cwd=self.source,
            env=env,
            capture_output=True,
            text=True,
        )

    def compile(self):
        done = self.build()
        assert done.returncode == 0, done.stdout + done.stderr

    def run(self, code, *arguments, **environment):
        """The finished run of Python code, which finds the copy as fastconv."""
        return subprocess.run(
            [sys.executable, "-c", _COPY_FIRST.format(site=str(self.site)) + code, *arguments],
            cwd=self.site,
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            timeout=300,
        )
