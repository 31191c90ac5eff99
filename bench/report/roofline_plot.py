"""The roofline plot: arithmetic intensity against speed, and what the device allows at best."""

import math

import matplotlib
from matplotlib.cm import ScalarMappable
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter

from .plots import COLOURS, DARK, GREY, LIGHT, NORM, STYLE, TITLE, WIDTH, ratio_colours, save
from .summary import grouped

_COLOUR_TICKS = (0.5, 0.7, 1, 1.4, 2)
_PANELS_A_LINE, _PANEL = 2, 5.2  # of the roofline plot; inches of height
_MARKERS = {
    "stem": "^",
    "dense": "o",
    "dilated": "D",
    "grouped": "s",
    "depthwise": "v",
    "transposed": "<",
    "1-D": "p",
    "pool": "P",
    "other": "X",
}
# The units whose peaks bound a dtype: matrix units first, then those of plain arithmetic.
_UNITS = {
    "float32": ("tf32", "fp32"),
    "bfloat16": ("bf16", "fp32"),
    "float16": ("fp16", "fp32"),
    "float64": ("fp64",),
}


def _marker_kind(family):
    kind = "pool" if "pool" in family else family.split(" ")[0]
    return kind if kind in _MARKERS else "other"


def ceilings(rows, where):
    """What the device can do, as the files have it: {"copy_gbs": ..., "fp32_tflops": ...}, empty
    where they have nothing.

    Args:
        where: {id(row): its environment}
    """
    prefix = "ceiling_"
    return {
        name.removeprefix(prefix): float(value)
        for row in rows
        for name, value in where[id(row)].items()
        if name.startswith(prefix)
    }


def draw_roof(axes, known, dtype, intensities):
    """min(bandwidth x intensity, peak) of each unit that computes in the dtype. Returns what to
    call it."""
    bandwidth = known.get("copy_gbs")
    peaks = {unit: known.get(f"{unit}_tflops") for unit in _UNITS.get(dtype, ())}
    peaks = {unit: peak for unit, peak in peaks.items() if peak}
    if not bandwidth or not peaks:
        return "no roof: the ceilings are not in the files"
    left, right = min(intensities) / 1.5, max(intensities) * 1.5
    for peak in peaks.values():
        ridge = peak * 1e3 / bandwidth
        start = min(left, ridge)
        line = [start, ridge, max(right, ridge)], [bandwidth * start / 1e3, peak, peak]
        axes.plot(*line, color=DARK, linewidth=1.2, zorder=4)
    names = [f"{unit} {peak:.3g} TFLOP/s" for unit, peak in peaks.items()]
    return ", ".join([f"roof: copy {bandwidth:.3g} GB/s", *names])


def _draw_points(axes, rows):
    for kind, marker in _MARKERS.items():
        group = [row for row in rows if _marker_kind(row.family) == kind]
        axes.scatter(
            [_intensity(row) for row in group],
            [row.tflops for row in group],
            c=[ratio_colours(row.x_baseline)[0] for row in group],
            marker=marker,
            s=22,
            linewidths=0.4,
            edgecolors=DARK,
            alpha=0.85,
        )


def _intensity(row):
    """FLOP/byte"""
    return row.tflops * 1e3 / row.gbs


def _key(figure, axes, kinds, baseline):
    """What markers and colours mean."""
    look = {"linestyle": "none", "markerfacecolor": LIGHT, "markeredgecolor": DARK}
    shown = [
        Line2D([], [], marker=m, label=kind, **look)
        for kind, m in _MARKERS.items()
        if kind in kinds
    ]
    axes[0].legend(handles=shown, loc="lower right", fontsize=8)
    bar = figure.colorbar(
        ScalarMappable(NORM, COLOURS), ax=axes, aspect=40, pad=0.01, extend="both"
    )
    bar.set_label(f"{baseline} time / fastconv time")
    bar.set_ticks(
        [math.log2(tick) for tick in _COLOUR_TICKS], labels=map("{:g}".format, _COLOUR_TICKS)
    )


def _speed_axes(axes):
    axes.set(xscale="log", yscale="log", xlabel="arithmetic intensity, FLOP/byte")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.grid(color=GREY, alpha=0.25, linewidth=0.5)
    axes.set_axisbelow(True)


def plot_roofline(path, rows, where, baseline):
    """Arithmetic intensity against speed, one panel a number of threads, and the roof where the
    files have it.

    Args:
        rows: rows with a ratio, of one comparison.
        where: {id(row): its environment}

    Returns the path, or None where no row has both rates.
    """
    rows = [row for row in rows if row.tflops and row.gbs]
    if not rows:
        return None
    panels = grouped(rows, lambda row: row.threads)
    columns = min(len(panels), _PANELS_A_LINE)
    lines = math.ceil(len(panels) / columns)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, _PANEL * lines), layout="constrained")
        every = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
        for axes in every[len(panels) :]:
            axes.remove()
        used = list(every[: len(panels)])
        for axes, (threads, group) in zip(used, panels.items(), strict=True):
            _speed_axes(axes)
            _draw_points(axes, group)
            known, dtype = ceilings(group, where), group[0].dtype
            roof = draw_roof(axes, known, dtype, list(map(_intensity, rows)))
            axes.set_title("" if threads is None else f"threads: {threads}", **TITLE)
            axes.set_title(roof, loc="right", fontsize=9)
        for axes in every[::columns]:
            axes.set_ylabel("fastconv, TFLOP/s")
        _key(figure, used, {_marker_kind(row.family) for row in rows}, baseline)
        return save(figure, path)
