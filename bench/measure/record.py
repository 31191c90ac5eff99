"""One row of results and where it was measured, as a line of CSV, which can be read back."""

import csv
import hashlib
import io
import math
import os
import platform
import subprocess
from dataclasses import MISSING, asdict, dataclass, fields
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, distribution, version
from pathlib import Path
from typing import get_args

import torch

from ..._native import core
from .load import DISTURBED_LIMIT


@dataclass
class Row:
    """A case against one baseline. Times in microseconds, medians where the name does not tell
    another percentile; None where there is no number."""

    op: str  # of fastconv, as "conv2d+bias+relu"; "network" for a whole one; "call" for its cost
    pass_: str
    family: str  # the kind of layer, whose rows share a mean; of a network or call as its model
    model: str  # the network that the layer is of; of a call the operator
    layer: str  # its name there; of a network "converted" or "fused", of a call its form
    problem: str  # its sizes in short, as in cases/shapes.py
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
    eager_us: float | None = None  # of one call and its launch; on a CPU the same as us
    tflops: float | None = None  # 10^12 FLOPs a second
    gbs: float | None = None  # 10^9 compulsory bytes a second
    baseline: str | None = None
    baseline_us: float | None = None
    baseline_p20_us: float | None = None
    baseline_p80_us: float | None = None
    baseline_eager_us: float | None = None
    roofline_percent: float | None = None  # of the ceilings; above 100 where caches hold all
    x_baseline: float | None = None  # baseline_us / us: above 1 fastconv is the faster one
    timer: str | None = None
    input_sets: int | None = None  # rotated through, to find inputs cold in L2 (GPU only)
    others_cpus: float | None = None  # CPUs that other programs kept busy meanwhile (CPU only)
    page_faults: float | None = None  # a call; where it is not near 0 the allocator was timed too
    baseline_page_faults: float | None = None
    error: float | None = None  # largest elementwise error over the largest exact value
    baseline_error: float | None = None
    note: str = ""
    requested_backend: str | None = None  # None: fastconv's own choice
    seconds: float | None = None  # of measuring each side, as asked for
    samples: int | None = None  # calls of fastconv, or without it the baseline, that were timed
    disturbed_limit: float | None = DISTURBED_LIMIT  # of others_cpus; see is_disturbed
    gpu_clock_mhz: float | None = None  # of the SMs, after the line was timed, as the next two
    gpu_power_w: float | None = None
    gpu_temperature_c: float | None = None

    @classmethod
    def of(cls, case, threads, backend=None, baseline=None):
        """The row of a case (or of a network's) before anything is measured."""
        return cls(
            case.op, case.pass_, case.family, case.model, case.layer, case.problem, case.layout,
            case.dtype, threads, backend, baseline=baseline, requested_backend=backend,
        )  # fmt: skip

    @classmethod
    def read(cls, line):
        """The row of a line that csv.DictReader has read. Columns that were not there yet when the
        file was written keep their defaults. Raises ValueError where another column is missing, or
        the line has too few or too many cells."""
        if None in line or None in line.values():  # too many cells; too few
            raise ValueError("a damaged line")
        values = {}
        for field in fields(cls):
            column = _column(field.name)
            if column in line:
                values[field.name] = _parse(line[column], field.type)
            elif field.default is MISSING:
                raise ValueError(f"has no column {column!r}")
        return cls(**values)

    @property
    def is_failure(self):
        return self.status in ("wrong", "failed")

    @property
    def is_disturbed(self):
        """Whether other programs kept more CPUs busy meanwhile than a time to be quoted allows."""
        return self.others_cpus is not None and self.others_cpus > self.disturbed_limit

    @property
    def has_ratio(self):
        """Whether there is a right result's ratio."""
        return self.status == "ok" and self.x_baseline is not None

    @property
    def is_quotable(self):
        """Whether there is a right result's ratio, taken on a machine that did little else."""
        return self.has_ratio and not self.is_disturbed


def _column(name):
    """The column of a field: its name without the underscore that Python needs after `pass`."""
    return name.rstrip("_")


def _parse(text, kind):
    """A value of a field's type, `str` or `float | None` and the like."""
    if kind is str:
        return text
    return get_args(kind)[0](text) if text else None


def _processor():
    """A processor's name. In a virtual machine that may be "AMD EPYC" alone, for processors whose
    ratios differ: where Linux tells family and model, they belong to the name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    told = {}
    for key, _, value in (line.partition(":") for line in lines):
        told.setdefault(key.strip(), value.strip())
    name = told.get("model name") or platform.processor() or platform.machine()
    if {"cpu family", "model"} <= told.keys():
        name += f" (family {told['cpu family']}, model {told['model']})"
    return name


def _git(*arguments):
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _commit():
    """The commit of a checkout; where files differ from it "+" and a digest of the difference, so
    that two edits do not pass for one. Where this file is not a tracked one (an installed package
    may lie inside somebody else's repository) a digest of the installed files instead.
    FASTCONV_COMMIT tells an installed package what it was built from."""
    if os.environ.get("FASTCONV_COMMIT"):
        return os.environ["FASTCONV_COMMIT"]
    if _git("ls-files", "--error-unmatch", Path(__file__).name) is None:
        return _installed_files()
    commit = _git("rev-parse", "--short=12", "HEAD") or ""
    # Results may be tracked, and are written while the bench runs.
    if difference := _git("diff", "HEAD", "--", ":/", ":(exclude,top)bench/results"):
        commit += "+" + hashlib.sha256(difference.encode()).hexdigest()[:8]
    return commit


def _installed_files():
    """Which build is installed: its list of files holds a digest of each."""
    try:
        files = distribution("fastconv").read_text("RECORD")
    except PackageNotFoundError:
        return None
    return f"installed-{hashlib.sha256(files.encode()).hexdigest()[:12]}" if files else None


def _version(package):
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def environment(device):
    """Where and with what a run is made: strings and numbers, the same for all its rows."""
    values = {
        "device": _processor() if device == "cpu" else torch.cuda.get_device_name(),
        "instruction_set": core.instruction_set(),
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


def as_dict(row):
    """A row by column, as a file has it."""
    values = {_column(name): value for name, value in asdict(row).items()}
    for name, value in values.items():
        if isinstance(value, float):  # five digits, and no NaN: readers differ about it
            values[name] = float(f"{value:.5g}") if math.isfinite(value) else None
    return values


def columns(where):
    """The columns of a file whose rows are measured in such an environment."""
    return [*(_column(field.name) for field in fields(Row)), *where]


def _one_line(value):
    """A row that is cut off in the middle can only be told where a row is a line."""
    return " ".join(value.split()) if isinstance(value, str) else value


def append_csv(path, rows, where):
    """One line a row, after what the file holds already; it is made where it is not there.

    The environment is repeated on each line, so that files can be joined. The file's columns must
    be those of `columns(where)`.
    """
    with open(path, "a", newline="") as file:
        writer = csv.DictWriter(file, columns(where), lineterminator="\n")
        if file.tell() == 0:
            writer.writeheader()
        for row in rows:
            record = as_dict(row) | where
            writer.writerow({name: _one_line(value) for name, value in record.items()})


def read_rows(path):
    """What append_csv wrote: (Row, environment) of each line.

    An environment holds the columns that are no fields of a Row, as text, without the empty ones.
    Half a last line, which a run that was killed may have left, is not read. Raises ValueError
    where the file is not one of ours.
    """
    names = {_column(field.name) for field in fields(Row)}
    pairs = []
    whole = Path(path).read_bytes().rpartition(b"\n")
    try:
        reader = csv.DictReader(io.StringIO(b"".join(whole[:2]).decode(), newline=""))
        for line in reader:
            row = Row.read(line)
            where = {k: v for k, v in line.items() if v and k not in names}
            pairs.append((row, where))
    except UnicodeDecodeError:
        raise ValueError(f"{path}, line 1: no text") from None
    except (ValueError, csv.Error) as error:
        raise ValueError(f"{path}, line {reader.line_num}: {error}") from None
    return pairs
