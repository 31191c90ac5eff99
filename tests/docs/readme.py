"""The README files as their tests read them: code blocks, code in sentences, links, tables,
variables, and shell commands, which bash itself takes apart."""

import os
import re
import shlex
import shutil
import subprocess
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from markdown_it import MarkdownIt

ROOT = Path(__file__).parents[2]
FOLDERS = ("bench", "csrc", "fastconv", "tests", "triton_kernels")
BASH = shutil.which("bash")
# A command begins with one of these, or is a script of the tree.
PROGRAMS = {"pip", "pytest", "python", "fastconv", "gdb"}


@dataclass(frozen=True)
class Code:
    file: str  # relative to the root
    line: int  # from 1
    language: str  # of a block; "" without a tag and in sentences
    text: str

    def __str__(self):
        return f"{self.file} line {self.line}"


class Readme:
    """One file: its text, code blocks, code in sentences (spans) and links."""

    def __init__(self, path):
        self.path = path
        self.name = path.relative_to(ROOT).as_posix()
        self.text = path.read_text()
        self.tokens = MarkdownIt("commonmark").enable("table").parse(self.text)
        inline = [token for token in self.tokens if token.type == "inline"]
        self.blocks = [
            # The line after the fence.
            Code(self.name, token.map[0] + 2, token.info.strip(), token.content)
            for token in self.tokens
            if token.type == "fence"
        ]
        self.spans = [span for token in inline for span in self.spans_of(token)]
        self.links = [
            child.attrs["href"]
            for token in inline
            for child in token.children
            if child.type == "link_open"
        ]

    def spans_of(self, inline):
        line = inline.map[0] + 1
        for child in inline.children:
            line += child.type in ("softbreak", "hardbreak")
            if child.type == "code_inline":
                yield Code(self.name, line, "", child.content)

    def first_column(self, heading):
        """The spans in the first column of the tables that are headed so."""
        for header, *rows in _tables(self.tokens):
            if header[0].content == heading:
                for row in rows:
                    yield from self.spans_of(row[0])


READMES = [
    Readme(path)
    for path in (
        ROOT / "README.md",
        *(path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("README.md"))),
    )
]
BLOCKS = [block for readme in READMES for block in readme.blocks]
SPANS = [span for readme in READMES for span in readme.spans]


def _tables(tokens):
    """The rows of cells of each table, the header first."""
    rows = []
    for before, token in pairwise(tokens):
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif before.type in ("th_open", "td_open"):
            rows[-1].append(token)
        elif token.type == "table_close":
            yield rows


def variables():
    """Names of environment variables: the first column of the tables headed "variable", and what is
    written NAME=value elsewhere."""
    texts = [span.text for readme in READMES for span in readme.first_column("variable")]
    texts += [span.text for span in SPANS if re.fullmatch(r"[A-Z][A-Z0-9_]+=\S+", span.text)]
    return sorted({text.partition("=")[0] for text in texts})


def program(command):
    """(name, arguments) of a shell command, without assignments of variables before it. The name of
    `python -m package.module` is that of the package."""
    words = command.split()
    while words and re.match(r"\w+=", words[0]):
        words = words[1:]
    if words[:2] == ["python", "-m"]:
        words = [words[2].split(".")[0], *words[3:]]
    return (words[0], words[1:]) if words else ("", [])


def is_command(text):
    """Whether code in a sentence is a command, and not the name of something."""
    name, arguments = program(text)
    if "/" in name:
        return os.access(ROOT / name, os.X_OK) and (ROOT / name).is_file()
    return name in PROGRAMS and bool(arguments)


# Before each simple command, also of subshells, bash calls the trap; with extdebug it leaves out
# the command where the trap fails. Loops and exports go on, for the commands inside them.
_LIST = r"""
exec 3>&1 >/dev/null
shopt -s extdebug extglob
set -T
note() { printf '%s\0' "$BASH_COMMAND" >&3; [[ $BASH_COMMAND != @(export|for)\ * ]]; }
trap '! note' DEBUG
"""
_RUN = r"""
set -euo pipefail
shopt -s extdebug
set -T
instead() {
  case $BASH_COMMAND in
%s
    *) return 1 ;;
  esac
}
trap '! instead' DEBUG
"""


def commands(script):
    """The simple commands of a shell script in bash's own spelling; none of them is run."""
    done = subprocess.run(
        [BASH, "-c", _LIST + script],
        # Nothing can be found there, should one be run after all.
        env={"PATH": "/nonexistent"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert not done.stderr, f"bash cannot read this: {done.stderr}"
    return list(dict.fromkeys(filter(None, done.stdout.split("\0"))))


def script_with(script, replaced):
    """The script for bash -c in which a command that is a key of `replaced` is its value instead.
    The first command that fails ends it."""
    cases = [
        f"    {shlex.quote(command)}) {text + ' || exit ' if text else ''};;"
        for command, text in replaced.items()
    ]
    return _RUN % "\n".join(cases) + script
