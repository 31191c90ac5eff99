"""The results that a folder of CSV files holds, comparison by comparison."""

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from ..measure.record import read_rows
from ..measure.results_file import conditions, key
from .summary import (
    TIE,
    Summary,
    best_layout_mean,
    best_layout_ratios,
    comparisons,
    counted,
    is_network,
    own_choice,
)

# What belongs together: a line of the operators may be one of the layers, measured again.
PARTS = {
    "Networks": ("models.csv",),
    "Layers and pools": ("layers.csv", "pools.csv"),
    "Operators": ("ops.csv",),
    "Shapes": ("shapes.csv",),
    "Calls": ("calls.csv",),
}
# Whose rows the tables of the READMEs are made from.
_IN_READMES = ("Networks", "Layers and pools", "Calls")


class Result(NamedTuple):
    """What the page says about the rows of one comparison."""

    title: str
    rows: list
    summary: Summary | None
    best_layout: float | None = None  # mean ratio with the faster of the baseline's layouts

    @property
    def sentence(self):
        """The result in one sentence."""
        if self.summary is None:
            return f"{self.title}: no number"
        s = self.summary
        disturbed = " (all lines disturbed)" if s.is_disturbed else ""
        return (
            f"{self.title}{disturbed}: geometric mean {s.mean:.2f}x, faster on {s.wins} of "
            f"{s.lines} lines, slower on {s.losses}, within {TIE:.0%} on {s.level}"
        )

    @property
    def disturbed(self):
        """Rows that would count on a quiet machine."""
        return sum(row.has_ratio and row.is_disturbed for row in self.rows)

    @property
    def missing(self):
        return sum(not row.has_ratio for row in self.rows)


def _is_commit(found, wanted):
    """Whether a commit begins as wanted. Edited files ("+" and a digest) are another commit, which
    is wanted only where "+" is."""
    commit, plus, digest = found.partition("+")
    start, wants_plus, digest_start = wanted.partition("+")
    return commit.startswith(start) and plus == wants_plus and digest.startswith(digest_start)


def read_parts(folder, disturbed_limit=None, commit=None):
    """{name of a part: (Row, environment) of its lines}, of the files that are there. Of lines that
    were measured again the last one counts.

    Args:
        disturbed_limit: by which rows are judged (Row.is_disturbed); None: that of their run.
        commit: only rows of the commit that begins so, those that were put aside too; None: all
            rows, of the files that bench goes on with.
    """
    parts = {}
    for part, names in PARTS.items():
        paths = [path for path in (folder / name for name in names) if path.is_file()]
        if commit is not None:
            paths += [path for name in names for path in folder.glob(f"{Path(name).stem}.*.csv")]
        if paths:
            pairs = [pair for path in paths for pair in read_rows(path)]
            if commit is not None:
                pairs = [(row, w) for row, w in pairs if _is_commit(w.get("commit", ""), commit)]
            if disturbed_limit is not None:
                pairs = [(replace(row, disturbed_limit=disturbed_limit), w) for row, w in pairs]
            parts[part] = [
                *{(key(row), conditions(where)): (row, where) for row, where in pairs}.values()
            ]
    return parts


def results_of(parts):
    """A Result for each comparison in each part."""
    for part, pairs in parts.items():
        for comparison, group in comparisons([row for row, _ in pairs]).items():
            layers = [row for row in counted(group) if not is_network(row)]
            best = best_layout_mean(layers, best_layout_ratios(group))
            yield Result(f"{part}: {comparison}", group, Summary.of(group), best)


def rows_of_the_readme(parts):
    """The rows that the README's tables are made from."""
    pairs = [pair for part in _IN_READMES for pair in parts.get(part, ())]
    return own_choice([row for row, _ in pairs])
