"""`fastconv report`: one HTML page that needs nothing else, from the CSV files of a folder; or what
changed between two runs.

Exit status 0, or 2 for a bad request.
"""

import base64
import sys
from datetime import datetime
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import jinja2

from ..options import OUT
from .changes import print_changes
from .choices import compare_choices
from .plots import COLOUR_LIMIT, plot_families, plot_networks, ratio_colours
from .results import PARTS, read_parts, results_of, rows_of_the_readme
from .roofline_plot import plot_roofline
from .summary import (
    LAYOUTS,
    TIE,
    Summary,
    by_family,
    counted,
    family_name,
    grouped,
    in_order,
    is_network,
    network_name,
    own_choice,
    pass_name,
)
from .tables import with_tables

PAGE = "report.html"
# Columns of an environment that have a place of their own on the page, or none.
_ELSEWHERE = ("utc", "command")
_LEGEND_STEPS = 4  # from level to the full colour


class Plot(NamedTuple):
    """A figure on the page and beside it."""

    path: Path
    title: str

    @property
    def data(self):
        return "data:image/png;base64," + base64.b64encode(self.path.read_bytes()).decode()


def figures(value):
    """A number with three figures or more."""
    digits = 0 if value >= 100 else 1 if value >= 10 else 2
    return f"{value:,.{digits}f}"


def paint(ratio):
    """The colours of a ratio as CSS."""
    area, text = ratio_colours(ratio)
    return f"background:{area};color:{text}"


def _environment(pairs):
    """(name, values) of what the runs were made with, values that differ joined."""
    values = {}
    for row, where in pairs:
        for name, value in where.items():
            if name not in _ELSEWHERE:
                values.setdefault(name.replace("_", " "), {})[value] = None
        if row.threads is not None:
            values.setdefault("threads", {})[str(row.threads)] = None
    return [(name, ", ".join(found)) for name, found in values.items()]


def _days(pairs):
    days = sorted({datetime.fromisoformat(w["utc"]).date() for _, w in pairs if "utc" in w})
    return " to ".join(dict.fromkeys(str(day) for day in (days[0], days[-1]))) if days else None


def _distinct(pairs, name):
    return list(dict.fromkeys(where[name] for _, where in pairs if name in where))


def _network_plots(folder, rows):
    groups = grouped(
        in_order(rows), lambda row: (row.dtype, row.baseline, row.problem, row.threads)
    )
    for index, ((dtype, baseline, problem, threads), group) in enumerate(groups.items(), 1):
        path = plot_networks(folder / f"networks_{index}.png", group, baseline)
        title = f"{dtype}, against {baseline}, {problem}, threads: {threads or '-'}"
        yield Plot(path, title)


def _layer_plots(folder, stem, results, draw):
    """One figure a comparison, where it has anything to draw.

    Args:
        draw: (path, rows with a ratio, baseline) -> the path, or None.
    """
    for index, result in enumerate(results, 1):
        rows = counted(result.rows)
        if rows and (path := draw(folder / f"{stem}_{index}.png", rows, rows[0].baseline)):
            yield Plot(path, result.title)


def _full_name(family):
    """A family's name in words; that of a network is the network's."""
    return family_name(network_name(family))


def _every_line(results):
    """(title, [(family, Summary, rows)]) of each comparison."""
    for result in results:
        families = by_family(result.rows).items()
        groups = {name: list(chain(*passes.values())) for name, passes in families}
        yield (
            result.title,
            [(_full_name(name), Summary.of(rows), rows) for name, rows in groups.items()],
        )


def _without_number(rows):
    """(status, reason, how many, are they failures) of what could not be measured."""
    groups = grouped(
        [row for row in rows if row.status != "ok"], lambda row: (row.status, row.reason or "")
    )
    return [(*key, len(group), group[0].is_failure) for key, group in groups.items()]


def write_page(folder, parts):
    """Writes the page and its figures into a folder.

    Args:
        parts: as read_parts returns them.

    Returns (paths written, Results).
    """
    pairs = list(chain(*parts.values()))
    rows = [row for row, _ in pairs]
    where = {id(row): environment for row, environment in pairs}
    networks = own_choice([row for row in rows if is_network(row)])
    results = list(results_of(parts))
    layers = [result for result in results if not is_network(result.rows[0])]
    roofline = lambda path, rows, baseline: plot_roofline(path, rows, where, baseline)  # noqa: E731
    plots = {
        "networks": list(_network_plots(folder, networks)),
        "families": list(_layer_plots(folder, "families", layers, plot_families)),
        "roofline": list(_layer_plots(folder, "roofline", layers, roofline)),
    }
    ways, lines = compare_choices(networks)
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"figures": figures, "paint": paint, "pass_name": pass_name}
    steps = range(-_LEGEND_STEPS, _LEGEND_STEPS + 1)
    page = environment.get_template("page.html").render(
        device=" and ".join(_distinct(pairs, "device")) or "an unnamed device",
        baselines=" and ".join(dict.fromkeys(row.baseline for row in rows if row.baseline)),
        results=results,
        environment=_environment(pairs),
        days=_days(pairs),
        commands=_distinct(pairs, "command"),
        without_number=_without_number(rows),
        plots=plots,
        ways=ways,
        lines=lines,
        inputs=list(dict.fromkeys(line.problem for line in lines)),
        every_line=list(_every_line(results)),
        legend=[2 ** (COLOUR_LIMIT * step / _LEGEND_STEPS) for step in steps],
        layouts=LAYOUTS,
        tie=TIE,
        limits=sorted({row.disturbed_limit for row in rows}),
    )
    path = folder / PAGE
    path.write_text(page, encoding="utf-8")
    return [path, *(plot.path for group in plots.values() for plot in group)], results


def _stop(message):
    print(f"fastconv report: {message}", file=sys.stderr)
    return 2


def _read_folder(folder, disturbed_limit):
    parts = read_parts(folder, disturbed_limit)
    if not any(parts.values()):
        names = ", ".join(chain(*PARTS.values()))
        raise ValueError(f"{folder} has no results; `fastconv bench` writes {names}")
    return parts


def _read_run(name, disturbed_limit):
    """The parts of a folder, or else of a commit whose results are in the default folder."""
    if Path(name).is_dir():
        return _read_folder(Path(name), disturbed_limit)
    parts = read_parts(Path(OUT), disturbed_limit, commit=name)
    if not any(parts.values()):
        raise ValueError(f"{name} is no folder, and {OUT} has no results of such a commit")
    return parts


def _compare(options):
    if options.readme:
        return _stop("--readme: the tables are of one folder")
    try:
        runs = [_read_run(name, options.disturbed_limit) for name in options.folder]
    except (OSError, ValueError) as error:
        return _stop(str(error))
    print_changes(*runs, options.folder)
    return 0


def run(options):
    """Writes or prints what parsed options ask for and returns the exit status."""
    if len(options.folder) > 2:
        return _stop(f"expected one folder, or two to compare, got {len(options.folder)}")
    if len(options.folder) == 2:
        return _compare(options)
    folder = Path(*options.folder or (OUT,))
    try:
        parts = _read_folder(folder, options.disturbed_limit)
        readmes = {
            path: with_tables(path.read_text("utf-8"), rows_of_the_readme(parts))
            for path in map(Path, options.readme)
        }
        written, results = write_page(folder, parts)
        for path, text in readmes.items():
            path.write_text(text, "utf-8")
    except (OSError, ValueError) as error:
        return _stop(str(error))
    print(*written, *readmes, sep="\n")
    print("; ".join(result.sentence for result in results))
    return 0
