"""The figures of the page, as PNG files; one colour scale for every ratio.

Bars start at 1, to the right where fastconv is the faster side, on a log scale: twice as fast and
half as fast are equally long.
"""

import math
from typing import NamedTuple

import matplotlib
import numpy as np
from matplotlib.colors import ListedColormap, Normalize, to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from .summary import (
    LAYOUTS,
    TIE,
    Summary,
    by_family,
    family_name,
    grouped,
    in_order,
    network_name,
    of_layout,
    pass_name,
    variant,
)

# A ratio's colour is its log2, full at half and at twice as fast. ColorBrewer's RdBu is told apart
# by colour-blind eyes; its ends, nearly black both, are left out.
COLOUR_LIMIT = 1
NORM = Normalize(-COLOUR_LIMIT, COLOUR_LIMIT, clip=True)
COLOURS = ListedColormap(matplotlib.colormaps["RdBu"](np.linspace(0.1, 0.9, 256)))
_BRIGHT = 0.42  # luma from which on black has more contrast than white: at least 4.5, as WCAG asks
DARK, LIGHT, GREY, _ALARM = "#1a1a1a", "#ffffff", "#8a8a8a", "#b2182b"
# parse_math would read names with dollar signs as formulas.
STYLE = {"text.parse_math": False, "font.size": 9, "axes.edgecolor": GREY, "hatch.color": GREY}
TITLE = {"loc": "left", "fontweight": "bold", "fontsize": 10}
WIDTH, _DPI = 11, 160  # inches; dots an inch
_BAR, _GAP, _FRAME = 0.2, 0.5, 1.1  # inches a bar; bars between groups; inches of titles and axes
_FINE_TICKS = (0.25, 0.35, 0.5, 0.7, 0.85, 1, 1.2, 1.4, 2, 2.8, 4)
_TALL = 24  # bars from which on a panel has its scale at the top too


def ratio_colours(ratio):
    """The colours of an area and of the text on it, as #rrggbb."""
    red, green, blue, _ = COLOURS(NORM(math.log2(ratio)))
    is_bright = 0.299 * red + 0.587 * green + 0.114 * blue > _BRIGHT
    return to_hex((red, green, blue)), "#000000" if is_bright else LIGHT


class Bar(NamedTuple):
    """One bar: a ratio with its range, or without one the reason."""

    ratio: float | None
    low: float | None = None
    high: float | None = None
    note: str = ""  # what stands for the ratio, or after it
    counts: bool = True  # whether the ratio is quotable; the bar of another one is hatched


def save(figure, path):
    figure.savefig(path, dpi=_DPI)
    return path


def _draw_bar(axes, y, bar):
    text, colour = bar.note, _ALARM
    if bar.ratio is not None:
        text, colour = f"{bar.ratio:.2f} {bar.note}".rstrip(), DARK
        axes.barh(
            y,
            bar.ratio - 1,
            left=1,
            height=0.8,
            color=ratio_colours(bar.ratio)[0] if bar.counts else LIGHT,
            edgecolor=GREY,
            linewidth=0.5,
            hatch=None if bar.counts else "////",
        )
    if bar.low is not None:
        axes.plot([bar.low, bar.high], [y, y], color=DARK, linewidth=0.8, marker="|", markersize=4)
    place = {"transform": axes.get_yaxis_transform(), "va": "center"}
    axes.text(1.01, y, text, color=colour, fontsize=8, **place)


def _limits(bars):
    values = [v for bar in bars for v in (bar.ratio, bar.low, bar.high) if v is not None]
    margin = 1.1
    return min([*values, 0.7]) / margin, max([*values, 1.4]) * margin


def _ratio_axis(axes, limits, label):
    axes.set_xscale("log", base=2)
    axes.set_xlim(*limits)
    fine = limits[1] / limits[0] < _FINE_TICKS[-1] / _FINE_TICKS[0]
    axes.xaxis.set_major_locator(
        FixedLocator(_FINE_TICKS) if fine else LogLocator(base=2, numticks=20)
    )
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xlabel(label)
    axes.grid(axis="x", color=GREY, alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)
    axes.axvspan(1 / (1 + TIE), 1 + TIE, color=GREY, alpha=0.2, linewidth=0)
    axes.axvline(1, color=DARK, linewidth=1)
    axes.spines[["top", "right", "left"]].set_visible(False)


def bar_panels(path, panels, groups, label):
    """Horizontal bars, the same rows in each panel.

    Args:
        panels: titles, one a panel.
        groups: {name: {name of a row: {title of a panel: Bar}}}
        label: of the axis of ratios.
    """
    positions, names, y = [], [], 0.0
    for group, lines in groups.items():
        for index, name in enumerate(lines):
            positions.append(y)
            names.append(f"{group}   {name}" if index == 0 else name)
            y += 1
        y += _GAP
    lines = [line for group in groups.values() for line in group.values()]
    limits = _limits([bar for line in lines for bar in line.values()])
    is_tall = len(lines) > _TALL
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, _FRAME + _BAR * y), layout="constrained")
        all_axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
        for axes, panel in zip(all_axes, panels, strict=True):
            _ratio_axis(axes, limits, label)
            axes.set_title(panel, **TITLE)
            for position, line in zip(positions, lines, strict=True):
                if panel in line:
                    _draw_bar(axes, position, line[panel])
            axes.tick_params(axis="y", length=0)
            axes.tick_params(axis="x", top=is_tall, labeltop=is_tall)
        all_axes[0].set_yticks(positions, names)
        all_axes[0].set_ylim(y - _GAP, -1 + _GAP / 2)
        return save(figure, path)


def _network_bar(row):
    if row.status != "ok":
        return Bar(None, note=row.status)
    if row.x_baseline is None:
        return Bar(None, note="no number")
    return Bar(row.x_baseline, note="" if row.is_quotable else "!", counts=row.is_quotable)


def plot_networks(path, rows, baseline):
    """Ratios of networks, one panel a pass; rows of one dtype and number of threads."""
    rows = in_order(rows)
    groups = {}
    for row in rows:
        lines = groups.setdefault(network_name(row.model), {})
        line = lines.setdefault(f"{variant(row)}, {LAYOUTS.get(row.layout, row.layout)}", {})
        line[row.pass_] = _network_bar(row)
    panels = list(dict.fromkeys(row.pass_ for row in rows))
    return bar_panels(path, panels, groups, f"{baseline} time / fastconv time")


def plot_families(path, rows, baseline):
    """Geometric means with their range, by family and pass, one panel a layout."""
    groups, layouts = {}, list(grouped(rows, lambda row: row.layout))
    for family, passes in by_family(rows).items():
        lines = groups.setdefault(family_name(family), {})
        for pass_, group in passes.items():
            sums = {layout: Summary.of(of_layout(group, layout)) for layout in layouts}
            lines[pass_name(pass_)] = {
                LAYOUTS.get(layout, layout): Bar(
                    s.mean, s.low, s.high, "!" if s.is_disturbed else "", not s.is_disturbed
                )
                for layout, s in sums.items()
                if s
            }
    panels = [LAYOUTS.get(layout, layout) for layout in layouts]
    return bar_panels(path, panels, groups, f"{baseline} time / fastconv time")
