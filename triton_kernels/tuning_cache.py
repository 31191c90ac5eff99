"""The tuned choices of a device, by key: in memory, and in a JSON file that processes share.

    {"format": 1, "device": "NVIDIA H100 80GB HBM3", "triton": "3.9.0", "choices": {
      "conv2d_implicit_gemm fprop float16 fp16 channels gemm_m=4096 gemm_n=64 gemm_k=1024":
        {"config": [128, 64, 64, 4, 4], "us": 41.2, "table_us": 52.0}}}

A config is block_m, block_n, block_k, num_warps, num_stages. A file only chooses among a kernel's
own configurations: nothing in it can make a result wrong. What is no such choice is ignored with a
warning, and gone after the next save.
"""

import contextlib
import json
import os
import re
import secrets
import warnings
from pathlib import Path
from typing import NamedTuple

from .launch import Config

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None

_FORMAT = 1
_LONGEST_US = 1e12


class Tuned(NamedTuple):
    """The fastest configuration of a key, its microseconds, and those of the table's choice (None:
    it could not run)."""

    config: Config
    us: float
    table_us: float | None

    def __str__(self):
        table = "could not run" if self.table_us is None else f"{self.table_us:.1f} us"
        return f"tuned: {self.us:.1f} us, the table's choice {table}"


def folder():
    """Where the files lie, or None where the system names no place for them."""
    if named := os.environ.get("FASTCONV_CACHE_DIR"):
        return Path(os.path.abspath(os.path.expanduser(named)))
    caches = os.environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(caches):
        caches = os.path.expanduser("~/.cache")
    return Path(caches) / "fastconv" if os.path.isabs(caches) else None


def file_name(device, triton_version):
    return re.sub(r"[^A-Za-z0-9.]+", "-", f"{device} triton {triton_version}") + ".json"


class TunedChoices:
    """Key -> Tuned. Calls of put() must not overlap; get() may be called at any time.

    Args:
        candidates: of a key, the configurations that it chooses among; none for a foreign key.
    """

    def __init__(self, folder, device, triton_version, candidates):
        self.path = folder and folder / file_name(device, triton_version)
        self._identity = {"format": _FORMAT, "device": device, "triton": triton_version}
        self._candidates = candidates
        self._warned = set()
        self._choices = self._read()

    def get(self, key):
        return self._choices.get(key)

    def put(self, key, tuned):
        """Keeps a choice, and those that other processes have saved meanwhile."""
        self._choices = {**self._choices, key: tuned}
        if self.path is None:
            self._warn("access", "no home directory; set FASTCONV_CACHE_DIR to keep tuned choices")
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with _one_writer(self.path.parent):
                self._choices = {**self._read(), **self._choices}
                _write(self.path, self._text())
        except OSError as error:
            self._warn("access", f"tuned choices are kept in this process only: {error}")

    def _read(self):
        if self.path is None:
            return {}
        try:
            content = json.loads(self.path.read_bytes())
        except (FileNotFoundError, NotADirectoryError):
            return {}
        except OSError as error:
            self._warn("access", f"tuned choices cannot be read: {error}")
            return {}
        except (ValueError, RecursionError) as error:
            self._warn("content", f"{self.path} is ignored: not JSON, {error}")
            return {}
        found = content if isinstance(content, dict) else {}
        rows = found.get("choices")
        if {name: found.get(name) for name in self._identity} != self._identity:
            self._warn("content", f"{self.path} is ignored: not of {self._identity}")
            return {}
        if not isinstance(rows, dict):
            self._warn("content", f"{self.path} is ignored: it has no choices")
            return {}
        choices = {}
        for key, row in rows.items():
            try:
                choices[key] = self._checked(key, row)
            except ValueError as error:
                self._warn("content", f"{self.path}: ignored {key!r} and any like it: {error}")
        return choices

    def _checked(self, key, row):
        candidates = self._candidates(key)
        if not candidates:
            raise ValueError("no kernel has this key")
        if not isinstance(row, dict) or row.keys() != {"config", "us", "table_us"}:
            raise ValueError(f"expected config, us and table_us, got {row!r}")
        config = next((c for c in candidates if list(c) == row["config"]), None)
        if config is None:
            raise ValueError(f"{row['config']!r} is not a configuration of the kernel")
        us, table_us = row["us"], row["table_us"]
        if not _is_time(us) or not (table_us is None or _is_time(table_us)):
            raise ValueError(f"{us!r} and {table_us!r} are not microseconds")
        return Tuned(config, us, table_us)

    def _text(self):
        """JSON with a line for each choice."""
        head = json.dumps(self._identity)[:-1]
        rows = (
            f"  {json.dumps(key)}:\n    "
            + json.dumps({"config": list(config), "us": us, "table_us": table_us})
            for key, (config, us, table_us) in sorted(self._choices.items())
        )
        return f'{head}, "choices": {{\n' + ",\n".join(rows) + "\n}}\n"

    def _warn(self, about, message):
        if about not in self._warned:
            self._warned.add(about)
            warnings.warn(f"fastconv: {message}", stacklevel=2)


def _is_time(value):
    return type(value) in (int, float) and 0 < value < _LONGEST_US


def _write(path, text):
    """All of it or nothing: readers see the old file until the new one is complete."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        temporary.write_text(text, encoding="utf-8")
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def _one_writer(folder):
    """Where the file system has no locks, of two that save in the same moment the first loses its
    newest choice until its next save."""
    with open(folder / ".lock", "a") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield
