"""What `fastconv bench` prints: every line, the means by family, and the count of wins and losses."""

from itertools import groupby
from statistics import geometric_mean

from rich.markup import escape
from rich.table import Table

LAYOUT_NAMES = {"nchw": "NCHW", "channels_last": "NHWC"}
# Closer to 1 than this the noise of a shared machine decides which side is the faster one.
TIE = 0.05
WIDE = 110  # columns of a terminal, from which on the problem is spelled out


def _plain_table(title):
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )


def _microseconds(us):
    if us is None:
        return "-"
    return f"{us:,.0f}" if us >= 100 else f"{us:.1f}"


def _ratio(value):
    """Wins and losses by the same rule: colour, and an arrow where there is no colour."""
    if value is None:
        return "-"
    if value >= 1 + TIE:
        return f"[green]{value:.2f} ^[/]"
    if value <= 1 / (1 + TIE):
        return f"[red]{value:.2f} v[/]"
    return f"{value:.2f} ="


def _rate(row):
    """GFLOP/s where arithmetic bounds the operator, GB/s where memory does."""
    if row.us is None:
        return row.status
    if row.op.startswith("conv2d") and not row.family.startswith("depthwise"):
        return f"{row.tflops * 1e3:,.0f} GF/s"
    return f"{row.gbs:,.1f} GB/s"


def _spread(row):
    """Half of p20..p80 as a share of the median, fastconv / baseline."""
    pairs = (
        (row.us, row.p20_us, row.p80_us),
        (row.baseline_us, row.baseline_p20_us, row.baseline_p80_us),
    )
    return "/".join(
        "-" if us is None else f"{(p80 - p20) / 2 / us * 100:.0f}" for us, p20, p80 in pairs
    )


def print_header(console, where, count, pages_kept):
    """Where the run takes place, before it does."""
    console.print(
        escape(
            f"{where['device']}, {where['threads']} threads, torch {where['torch']}, fastconv "
            f"{where['fastconv']}: {count} lines"
        )
    )
    if not pages_kept:
        console.print(
            "[yellow]This C library has no mallopt: above 32 MB the times hold page faults, on "
            "both sides.[/]"
        )


def _print_lines(console, rows):
    first = rows[0]
    baseline = first.baseline or "torch"
    table = _plain_table(f"{first.op} {first.dtype}, against {baseline}")
    wide = console.width >= WIDE
    table.add_column("layer", overflow="fold", min_width=14)
    if wide:
        table.add_column("problem", no_wrap=True)
    table.add_column("pass", no_wrap=True)
    table.add_column("layout", no_wrap=True)
    for name in ("ours us", f"{baseline} us", "ratio", "ours rate", "+-%"):
        table.add_column(name, justify="right", no_wrap=True)
    shown = None
    for row in rows:
        batch = row.problem.split("c", 1)[0]
        key = f"{row.model} {row.layer} {batch}"
        problem = (row.problem,) if wide else ()
        table.add_row(
            escape(key) if key != shown else "",
            *(problem if key != shown else ("",) * len(problem)),
            row.pass_,
            LAYOUT_NAMES[row.layout],
            _microseconds(row.us),
            _microseconds(row.baseline_us),
            _ratio(row.x_baseline),
            _rate(row),
            _spread(row),
        )
        shown = key
    console.print(table)
    console.print()


def _print_means(console, rows):
    timed = [row for row in rows if row.x_baseline is not None]
    if not timed:
        return
    table = _plain_table("Geometric means of baseline time / fastconv time (above 1: we are faster)")
    for name in ("family", "pass", "layout", "baseline"):
        table.add_column(name, no_wrap=name != "family", overflow="fold")
    for name in ("lines", "mean", "worst", "best"):
        table.add_column(name, justify="right", no_wrap=True)
    groups = {}
    for row in timed:
        key = (row.family, row.pass_, LAYOUT_NAMES[row.layout], f"{row.baseline} {row.dtype}")
        groups.setdefault(key, []).append(row.x_baseline)
    for key, ratios in groups.items():
        table.add_row(
            *key,
            str(len(ratios)),
            _ratio(geometric_mean(ratios)),
            f"{min(ratios):.2f}",
            f"{max(ratios):.2f}",
        )
    console.print(table)
    console.print()


def _print_counts(console, rows):
    ratios = [row.x_baseline for row in rows if row.x_baseline is not None]
    wins = sum(ratio >= 1 + TIE for ratio in ratios)
    losses = sum(ratio <= 1 / (1 + TIE) for ratio in ratios)
    console.print(
        f"faster on {wins}, slower on {losses}, within {TIE:.0%} on {len(ratios) - wins - losses} "
        f"of {len(rows)} lines; {len(rows) - len(ratios)} without a number"
    )


def print_report(console, rows):
    """The tables of a finished run.

    Args:
        rows: Rows in the order of the cases.
    """
    key = lambda row: (row.op, row.dtype, row.baseline or "")  # noqa: E731
    for _, group in groupby(sorted(rows, key=key), key):
        _print_lines(console, list(group))
    _print_means(console, rows)
    for row in rows:
        if row.status != "ok":
            style = "bold red" if row.is_failure else "yellow"
            line = f"{row.model} {row.layer} {row.op} {row.pass_} {row.layout} {row.problem}"
            console.print(f"[{style}]{row.status.upper()}[/] {escape(f'{line}: {row.reason}')}")
    notes = dict.fromkeys(row.note for row in rows if row.note)
    for note in notes:
        console.print(f"[yellow]no CUDA graph:[/] {escape(note)}")
    _print_counts(console, rows)
