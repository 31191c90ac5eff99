"""What README.md names is there: files, public names, environment variables."""

import importlib
import re
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("markdown_it")
from readme import BLOCKS, LINKS, README, ROOT, SPANS, variables

import fastconv

SUFFIXES = {".py", ".h", ".cpp", ".cu", ".cuh", ".sh", ".csv", ".md", ".toml"}
# Variables that others' programs read, and ours that no user needs.
READ_BY_OTHERS = {"NVCC_APPEND_FLAGS": "nvcc", "TRITON_INTERPRET": "triton"}
INTERNAL = {"FASTCONV_COMMIT": "names the commit of a tree without git in bench's records"}


def path_pattern(text):
    """A glob for what looks like a path of the source tree, or None; <words> stand for any name."""
    text = re.sub(r"<[^>]+>", "*", text)
    if not re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", text):
        return None
    return text.rstrip("/") if "/" in text or Path(text).suffix in SUFFIXES else None


def named_paths():
    texts = [span.text for span in SPANS] + [link for link in LINKS if "://" not in link]
    texts += [word for block in BLOCKS if not block.language for word in block.text.split()]
    return sorted(set(filter(None, map(path_pattern, texts))))


def is_there(pattern):
    # The name of a file alone is that of a file in any folder.
    return any(ROOT.glob(pattern) if "/" in pattern else ROOT.rglob(pattern))


@pytest.mark.parametrize("pattern", named_paths())
def test_paths(pattern):
    if pattern.startswith(".ci/") and not (ROOT / ".ci").exists():
        pytest.skip("a source distribution has no .ci")
    assert is_there(pattern)


def named_attributes():
    return sorted(set(re.findall(r"\bfastconv\.([A-Za-z_]\w*(?:\.\w+)*)", README.read_text())))


@pytest.mark.parametrize("name", named_attributes())
def test_names(name):
    if name == "_cuda":  # not built everywhere
        assert '"fastconv._cuda"' in (ROOT / "setup.py").read_text()
        return
    value, path = fastconv, "fastconv"
    for part in name.split("."):
        path = f"{path}.{part}"
        value = getattr(value, part) if hasattr(value, part) else importlib.import_module(path)


@cache
def package_sources():
    """Text of all that is built or installed."""
    folders = [ROOT / folder for folder in ("fastconv", "csrc", "triton_kernels", "bench")]
    files = [path for folder in folders for path in folder.rglob("*") if path.suffix in SUFFIXES]
    return "\n".join(path.read_text() for path in [ROOT / "setup.py", *files])


def is_read(variable):
    reads = rf'(environ(\.get\(|\[)|getenv\()\s*"{variable}"|"{variable}" in os\.environ'
    return re.search(reads, package_sources()) is not None


@pytest.mark.parametrize("name", variables())
def test_variables_are_read(name):
    assert is_read(name) != (name in READ_BY_OTHERS)


def test_no_variable_is_missing():
    ours = set(re.findall(r"""["'](FASTCONV_[A-Z0-9_]+)["']""", package_sources()))
    assert len(ours) > len(INTERNAL)
    assert ours - set(variables()) == INTERNAL.keys()


def test_what_is_not_there_would_be_found():
    assert path_pattern("csrc/cpu/kernels/<operator>_<algorithm>.cpp") == "csrc/cpu/kernels/*_*.cpp"
    assert is_there("csrc/cpu/kernels/*_*.cpp") and is_there("isa.h")
    assert not is_there("csrc/cpu/kernels/*_nothing.cpp") and not is_there("nothing.h")
    assert path_pattern("threadIdx") is None and path_pattern("~/.cache/fastconv") is None
    assert is_read("FASTCONV_STRICT") and is_read("FASTCONV_ISA")
    assert not is_read("FASTCONV_NOTHING")
