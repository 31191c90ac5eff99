"""A copy of the source tree in which a test follows a recipe: it inserts text, builds the CPU's
kernels (baseline alone, hardly optimised) and runs Python with what came out."""

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COPIED = ("csrc", "fastconv", "bench", "triton_kernels", "tests")
COPIED_FILES = ("setup.py", "pyproject.toml", "README.md", "LICENSE")
# Packages whose folders lie elsewhere in the tree: pyproject.toml's package-dir.
ELSEWHERE = ("bench", "triton_kernels")


@dataclass(frozen=True)
class Insertion:
    """Text put behind an anchor: a piece of the file that occurs there once. A new file has no
    anchor."""

    file: str  # from the tree's root
    anchor: str
    text: str

    def __str__(self):
        return self.file

    def apply(self, text):
        """The file's text with the insertion in it."""
        if not self.anchor:
            assert not text, f"{self.file} exists already"
            return self.text
        count = text.count(self.anchor)
        assert count == 1, f"{self.anchor!r} occurs {count} times in {self.file}, not once"
        return text.replace(self.anchor, self.anchor + self.text)


def _original(file):
    return (ROOT / file).read_text() if (ROOT / file).is_file() else ""


class CopiedTree:
    def __init__(self, root):
        self.root = root
        self._changed = frozenset()  # files that differ from the tree's
        unwanted = shutil.ignore_patterns("*.so", "__pycache__", "results")
        for name in COPIED:
            shutil.copytree(ROOT / name, root / name, ignore=unwanted)
        for name in COPIED_FILES:
            shutil.copy(ROOT / name, root / name)
        for name in ELSEWHERE:
            (root / "fastconv" / name).symlink_to(root / name)

    def follow(self, insertions):
        """Puts the tree into its first state plus these insertions. A file that stays as it is
        keeps its time, so that a build does not compile it again."""
        insertions = tuple(insertions)
        texts = {file: _original(file) for file in self._changed}
        for one in insertions:
            texts[one.file] = one.apply(texts.get(one.file) or _original(one.file))
        for file, text in texts.items():
            path = self.root / file
            if not text:
                path.unlink()
            elif not path.is_file() or path.read_text() != text:
                path.write_text(text)
        self._changed = frozenset(one.file for one in insertions)

    def build(self):
        """Compiles what has changed."""
        return self._run(
            *("setup.py", "build_ext", "--inplace"),
            FASTCONV_CUDA="0",
            FASTCONV_INSTRUCTION_SETS="baseline",
            CXXFLAGS="-O1",
            # Where there is a ccache it knows the files of other copies again.
            CCACHE_BASEDIR=str(self.root),
            CCACHE_NOHASHDIR="1",
        )

    def python(self, code, **environment):
        """Runs code with the copy's fastconv; its tests' modules can be imported too. (exit status,
        everything that was written), as of all that runs here."""
        return self._run("-c", code, **environment)

    def pytest(self, *arguments, **environment):
        """Runs tests of the copy."""
        options = ("-m", "pytest", "-q", "-x", "-p", "no:cacheprovider")
        return self._run(*options, *arguments, **environment)

    def _run(self, *arguments, **environment):
        path = os.pathsep.join([str(self.root), str(self.root / "tests")])
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=self.root,
            # Without bytecode, whose time stamps tell no two versions of a file of one second.
            env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1", "PYTHONPATH": path, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return done.returncode, done.stdout


def build_copy(folder, request):
    """A built CopiedTree, for a module's fixture. Skips without --exhaustive, and without the tools
    of a build."""
    if not request.config.getoption("--exhaustive"):
        pytest.skip("compiles a copy of the CPU's kernels: --exhaustive tries it")
    for tool in ("setuptools", "pybind11", "ninja"):
        pytest.importorskip(tool)
    tree = CopiedTree(folder)
    status, output = tree.build()
    assert status == 0, output
    return tree
