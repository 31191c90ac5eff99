"""`fastconv report BEFORE AFTER`: what became faster between two runs, and what slower.

A ratio here is fastconv's time before over its time after. Two runs are two processes at two times,
so that much more than in one run is noise: what the other side's time, which did not change with
fastconv, tells of it counts too.
"""

from statistics import geometric_mean
from typing import NamedTuple

from rich.console import Console
from rich.markup import escape

from ..measure.record import Row
from ..measure.results_file import key
from .console import LAYOUT_NAMES, plain_table
from .summary import TIE, grouped, kind_of

# What should be equal for two runs to be compared, beside fastconv itself.
_CONDITIONS = ("device", "instruction_set", "torch", "python", "cuda", "cudnn", "triton")


def _spread(row):
    """Half of p20..p80, as a share of the median."""
    return (row.p80_us - row.p20_us) / 2 / row.us if row.p20_us and row.p80_us else 0.0


class Change(NamedTuple):
    """One line of both runs, with a time in each."""

    before: Row
    after: Row

    @property
    def ratio(self):
        """Above 1 the run after is the faster one."""
        return self.before.us / self.after.us

    @property
    def baseline_ratio(self):
        """The same of the other side; far from 1, the machine or the other side has changed."""
        return self.before.baseline_us / self.after.baseline_us

    @property
    def noise(self):
        """The share by which a ratio may be off: the largest of TIE, fastconv's spread in each run,
        and how far the other side's times are apart."""
        apart = max(self.baseline_ratio, 1 / self.baseline_ratio) - 1
        return max(TIE, _spread(self.before), _spread(self.after), apart)

    @property
    def is_disturbed(self):
        return self.before.is_disturbed or self.after.is_disturbed

    @property
    def verdict(self):
        """^ faster, v slower, = within the noise."""
        if self.ratio > 1 + self.noise:
            return "^"
        return "v" if self.ratio < 1 / (1 + self.noise) else "="


def _counted(changes):
    """Those that a mean is of: the undisturbed ones, or where there are none, all."""
    return [change for change in changes if not change.is_disturbed] or changes


def pair_rows(before, after):
    """(Changes, rows only before, rows only after, how many lines lack a number in a run).

    Args:
        before, after: the rows of each run.
    """
    old, new = ({key(row): row for row in rows} for rows in (before, after))
    both = [Change(row, new[name]) for name, row in old.items() if name in new]
    timed = [change for change in both if change.before.has_ratio and change.after.has_ratio]
    only_old = [row for name, row in old.items() if name not in new]
    only_new = [row for name, row in new.items() if name not in old]
    return timed, only_old, only_new, len(both) - len(timed)


def different_conditions(before, after):
    """(name, values before, values after) of what the two runs were not made alike with.

    Args:
        before, after: (Row, environment) pairs.
    """

    def values(pairs, name):
        if name == "threads":
            return sorted({str(row.threads) for row, _ in pairs})
        return sorted({where.get(name, "unknown") for _, where in pairs})

    for name in (*_CONDITIONS, "threads"):
        found = [values(pairs, name) for pairs in (before, after)]
        if found[0] != found[1]:
            yield name, *map(", ".join, found)


def _ratio(change):
    text = f"{change.ratio:.2f} {change.verdict}{'!' if change.is_disturbed else ' '}"
    colour = "yellow" if change.is_disturbed else {"^": "green", "v": "red"}.get(change.verdict)
    return f"[{colour}]{text}" if colour else text


def _print_lines(console, title, changes):
    table = plain_table(title)
    table.add_column("line", overflow="fold", min_width=14)
    for name in ("pass", "layout"):
        table.add_column(name, no_wrap=True)
    for name in ("thr", "before us", "after us", "ratio", "noise", "baseline"):
        table.add_column(name, justify="right", no_wrap=True)
    for change in changes:
        row = change.after
        names = dict.fromkeys((row.model, row.layer, row.problem))
        table.add_row(
            escape(" ".join(names)),
            row.pass_.removesuffix(" step"),
            LAYOUT_NAMES[row.layout],
            str(row.threads),
            f"{change.before.us:,.1f}",
            f"{row.us:,.1f}",
            _ratio(change),
            f"{change.noise:.0%}",
            f"{change.baseline_ratio:.2f}",
        )
    console.print(table)
    console.print()


def _print_kinds(console, changes):
    table = plain_table("By kind: geometric mean of time before / time after")
    table.add_column("kind", overflow="fold")
    for name in ("lines", "mean", "range", "faster ^", "slower v", "noise =", "disturbed !"):
        table.add_column(name, justify="right", no_wrap=True)
    for kind, group in grouped(changes, lambda change: kind_of(change.after.family)).items():
        means_of = _counted(group)
        ratios = [change.ratio for change in means_of]
        mean = f"{geometric_mean(ratios):.2f}{' !' if means_of[0].is_disturbed else ''}"
        verdicts = [change.verdict for change in group]
        counts = [*map(verdicts.count, "^v="), sum(change.is_disturbed for change in group)]
        texts = f"{min(ratios):.2f}-{max(ratios):.2f}", *map(str, counts)
        table.add_row(kind, str(len(group)), mean, *texts)
    console.print(table)


def print_changes(before, after, names):
    """Prints what changed between two runs.

    Args:
        before, after: {name of a part: (Row, environment) pairs}, see results.read_parts.
        names: what the user called each of them.
    """
    console = Console()
    pairs = [[pair for part in parts.values() for pair in part] for parts in (before, after)]
    for name, found in zip(names, pairs):
        commits = sorted({where.get("commit", "unknown") for _, where in found})
        console.print(escape(f"{name}: {len(found)} lines of commit {', '.join(commits)}"))
    console.print()
    changes, only, missing = [], [0, 0], 0
    for part in dict.fromkeys((*before, *after)):
        rows = ([row for row, _ in parts.get(part, ())] for parts in (before, after))
        timed, only_before, only_after, without = pair_rows(*rows)
        only = [only[0] + len(only_before), only[1] + len(only_after)]
        missing, changes = missing + without, changes + timed
        groups = grouped(timed, lambda c: (c.after.op, c.after.dtype, c.after.baseline))
        for (op, dtype, baseline), group in groups.items():
            _print_lines(console, f"{part}: {op}, {dtype}, baseline {baseline}", group)
    if changes:
        _print_kinds(console, changes)
    console.print(
        f"\n{len(changes)} lines in both; only before {only[0]}, only after {only[1]}, without a "
        f"number in one of them {missing}. =: within the noise, which is the largest of {TIE:.0%}, "
        "the spread of fastconv's times in each run, and how far the baseline's times are apart "
        "(its ratio is the last column). !: disturbed by other programs, in a mean only where all "
        "lines are."
    )
    for name, *values in different_conditions(*pairs):
        console.print(
            f"[yellow]{name.replace('_', ' ')} differs:[/] before {escape(values[0])}; after "
            f"{escape(values[1])}"
        )
