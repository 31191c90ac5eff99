"""The text of fastconv.explain: a list for single calls, a table for models."""

import textwrap

import torch

from ..backends.base import is_convolution
from ..convert import CONVERTIBLE
from ..dispatch import get_backend
from ..problem import AdaptivePoolProblem, ConvOp, ConvProblem
from .reason import why_slow
from .rows import ATEN, layer_time

_WIDTH = 120  # of running text, in columns
_LAYER_WIDTH, _PROBLEM_WIDTH, _TILE_WIDTH = 30, 36, 16  # of what is cut to fit, in columns
_SLOWEST = 3
# What an operator makes of the convolution that its kernels run.
_RUN_AS = {
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d"), "dgrad of "),
    "conv3d": "of gathered slices: ",
}
# What torch asks; older versions lack some of it.
_BFLOAT16_INSTRUCTIONS = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")


# ---- single calls --------------------------------------------------------------------------------


def describe(decision):
    """The lines about one Decision."""
    where = f"{_short(decision.dtype)} on {decision.device}"
    if decision.backend is None:
        yield f"{decision.operator} {where}: {ATEN}"
    else:
        problem, plans = get_backend(decision.backend).explain(
            decision.operator, decision.call, decision.dtype, decision.channels_last
        )
        yield f"{decision.operator} {where}: {decision.backend}"
        yield f"  {_RUN_AS.get(decision.operator, '')}{problem!r}"
        if is_convolution(decision.operator):
            size = decision.dtype.itemsize
            flops, traffic = problem.flops(ConvOp.fprop), problem.bytes(ConvOp.fprop, size)
            yield f"  {flops / 1e9:.3g} GFLOP and at least {traffic / 1e6:.3g} MB each pass"
        for name, plan in plans.items():
            yield f"  {name}: {plan.algorithm} ({plan.reason})"
    for name, reason in decision.rejected.items():
        yield f"  not {name}: {reason}"
    if decision.time_us is not None:
        yield f"  {_time_and_floor(layer_time(decision))}"


def _time_and_floor(row):
    text = f"forward in {row.time_us:.1f} us"
    if row.floor_us is None:
        return text
    return f"{text}, {row.percent_of_floor:.0f} % of the roofline floor of {row.floor_us:.1f} us"


# ---- models --------------------------------------------------------------------------------------

_HEADER = (
    "layer",
    "problem",
    "backend",
    "algorithm",
    "tile",
    "GFLOP",
    "MB",
    "floor us",
    "time us",
    "% of floor",
)
_LEFT_ALIGNED = 5  # columns; the others hold numbers


def table(rows, runs, not_fastconv, disturbance=""):
    """The table of LayerTimes, what went to ATen, the slowest layers, what torch may do faster, and
    the LayerReports of what is not fastconv's."""
    blocks = [
        _table(rows, runs, disturbance),
        _to_aten(rows),
        _slowest(rows, disturbance),
        _bfloat16(rows),
        _not_fastconv(not_fastconv),
    ]
    return "\n\n".join(filter(None, blocks))


def _table(rows, runs, disturbance):
    if not rows:
        return "no fastconv operator was called"
    lines = [_HEADER, *map(_cells, rows), _totals(rows)]
    widths = [max(map(len, column)) for column in zip(*lines)]
    head, *body, total = (_line(cells, widths) for cells in lines)
    rule = "-" * len(head)
    return "\n".join((_caption(rows, runs, disturbance), "", head, rule, *body, rule, total))


def _caption(rows, runs, disturbance):
    kinds = (f"{_short(row.dtype)}, {_layout(row)}, on {row.device}" for row in rows)
    times = {0: "not measured", 1: "of one run"}.get(runs, f"medians of {runs} runs")
    if disturbance:
        times += f", disturbed: {disturbance}"
    floor = "bytes at a copy's rate or FLOPs at a matrix product's, whichever takes longer"
    return f"{'; '.join(dict.fromkeys(kinds))}\ntimes: {times}\nfloor: {floor}"


def _line(cells, widths):
    return "  ".join(
        cell.ljust(width) if index < _LEFT_ALIGNED else cell.rjust(width)
        for index, (cell, width) in enumerate(zip(cells, widths))
    ).rstrip()


def _cells(row):
    return (
        _end_of(row.layer, _LAYER_WIDTH),
        _start_of(_problem(row), _PROBLEM_WIDTH),
        row.backend,
        row.algorithm or "-",
        _start_of(row.tile.split(",")[0], _TILE_WIDTH) or "-",
        *_numbers(row.flops, row.bytes, row.floor_us, row.time_us),
    )


def _numbers(flops, size, floor_us, time_us):
    known = floor_us is not None and time_us is not None
    return (
        f"{flops / 1e9:.4f}",
        f"{size / 1e6:.2f}",
        "-" if floor_us is None else f"{floor_us:.1f}",
        "-" if time_us is None else f"{time_us:.1f}",
        f"{100 * floor_us / time_us:.0f}" if known else "-",
    )


def _totals(rows):
    def total(name):
        values = [getattr(row, name) for row in rows]
        return None if None in values else sum(values)

    numbers = _numbers(total("flops"), total("bytes"), total("floor_us"), total("time_us"))
    calls = f"{len(rows)} call{'s' * (len(rows) != 1)}"
    return ("total", calls, "", "", "", *numbers)


def _to_aten(rows):
    lines = [f"  {_name(row)}: {row.reason}" for row in rows if row.backend == ATEN]
    return "\n".join(("ran by ATen:", *lines)) if lines else ""


def _not_fastconv(reports):
    """Lines about layers that are not fastconv's: one for all that convert would swap, and one with
    its reason for each other layer."""
    swapped = [report for report in reports if report.reason == CONVERTIBLE]
    lines = []
    if swapped:
        names = ", ".join(f"{report.name} ({report.type})" for report in swapped)
        lines.append(f"not fastconv's: {names}; fastconv.convert swaps them")
    lines += [f"not fastconv's: {report}" for report in reports if report not in swapped]
    return "\n".join(textwrap.fill(line, _WIDTH, subsequent_indent="  ") for line in lines)


def _bfloat16(rows):
    """A line where fastconv's CPU kernels ran bfloat16 on a CPU with instructions for it."""
    ran = any(row.dtype == torch.bfloat16 and row.backend.startswith("cpu") for row in rows)
    has_instructions = any(getattr(torch.cpu, name, bool)() for name in _BFLOAT16_INSTRUCTIONS)
    if not ran or not has_instructions:
        return ""
    return textwrap.fill(
        "bfloat16: fastconv's CPU kernels multiply in float32. This CPU has instructions for "
        "bfloat16, which torch uses: its own layers are mostly faster in this dtype.",
        _WIDTH,
        subsequent_indent="  ",
    )


def _slowest(rows, disturbance):
    if not rows or any(row.time_us is None for row in rows):
        return ""
    total = sum(row.time_us for row in rows)
    slowest = sorted(rows, key=lambda row: row.time_us, reverse=True)[:_SLOWEST]
    lines = []
    for row in slowest:
        share = f"{100 * row.time_us / total:.0f} % of the time"
        floor = "" if row.floor_us is None else f", at {row.percent_of_floor:.0f} % of the floor"
        text = f"{_name(row)}: {share}{floor}" + ("" if disturbance else f": {why_slow(row)}")
        lines.append(textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    "))
    return "\n".join(("slowest:", *lines))


# ---- words ---------------------------------------------------------------------------------------


def _short(dtype):
    return str(dtype).removeprefix("torch.")


def _layout(row):
    return "channels_last" if row.channels_last else "NCHW"


def _name(row):
    return row.layer or row.operator


def _problem(row):
    """For example "n8c64h56k128r3s2p1": N, C, H, K, R, stride, padding; with w (W), d (dilation)
    and g (groups) where they differ from H, 1 and 1. What differs between the axes is written as
    3x1, vertical first. A pool begins with its operator."""
    problem = row.problem
    if problem is None:
        return row.operator
    text = f"n{problem.N}c{problem.C}h{problem.H}" + (
        f"w{problem.W}" if problem.W != problem.H else ""
    )
    if isinstance(problem, AdaptivePoolProblem):
        return f"{row.operator} {text} to {problem.P}x{problem.Q}"
    is_conv = isinstance(problem, ConvProblem)
    text += f"k{problem.K}" if is_conv else ""
    text += "r" + _pair(problem.R, problem.S) + "s" + _pair(problem.stride_h, problem.stride_w)
    text += "p" + _pair(problem.pad_h, problem.pad_w)
    dilation = _pair(problem.dilation_h, problem.dilation_w)
    text += f"d{dilation}" if dilation != "1" else ""
    if not is_conv:
        return f"{row.operator} {text}"
    return text + (f"g{problem.groups}" if problem.groups != 1 else "")


def _pair(vertical, horizontal):
    return f"{vertical}" if vertical == horizontal else f"{vertical}x{horizontal}"


def _start_of(text, width):
    return text if len(text) <= width else text[: width - 1] + "…"


def _end_of(text, width):
    return text if len(text) <= width else "…" + text[1 - width :]
