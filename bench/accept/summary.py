"""The short table at the end, from what the steps left in the output folder."""

import csv
import math
import xml.etree.ElementTree as ElementTree


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


def family_table(rows):
    """Lines of the table: geometric mean of the ratio and of the share of the roofline for each
    family, pass, layout, dtype and baseline."""
    groups = {}
    for row in rows:
        key = tuple(
            row.get(name) or "?" for name in ("family", "pass", "layout", "dtype", "baseline")
        )
        groups.setdefault(key, []).append(row)
    head = (
        "family",
        "pass",
        "layout",
        "dtype",
        "against",
        "lines",
        "x",
        "worst",
        "% roof",
        "wrong",
    )
    table = [head]
    for key, group in groups.items():
        ratios = [r for row in group if (r := _number(row, "x_baseline"))]
        roofs = [r for row in group if (r := _number(row, "roofline_percent"))]
        wrong = sum(row.get("status") in ("wrong", "failed") for row in group)
        mean, roof = _mean(ratios), _mean(roofs)
        table.append(
            (
                *key,
                str(len(group)),
                f"{mean:.2f}" if mean else "-",
                f"{min(ratios):.2f}" if ratios else "-",
                f"{roof:.0f}" if roof else "-",
                str(wrong) if wrong else "",
            )
        )
    widths = [max(len(line[column]) for line in table) for column in range(len(head))]
    return [
        "  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip() for line in table
    ]


def summarise(folder, results):
    """(the text, whether all passed). results: {step: (seconds, None or what went wrong)}"""
    lines = [""]
    rows = {name: read_rows(folder / f"{name}.csv") for name in ("layers", "pools")}
    if any(rows.values()):
        lines += [*family_table(rows["layers"] + rows["pools"]), ""]
    for name, (seconds, wrong) in results.items():
        detail = wrong or "passed"
        report = {"wrappers": "wrappers.xml", "tests": "tests.xml"}.get(name)
        counts = count_tests(folder / report) if report else None
        if counts:
            detail += f"; {counts[0]} passed, {counts[1]} failed, {counts[2]} skipped"
        if name == "bench":
            detail += f"; {len(rows['layers'])} layer lines, {len(rows['pools'])} pool lines"
        lines.append(f"{'FAIL' if wrong else 'ok':<5} {name:<12} {seconds:5.0f} s  {detail}")
    passed = bool(results) and not any(wrong for _, wrong in results.values())
    lines.append("accepted" if passed else "NOT ACCEPTED")
    return "\n".join(lines) + "\n", passed
