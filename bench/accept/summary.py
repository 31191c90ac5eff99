"""The short table at the end, from what the steps left in the output folder."""

import csv
import math

from clock import Stopped
from output import FILES
from predicted import beside

RESULTS = {"wrappers": "wrappers.csv", "tests": "tests.csv", "triton": "triton.csv"}
MOST_FAILURES = 10  # of a step that are named


def read_rows(path):
    """The rows of a CSV; none where there is no such file."""
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []


def outcomes(path):
    """{test: (outcome, reason)} of a file of results; where a test has several, its failure."""
    found = {}
    for row in read_rows(path):
        test, outcome = row.get("test"), row.get("outcome")
        if outcome in ("passed", "failed", "skipped") and found.get(test, ("",))[0] != "failed":
            found[test] = outcome, row.get("reason") or ""
    return found


def count_tests(path):
    """(passed, failed, skipped)"""
    words = [outcome for outcome, _ in outcomes(path).values()]
    return tuple(words.count(word) for word in ("passed", "failed", "skipped"))


def _failures(path):
    """Lines that name the first tests that failed."""
    failed = [(t, why) for t, (outcome, why) in outcomes(path).items() if outcome == "failed"]
    lines = [f"      {test}: {why}"[:160] for test, why in failed[:MOST_FAILURES]]
    return lines + [f"      and {len(failed) - MOST_FAILURES} more"] * (len(failed) > MOST_FAILURES)


def _mean(values):
    values = [value for value in values if value > 0]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def _number(row, name):
    try:
        return float(row[name])
    except (KeyError, TypeError, ValueError):
        return None


def _column(row):
    """The column of a row: precision and layout, which are what a user chooses."""
    precision = {"bfloat16": "bf16", "float16": "fp16", "float32": "fp32", "float64": "fp64"}
    name = precision.get(row.get("dtype"), "?")
    if (row.get("baseline") or "").endswith("TF32"):
        name = "tf32"
    layout = {"channels_last": "NHWC", "nchw": "NCHW"}.get(row.get("layout"), "?")
    return f"{name} {layout}"


def _cell(rows):
    """Geometric means: how many times faster than the baseline, and the share of the roofline."""
    ratio = _mean([r for row in rows if (r := _number(row, "x_baseline"))])
    roof = _mean([r for row in rows if (r := _number(row, "roofline_percent"))])
    wrong = sum(row.get("status") in ("wrong", "failed") for row in rows)
    text = f"{ratio:.2f}x" if ratio else "-"
    text += f" {roof:.0f}%" if roof else ""
    return text + (f" {wrong} WRONG" if wrong else "")


def _peer(row):
    """The table that a row belongs to: (backend, what it is compared with)."""
    backend, baseline = row.get("backend") or "?", row.get("baseline") or "?"
    ours = baseline.startswith("fastconv")
    return backend, "fastconv's CUDA" if ours else "cuDNN (NHWC: its benchmark mode) or ATen"


def family_tables(rows):
    """Lines of tables, one for each backend and peer."""
    lines = []
    for backend, peer in dict.fromkeys(map(_peer, rows)):
        own = [row for row in rows if _peer(row) == (backend, peer)]
        lines += [f"{backend}: times faster than {peer}, and % of roofline", *_table(own), ""]
    return lines


def _table(rows):
    """A line for each family and pass, a column for each precision and layout."""
    columns = sorted({_column(row) for row in rows})
    cells = {}
    for row in rows:
        line = (row.get("family") or "?", row.get("pass") or "?")
        cells.setdefault(line, {}).setdefault(_column(row), []).append(row)
    table = [("family", "pass", "lines", *columns)]
    for line, by_column in cells.items():
        count = str(sum(map(len, by_column.values())))
        table.append((*line, count, *(_cell(by_column.get(name, [])) for name in columns)))
    widths = [max(map(len, column)) for column in zip(*table)]
    return ["  ".join(t.ljust(w) for t, w in zip(line, widths)).rstrip() for line in table]


def _step(folder, name, seconds, wrong):
    """(verdict, lines) of a step: "ok", "FAIL", or "CUT" where nothing but time was lacking."""
    detail, failures = wrong or "passed", []
    if name in RESULTS:
        passed, failed, skipped = count_tests(folder / RESULTS[name])
        detail += f"; {passed} passed, {failed} failed, {skipped} skipped"
        failures = _failures(folder / RESULTS[name])
    if name == "bench":
        layers, pools = (len(read_rows(folder / f"{part}.csv")) for part in ("layers", "pools"))
        detail += f"; {layers} layer lines, {pools} pool lines"
    cut = isinstance(wrong, Stopped) and not failures
    verdict = "CUT" if cut else "FAIL" if wrong or failures else "ok"
    return verdict, [f"{verdict:<5} {name:<12} {seconds:5.0f} s  {detail}", *failures]


def _steps(folder, results):
    """({step: verdict}, lines)"""
    verdicts, lines = {}, []
    for name, (seconds, wrong) in results.items():
        verdicts[name], own = _step(folder, name, seconds, wrong)
        lines += own
    return verdicts, lines


def summarise(folder, results):
    """(the text, whether all passed). results: {step: (seconds, None or what went wrong)}"""
    lines = [""]
    if rows := read_rows(folder / "layers.csv") + read_rows(folder / "pools.csv"):
        lines += family_tables(rows) + beside(folder)
    verdicts, own = _steps(folder, results)
    passed = bool(results) and set(verdicts.values()) == {"ok"}
    lines += [*own, "accepted" if passed else "NOT ACCEPTED"]
    return "\n".join(lines) + "\n", passed


def rehearsed(folder, results):
    """The same of a rehearsal: a step may have run out of time, but each must have left the files
    that it writes, and there must be no others."""
    verdicts, lines = _steps(folder, results)
    # The log is still written to, the summary is this text.
    there = {path.name for path in folder.iterdir()} | {"summary.txt"}
    files = {name: {f"{name}.csv"} for name in RESULTS}
    files |= {"environment": {"environment.json"}, "bench": {"layers.csv", "pools.csv"}}
    wrong = [f"{name} failed" for name, verdict in verdicts.items() if verdict == "FAIL"]
    wrong += [
        f"{name} left no {file}" for name in results for file in files.get(name, set()) - there
    ]
    for name in RESULTS.keys() & results.keys():
        if not count_tests(folder / RESULTS[name])[0]:
            wrong.append(f"{name} left no results")
    wrong += [f"{name} is none of the files" for name in sorted(there - set(FILES))]
    lines += [f"rehearsed; on a GPU: {len(FILES)} files at most"] if not wrong else wrong
    return "\n".join(["", *lines]) + "\n", not wrong
