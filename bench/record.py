"""One row of results, where it was measured, and both as CSV and JSON; CSV can be read back."""

import csv
import json
import math
import os
import platform
import subprocess
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import get_args

import torch

from .load import is_busy


@dataclass
class Row:
    """A case against one baseline. Times in microseconds; None where there is no number."""

    op: str
    pass_: str
    family: str
    model: str
    layer: str
    problem: str
    layout: str
    dtype: str
    threads: int | None = None  # of the CPU
    backend: str | None = None
    algorithm: str | None = None
    status: str = "ok"  # or "wrong", "failed", "no kernel", "no baseline", "no memory"
    reason: str | None = None
    us: float | None = None
    p20_us: float | None = None
    p80_us: float | None = None
    eager_us: float | None = None
    tflops: float | None = None
    gbs: float | None = None
    baseline: str | None = None
    baseline_us: float | None = None
    baseline_p20_us: float | None = None
    baseline_p80_us: float | None = None
    baseline_eager_us: float | None = None
    roofline_percent: float | None = None  # of the device's ceilings (GPU sweep only)
    x_baseline: float | None = None  # baseline_us / us: above 1 fastconv is the faster one
    timer: str | None = None
    input_sets: int | None = None  # rotated through, to find inputs cold in L2 (GPU only)
    others_cpus: float | None = None  # CPUs that other programs kept busy meanwhile (CPU only)
    page_faults: float | None = None  # a call; where it is not near 0 the allocator was timed too
    baseline_page_faults: float | None = None
    error: float | None = None  # largest elementwise error over the largest exact value
    baseline_error: float | None = None
    note: str = ""

    @property
    def is_failure(self):
        return self.status in ("wrong", "failed")

    @property
    def is_quotable(self):
        """Whether there is a right result's ratio, taken on a machine that did little else."""
        measured = self.status == "ok" and self.x_baseline is not None
        return measured and not is_busy(self.others_cpus)


def _processor():
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _git(*arguments):
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit():
    """The commit of a checkout, "+" after it where files differ from it; None where this file is
    not a tracked one: an installed package may lie inside somebody else's repository.
    FASTCONV_COMMIT tells an installed package what it was built from."""
    if os.environ.get("FASTCONV_COMMIT"):
        return os.environ["FASTCONV_COMMIT"]
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return None
    return (_git("rev-parse", "--short=12", "HEAD") or "") + ("+" if _git("status", "-s") else "")


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment(device):
    """Where and with what a run is made: strings and numbers, the same for all its rows."""
    values = {
        "device": _processor() if device == "cpu" else torch.cuda.get_device_name(),
        "fastconv": _version("fastconv"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "commit": _commit(),
        "utc": datetime.now(timezone.utc).isoformat(timespec="seconds"),
    }
    if device == "cuda":
        values |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "triton": _version("triton"),
        }
    return values


def _as_dict(row):
    values = {name.rstrip("_"): value for name, value in asdict(row).items()}
    for name, value in values.items():
        if isinstance(value, float):  # five digits; JSON knows no NaN
            values[name] = float(f"{value:.5g}") if math.isfinite(value) else None
    return values


def write_json(path, rows, where):
    """{"environment": {...}, "rows": [{...}, ...]}"""
    record = {"environment": where, "rows": [_as_dict(row) for row in rows]}
    Path(path).write_text(json.dumps(record, indent=1) + "\n")


def write_csv(path, rows, where):
    """One line a row, the environment repeated on each, so that files can be joined."""
    records = [_as_dict(row) | where for row in rows]
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(records[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def append_csv(path, rows, where):
    """write_csv, after what is there already; the file's columns must be ours."""
    path = Path(path)
    if not path.exists():
        return write_csv(path, rows, where)
    with open(path, "a", newline="") as file:
        records = [_as_dict(row) | where for row in rows]
        csv.DictWriter(file, fieldnames=list(records[0]), lineterminator="\n").writerows(records)


def _value(field, text):
    """A cell as a Row holds it; an empty one is None where the field may be."""
    kinds = get_args(field.type) or (field.type,)
    if not text and type(None) in kinds:
        return None
    return kinds[0](text or "")


def _row(record):
    """The Row of a CSV record; columns younger than the file keep their defaults."""
    values = {}
    for field in fields(Row):
        column = field.name.rstrip("_")
        if column in record:
            values[field.name] = _value(field, record[column])
        elif field.default is MISSING:
            raise ValueError(f"has no column {column!r}")
    return Row(**values)


def read_rows(path):
    """What write_csv wrote: (Row, environment) of each line.

    An environment holds the columns that are no fields of a Row, as text, without the empty ones.
    Raises ValueError where the file is not one of ours.
    """
    names = {field.name.rstrip("_") for field in fields(Row)}
    pairs = []
    with open(path, newline="") as file:
        reader = csv.DictReader(file)
        for record in reader:
            try:
                row = _row(record)
            except ValueError as error:
                raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
            # None is the key of surplus cells.
            where = {k: v for k, v in record.items() if v and k is not None and k not in names}
            pairs.append((row, where))
    return pairs
