"""`fastconv bench --json`: the rows of a run, with the columns of the CSV files, as JSON."""

import json
import sys
from pathlib import Path


def _value(name, value):
    """A ceiling that was read from a file is text there."""
    return float(value) if name.startswith("ceiling_") and isinstance(value, str) else value


def write_json(path, where, records):
    """Writes {"environment": ..., "rows": [...]}.

    Args:
        path: of the file, or "-" for standard output.
        where: the run's environment: device, versions, commit, time and command.
        records: a dict a row; rows of earlier runs have their own time and command.
    """
    rows = [{name: _value(name, value) for name, value in one.items()} for one in records]
    text = json.dumps({"environment": where, "rows": rows}, indent=1) + "\n"
    if path == "-":
        sys.stdout.write(text)
    else:
        Path(path).write_text(text, "utf-8")
