"""The ways to run a network and their times: dtype, layout, torch's modules or ours."""

from typing import NamedTuple

from .summary import VARIANTS, counted, grouped, in_order, network_name, variant


class Choice(NamedTuple):
    """The time of one network, run one way."""

    us: float | None  # None where there is no time to quote
    ratio: float | None = None  # with the baseline of this dtype and layout; None for that itself
    note: str = ""  # what stands for a time
    is_baseline: bool = False
    is_fastest: bool = False  # of its dtype
    is_fastest_of_all: bool = False


class Way(NamedTuple):
    """A dtype, a layout and a baseline, and the variants of ours that were timed against it."""

    dtype: str
    layout: str
    baseline: str
    variants: tuple


class Line(NamedTuple):
    network: str
    problem: str
    pass_: str
    threads: int | None
    choices: list  # of all ways, in their order: the baseline's, then those of the variants


def _baseline_choice(rows):
    """The lower time, where the baseline was timed against several variants."""
    rows = counted(rows)
    us = min((row.baseline_us for row in rows), default=None)
    if rows and rows[0].is_disturbed:
        return Choice(None, note=_marked_milliseconds(us), is_baseline=True)
    return Choice(us, note="-", is_baseline=True)


def _marked_milliseconds(us):
    """A disturbed time is shown, but is never the fastest."""
    return f"{us / 1e3:.3g} !"


def _own_choice(rows):
    if not rows:
        return Choice(None, note="-")
    row = rows[-1]
    if row.status != "ok":
        return Choice(None, note=row.status)
    if not row.is_quotable:
        return Choice(None, note=_marked_milliseconds(row.us) if row.has_ratio else "-")
    return Choice(row.us, row.x_baseline)


def _marked(choices):
    """The Choices of {(Way, side): Choice}, the fastest of each dtype and of all marked."""
    timed = {key: choice.us for key, choice in choices.items() if choice.us is not None}
    dtypes = grouped(timed, lambda key: key[0].dtype).values()
    fastest = {min(keys, key=timed.get) for keys in dtypes}
    fastest_of_all = min(timed, key=timed.get, default=None)
    return [
        choice._replace(is_fastest=key in fastest, is_fastest_of_all=key == fastest_of_all)
        for key, choice in choices.items()
    ]


def _line_choices(rows, ways):
    choices = {}
    for way in ways:
        same = [row for row in rows if (row.dtype, row.layout, row.baseline) == way[:3]]
        choices[way, None] = _baseline_choice(same)
        for name in way.variants:
            choices[way, name] = _own_choice([row for row in same if variant(row) == name])
    return _marked(choices)


def compare_choices(rows):
    """(Ways, Lines) of rows of networks: a line a network, input, pass and number of threads."""
    rows = in_order(rows)
    ways = []
    for key, group in grouped(rows, lambda row: (row.dtype, row.layout, row.baseline)).items():
        present = {variant(row) for row in group}
        ways.append(Way(*key, tuple(name for name in VARIANTS if name in present)))
    lines = grouped(rows, lambda row: (row.model, row.problem, row.pass_, row.threads))
    return ways, [
        Line(network_name(model), *key, _line_choices(group, ways))
        for (model, *key), group in lines.items()
    ]
