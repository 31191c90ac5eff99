"""Results that outlive a broken run: a CSV file, written line by line, that the next run goes on
with."""

import csv
from itertools import count
from pathlib import Path

from .record import Row, append_csv, columns

# What two runs must share for one to go on with the other's file.
SAME = ("device", "commit", "torch", "fastconv")


def key(row):
    """What tells one row from the others. Networks share layers, whose problem is timed once under
    one of their names; a network's own rows go by its name and variant."""
    named = (row.model, row.layer) if row.op == "network" else ()
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


def _is_readable(line):
    try:
        Row.read(line)
    except (TypeError, ValueError):
        return False
    return None not in line  # where csv.DictReader puts what is too much


def _difference(lines, names, where):
    """Why rows measured in this environment do not belong to these lines, or None."""
    if names is not None and names != columns(where):
        return "other columns"
    for line in lines:
        if not _is_readable(line):
            return "a damaged line"
        for name in SAME:
            if line[name] != str(where[name] or ""):
                return f"{name} {line[name] or 'unknown'}, this is {where[name] or 'unknown'}"
    return None


def put_aside(path, commit):
    """Renames a file after the commit its rows are of, and to no name that is taken."""
    stem = f"{path.stem}.{commit or 'old'}"
    names = (f"{stem}.{n}{path.suffix}" if n > 1 else f"{stem}{path.suffix}" for n in count(1))
    free = next(path.with_name(name) for name in names if not path.with_name(name).exists())
    return path.rename(free)


class Results:
    """The rows of a CSV file: those of earlier runs, and those that are added.

    A file of another commit, device or version, or with other columns, is not gone on with.

    Args:
        path: of the CSV file, which need not be there.
        where: a record.environment and further columns; the same names for all rows to come.
        fresh: do not go on with any file.
        keep_others: put a file that is not gone on with aside and say so; False: remove it.
    """

    def __init__(self, path, where, fresh=False, keep_others=True):
        self.path = Path(path)
        self.rows = {}
        if not self.path.exists():
            return
        _drop_cut_off_line(self.path)
        with open(self.path, newline="") as file:
            reader = csv.DictReader(file)
            names, lines = reader.fieldnames, list(reader)
        difference = "--fresh" if fresh else _difference(lines, names, where)
        if difference is None:
            self.rows = {key(row): row for row in map(Row.read, lines)}
        elif keep_others:
            aside = put_aside(self.path, lines[0].get("commit") if lines else None)
            print(f"{self.path}: {difference}; moved to {aside.name}", flush=True)
        else:
            self.path.unlink()

    def missing(self, case, threads, backend, against):
        """Those of the baselines `against` that a case has no row for."""
        return [b for b in against if self.get(case, threads, backend, b) is None]

    def get(self, case, threads, backend, baseline):
        """A case's row against a baseline, or None."""
        return self.rows.get(key(Row.of(case, threads, backend, baseline.name)))

    def add(self, rows, where):
        """Appends rows, which are in the file when this returns."""
        append_csv(self.path, rows, where)
        self.rows |= {key(row): row for row in rows}
