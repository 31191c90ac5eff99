"""What the README files name is there: files, links, public names, environment variables, options,
and the stations of the walks through the sources."""

import argparse
import importlib
import re
from functools import cache
from pathlib import Path

import pytest

pytest.importorskip("markdown_it")
from readme import FOLDERS, READMES, ROOT, variables

import fastconv
from fastconv.bench.options import add_bench_options
from fastconv.variables import KNOWN

SUFFIXES = {".py", ".h", ".cpp", ".cu", ".cuh", ".sh", ".csv", ".md", ".toml"}
# Variables that others' programs read, and ours that no user needs.
READ_BY_OTHERS = {
    "NVCC_APPEND_FLAGS": "nvcc",
    "OMP_WAIT_POLICY": "OpenMP",
    "TRITON_INTERPRET": "triton",
}
INTERNAL = {"FASTCONV_COMMIT": "names the commit of a tree without git in bench's records"}


def path_pattern(text):
    """A glob for what looks like a path of the source tree, or None; <words> stand for any name."""
    text = re.sub(r"<[^>]+>", "*", text)
    if not re.fullmatch(r"[\w.*-]+(/[\w.*-]+)*/?", text):
        return None
    return text.rstrip("/") if "/" in text or Path(text).suffix in SUFFIXES else None


def named_paths():
    """(the folder of a README, a path that it names) without repetitions."""
    found = []
    for readme in READMES:
        texts = [span.text for span in readme.spans]
        texts += [w for block in readme.blocks if not block.language for w in block.text.split()]
        folder = readme.path.parent.relative_to(ROOT).as_posix()
        patterns = sorted(set(filter(None, map(path_pattern, texts))))
        found += [(folder, pattern) for pattern in patterns]
    return found


def is_there(pattern, folder="."):
    """Whether the source tree has such a path, from its root or from the README's folder."""
    if any(ROOT.glob(pattern)) or any((ROOT / folder).glob(pattern)):
        return True
    # The name of a file alone is that of a file in any folder.
    return "/" not in pattern and any(any((ROOT / name).rglob(pattern)) for name in FOLDERS)


@pytest.mark.parametrize("folder, pattern", named_paths())
def test_paths(folder, pattern):
    if pattern.startswith(".ci/") and not (ROOT / ".ci").exists():
        pytest.skip("a source distribution has no .ci")
    assert is_there(pattern, folder)


@pytest.mark.parametrize("readme", READMES, ids=lambda readme: readme.name)
def test_links(readme):
    """Links are followed from the README's folder, or to a heading of it."""
    headings = re.findall(r"^#+ (.+)$", readme.text, flags=re.M)
    anchors = {"#" + re.sub(r"[^\w -]", "", name).lower().replace(" ", "-") for name in headings}
    links = [link for link in readme.links if "://" not in link and link not in anchors]
    assert [link for link in links if not (readme.path.parent / link).exists()] == []


def test_every_readme_is_linked_to():
    linked = {(readme.path.parent / link).resolve() for readme in READMES for link in readme.links}
    assert {readme.path for readme in READMES[1:]} <= linked


def walks():
    """{title: the file at each station} of csrc/README.md's walks through the sources."""
    (text,) = (readme.text for readme in READMES if readme.name == "csrc/README.md")
    sections = [section.partition("\n") for section in re.split("^## ", text, flags=re.M)]
    return {
        title: re.findall(r"^\d+\. `([^`]+)`", body, flags=re.M)
        for title, _, body in sections
        if title.startswith("Walk")
    }


@pytest.mark.parametrize("title", walks())
def test_walks(title):
    stations = walks()[title]
    assert 0 < len(stations) <= 12  # more would be a sign of a detour in the sources
    assert [station for station in stations if not (ROOT / station).is_file()] == []


def test_walks_are_found():
    assert len(walks()) == 3


def test_the_options_of_bench():
    parser = argparse.ArgumentParser(add_help=False)
    add_bench_options(parser)
    options = {text for action in parser._actions for text in action.option_strings}
    (readme,) = (readme for readme in READMES if readme.name == "bench/README.md")
    assert {span.text.split()[0] for span in readme.first_column("option")} == options


def named_attributes():
    texts = "\n".join(readme.text for readme in READMES)
    return sorted(set(re.findall(r"\bfastconv\.([A-Za-z_]\w*(?:\.\w+)*)", texts)))


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
def sources(*folders):
    """Text of all sources of some folders."""
    files = [path for folder in folders for path in (ROOT / folder).rglob("*")]
    files = [path for path in files if path.suffix in SUFFIXES]
    return "\n".join(path.read_text() for path in [ROOT / "setup.py", *files])


PACKAGE = ("fastconv", "csrc", "triton_kernels", "bench")


def is_read(variable):
    reads = rf'(environ(\.get\(|\[)|(getenv|_environment|is_set)\()\s*"{variable}"'
    reads += rf'|"{variable}" in os\.environ'
    return re.search(reads, sources(*PACKAGE, "tests/emulator")) is not None


@pytest.mark.parametrize("name", variables())
def test_variables_are_read(name):
    assert is_read(name) != (name in READ_BY_OTHERS)


def test_no_variable_is_missing():
    ours = set(re.findall(r"""["'](FASTCONV_[A-Z0-9_]+)["']""", sources(*PACKAGE)))
    assert len(ours) > len(INTERNAL)
    assert ours - set(variables()) == INTERNAL.keys()
    named = {name for name in variables() if name.startswith("FASTCONV_")}
    assert named | INTERNAL.keys() == set(KNOWN)


def test_what_is_not_there_would_be_found():
    assert path_pattern("csrc/cpu/kernels/<operator>_<algorithm>.cpp") == "csrc/cpu/kernels/*_*.cpp"
    assert is_there("csrc/cpu/kernels/*_*.cpp") and is_there("isa.h")
    assert not is_there("csrc/cpu/kernels/*_nothing.cpp") and not is_there("nothing.h")
    assert is_there("include/emulator.h", "tests/emulator") and not is_there("include/emulator.h")
    assert path_pattern("threadIdx") is None and path_pattern("~/.cache/fastconv") is None
    assert is_read("FASTCONV_STRICT") and is_read("FASTCONV_ISA")
    assert not is_read("FASTCONV_NOTHING")
