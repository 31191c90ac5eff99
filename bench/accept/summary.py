"""The short table at the end, from what the steps left in the output folder."""

import csv
import math
import xml.etree.ElementTree as ElementTree

REPORTS = {"wrappers": "wrappers.xml", "tests": "tests.xml", "triton": "triton.xml"}


def count_tests(path):
    """(passed, failed, skipped) of a junit file; None where it cannot be read."""
    try:
        suites = ElementTree.parse(path).getroot().iter("testsuite")
        totals = [0, 0, 0]
        for suite in suites:
            run, skipped = int(suite.get("tests")), int(suite.get("skipped"))
            failed = int(suite.get("failures")) + int(suite.get("errors"))
            for index, value in enumerate((run - failed - skipped, failed, skipped)):
                totals[index] += value
        return tuple(totals)
    except (OSError, ElementTree.ParseError, TypeError, ValueError):
        return None


def read_rows(path):
    try:
        with open(path, newline="") as file:
            return list(csv.DictReader(file))
    except OSError:
        return []


def _mean(values):
    values = [value for value in values if value > 0]
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None


def _number(row, name):
    try:
        return float(row[name])
    except (KeyError, TypeError, ValueError):
        return None


def _column(row):
    """Precision and layout: what a user chooses."""
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
    """Which table a line belongs to: (backend, what it is compared with)."""
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


def summarise(folder, results):
    """(the text, whether all passed). results: {step: (seconds, None or what went wrong)}"""
    lines = [""]
    rows = {name: read_rows(folder / f"{name}.csv") for name in ("layers", "pools")}
    if any(rows.values()):
        lines += family_tables(rows["layers"] + rows["pools"])
    for name, (seconds, wrong) in results.items():
        detail = wrong or "passed"
        report = REPORTS.get(name)
        counts = count_tests(folder / report) if report else None
        if counts:
            detail += f"; {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped"
        if name == "bench":
            detail += f"; {len(rows['layers'])} layer lines, {len(rows['pools'])} pool lines"
        lines.append(f"{'FAIL' if wrong else 'ok':<5} {name:<12} {seconds:5.0f} s  {detail}")
    passed = bool(results) and not any(wrong for _, wrong in results.values())
    lines.append("accepted" if passed else "NOT ACCEPTED")
    return "\n".join(lines) + "\n", passed
