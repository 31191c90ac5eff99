"""Results that outlive a broken run: a CSV file, written line by line, that the next run goes on
with."""

import re
import sys
from dataclasses import replace
from itertools import count
from pathlib import Path

from .load import DISTURBED_LIMIT
from .record import Row, append_csv, as_dict, columns, read_rows

# What two runs must share for one to go on with the other's file.
SAME = ("device", "instruction_set", "commit", "torch", "fastconv")


def key(row):
    """What tells one row from the others. Networks share layers, whose problem is timed once under
    one of their names; a network's own rows go by its name and variant, a call's by its operator
    and form."""
    named = (row.model, row.layer) if row.op in ("network", "call") else ()
    return (
        row.op, row.pass_, *named, row.problem, row.layout, row.dtype, row.threads,
        row.requested_backend, row.baseline,
    )  # fmt: skip


def _drop_cut_off_line(path):
    """A run that was killed may have left half a line."""
    text = path.read_bytes()
    whole = text.rfind(b"\n") + 1
    if whole < len(text):
        with open(path, "rb+") as file:
            file.truncate(whole)


def conditions(where):
    """What two runs must share (SAME), of an environment that was read."""
    return tuple(where.get(name) for name in SAME)


def _has_columns(path, where):
    header = path.read_bytes().partition(b"\n")[0]
    return header in (b"", ",".join(columns(where)).encode())


def _read(path, where):
    """((Row, environment) of each line, why this environment's rows do not belong to them or None)
    of a file."""
    if not _has_columns(path, where):
        return [], "other columns"
    try:
        pairs = read_rows(path)
    except ValueError as error:
        return [], str(error).removeprefix(f"{path}, ")
    return pairs, _difference(pairs, where)


def _difference(pairs, where):
    for _, other in pairs:
        for name in SAME:
            if other.get(name, "") != str(where[name] or ""):
                return f"{name} {other.get(name, 'unknown')}, this is {where[name] or 'unknown'}"
    return None


def _put_aside(path, commit):
    """Renames a file after the commit its rows are of, and to no name that is taken."""
    stem = f"{path.stem}.{re.sub(r'[^A-Za-z0-9_.+-]', '_', commit or 'old')}"
    names = (f"{stem}.{n}{path.suffix}" if n > 1 else f"{stem}{path.suffix}" for n in count(1))
    free = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    return path.rename(free)


def _serves(row, seconds):
    return row is not None and row.seconds >= seconds and not row.is_disturbed


class ResultsFile:
    """The rows of a CSV file: those of earlier runs, and those that are added.

    A file of another commit, device or version, or with other columns, is not gone on with.

    Args:
        path: of the CSV file, which need not be there.
        where: a record.environment and further columns; the same names for all rows to come.
        fresh: do not go on with any file.
        keep_others: put a file that is not gone on with aside; False: remove it, if it has the same
            columns.
        disturbed_limit: by which rows of earlier runs are judged; see Row.is_disturbed.
    """

    def __init__(self, path, where, fresh=False, keep_others=True, disturbed_limit=DISTURBED_LIMIT):
        self.path = Path(path)
        self.rows, self.where = {}, {}
        if not self.path.exists():
            return
        _drop_cut_off_line(self.path)
        pairs, difference = _read(self.path, where)
        if fresh:
            difference = "--fresh"
        if difference is None:
            rows = (replace(row, disturbed_limit=disturbed_limit) for row, _ in pairs)
            self.rows = {key(row): row for row in rows}
            self.where = {key(row): environment for row, environment in pairs}
            return
        if keep_others or not _has_columns(self.path, where):
            aside = _put_aside(self.path, pairs[0][1].get("commit") if pairs else None)
            print(f"{self.path}: {difference}; moved to {aside.name}", file=sys.stderr)
        else:
            self.path.unlink()
            print(f"{self.path}: {difference}; removed", file=sys.stderr)

    def missing(self, case, threads, backend, against, seconds):
        """The baselines, among those in `against`, that a case has no row for, or only one that was
        measured for less time or on a busy machine."""
        rows = {b.name: self.get(case, threads, backend, b) for b in against}
        return [b for b in against if not _serves(rows[b.name], seconds)]

    def get(self, case, threads, backend, baseline):
        """A case's row against a baseline, or None."""
        return self.rows.get(key(Row.of(case, threads, backend, baseline.name)))

    def add(self, rows, where):
        """Appends rows, which are in the file when this returns."""
        append_csv(self.path, rows, where)
        self.rows |= {key(row): row for row in rows}
        self.where |= {key(row): where for row in rows}

    def record(self, row):
        """The columns of a row that the file has: {name: value, None where it is empty}."""
        where = self.where[key(row)]
        record = dict.fromkeys(columns(where)) | as_dict(row)
        return record | {name: value for name, value in where.items() if value != ""}
