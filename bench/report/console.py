"""What `fastconv bench` prints: every line, the means by family, the count of wins and losses."""

from statistics import geometric_mean

from rich.markup import escape
from rich.table import Table

from ...backends.base import is_convolution
from .summary import (
    TIE,
    best_layout_mean,
    best_layout_ratios,
    counted,
    grouped,
    quotable,
    wins_and_losses,
)

LAYOUT_NAMES = {"nchw": "NCHW", "channels_last": "NHWC"}
WIDE = 110  # columns of a terminal, from which on problems and ranges are spelled out


def plain_table(title):
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


def _milliseconds(us):
    return "-" if us is None else f"{us / 1e3:,.1f}"


def ratio_text(value, quotable=True):
    """Wins and losses by the same rule: colour, and a sign where there is no colour."""
    if value is None:
        return "-"
    if not quotable:
        return f"[yellow]{value:.2f} !"
    if value >= 1 + TIE:
        return f"[green]{value:.2f} ^"
    if value <= 1 / (1 + TIE):
        return f"[red]{value:.2f} v"
    return f"{value:.2f} ="


def _rate(row):
    """GFLOP/s where arithmetic bounds the operator, GB/s where memory does."""
    if row.us is None:
        return row.status
    arithmetic = is_convolution(row.op) and row.pass_ != "bgrad"
    if arithmetic and not row.family.startswith("depthwise"):
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


def print_header(console, where, threads, count, count_there, pages_kept):
    """Where the run takes place, before it does; count_there lines are of earlier runs."""
    there = f", {count_there} of them there already (--fresh measures again)" if count_there else ""
    console.print(
        escape(
            f"{where['device']}, {threads} threads, torch {where['torch']}, fastconv "
            f"{where['fastconv']}: {count} lines{there}"
        )
    )
    if not pages_kept:
        console.print(
            "[yellow]This C library has no mallopt: above 32 MB the times hold page faults, on "
            "both sides.[/]"
        )


def print_plan(console, lines, seconds):
    """The lines that would be measured: what --filter looks at, and what they are held against.

    Args:
        seconds: what measuring them takes at least.
    """
    for line in lines:
        against = ", ".join(one.name for one in line.against)
        text = f"{line.part}: {line.case.title}, threads: {line.threads}, against {against}"
        console.print(escape(text), soft_wrap=True, highlight=False)
    console.print(
        f"{len(lines)} lines, at least {seconds:,.0f} s of measuring; verifying comes on top, and "
        "disturbed lines are measured again"
    )


def _print_lines(console, rows):
    first = rows[0]
    baseline = first.baseline or "torch"
    table = plain_table(f"{first.op} {first.dtype}, against {baseline}")
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
        batch = "" if row.layer == row.problem else row.problem.split("c", 1)[0]
        key = f"{row.model} {row.layer} {batch}".rstrip()
        problem = (row.problem,) if wide else ()
        table.add_row(
            escape(key) if key != shown else "",
            *(problem if key != shown else ("",) * len(problem)),
            row.pass_,
            LAYOUT_NAMES[row.layout],
            _microseconds(row.us),
            _microseconds(row.baseline_us),
            ratio_text(row.x_baseline, row.is_quotable),
            _rate(row),
            _spread(row),
        )
        shown = key
    console.print(table)
    console.print()


def _mean(rows, best):
    """{column: text} of a layout's rows; best: the geometric mean with the faster layout."""
    rows = counted(rows)
    if not rows:
        return {"n": "0", "mean": "-", "range": "-", "best": "-"}
    ratios, quiet = [row.x_baseline for row in rows], rows[0].is_quotable
    return {
        "n": str(len(ratios)),
        "mean": ratio_text(geometric_mean(ratios), quiet),
        "range": f"{min(ratios):.2f}-{max(ratios):.2f}",
        "best": ratio_text(best_layout_mean(rows, best), quiet),
    }


def _print_means(console, rows, best):
    """Geometric means by family, pass and layout of the rows of one baseline and dtype that have a
    ratio.

    Args:
        best: best_layout_ratios of all rows.
    """
    first = rows[0]
    table = plain_table(
        f"Geometric means of {first.baseline} time / fastconv time, {first.dtype}; best: with the "
        f"faster of {first.baseline}'s layouts"
    )
    table.add_column("family", overflow="fold", min_width=14)
    table.add_column("pass", no_wrap=True)
    present = {row.layout for row in rows}
    layouts = [layout for layout in LAYOUT_NAMES if layout in present]
    names = ("n", "mean", "range", "best") if console.width >= WIDE else ("n", "mean", "best")
    for layout in layouts:
        for name in names:
            title = f"{LAYOUT_NAMES[layout]} n" if name == "n" else name
            table.add_column(title, justify="right", no_wrap=True)
    for key, group in grouped(rows, lambda row: (row.family, row.pass_)).items():
        cells = [_mean([row for row in group if row.layout == layout], best) for layout in layouts]
        table.add_row(*key, *(texts[name] for texts in cells for name in names))
    console.print(table)
    console.print()


def _print_networks(console, rows):
    """Networks of one baseline and dtype."""
    first = rows[0]
    table = plain_table(
        f"Networks: {first.baseline} time / fastconv time, {first.dtype}; best: with the "
        f"faster of {first.baseline}'s layouts"
    )
    table.add_column("network", overflow="fold", min_width=12)
    for name in ("variant", "pass", "layout"):
        table.add_column(name, no_wrap=True)
    for name in ("thr", "ours ms", "theirs ms", "ratio", "best"):
        table.add_column(name, justify="right", no_wrap=True)
    best = best_layout_ratios(rows)
    for row in rows:
        table.add_row(
            f"{row.model} {row.problem.split('c', 1)[0]}",
            row.layer,
            row.pass_.removesuffix(" step"),
            LAYOUT_NAMES[row.layout],
            str(row.threads),
            _milliseconds(row.us) if row.us else row.status,
            _milliseconds(row.baseline_us),
            ratio_text(row.x_baseline, row.is_quotable),
            ratio_text(best.get(id(row)), row.is_quotable),
        )
    console.print(table)
    _print_pass_means(console, rows, lambda row: (row.layer, row.pass_))


def _print_calls(console, rows):
    """Calls of one baseline and dtype."""
    first = rows[0]
    table = plain_table(f"Calls of tiny tensors, {first.dtype}, against {first.baseline}")
    table.add_column("operator", overflow="fold", min_width=14)
    for name in ("as", "pass", "layout"):
        table.add_column(name, no_wrap=True)
    for name in ("thr", "ours us", "theirs us", "ratio", "+-%"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            f"{row.model} {row.problem.split('c', 1)[0]}",
            row.layer,
            row.pass_.removesuffix(" step"),
            LAYOUT_NAMES[row.layout],
            str(row.threads),
            _microseconds(row.us) if row.us else row.status,
            _microseconds(row.baseline_us),
            ratio_text(row.x_baseline, row.is_quotable),
            _spread(row),
        )
    console.print(table)
    _print_pass_means(console, rows, lambda row: (row.pass_, f"({row.threads} threads)"))


def _print_pass_means(console, rows, key):
    """The geometric mean of the ratios of each key."""
    for names, group in grouped(rows, key).items():
        if group := counted(group):
            mean = geometric_mean([row.x_baseline for row in group])
            text = ratio_text(mean, group[0].is_quotable)
            console.print(f"{' '.join(names)}: geometric mean {text}")
    console.print()


def _print_counts(console, rows):
    ratios = [row.x_baseline for row in quotable(rows)]
    wins, losses = wins_and_losses(ratios)
    disturbed = sum(row.is_disturbed for row in rows)
    missing = sum(row.x_baseline is None for row in rows)
    console.print(
        f"{len(rows)} lines: faster (^) on {wins}, slower (v) on {losses}, within {TIE:.0%} (=) on "
        f"{len(ratios) - wins - losses}, disturbed (!) on {disturbed}, no number for {missing}"
    )
    if disturbed:
        console.print(
            f"[yellow](!) other programs kept more than {rows[0].disturbed_limit:g} CPUs busy "
            "(--disturbed-limit), which slows torch's OpenMP more than it slows fastconv: not to "
            "be quoted, and in a mean only where all its lines are disturbed[/]"
        )


def print_report(console, rows):
    """The tables of a finished run.

    Args:
        rows: Rows in the order of the cases.
    """
    for group in grouped(rows, lambda row: (row.op, row.dtype, row.baseline)).values():
        if group[0].op == "network":
            _print_networks(console, group)
        elif group[0].op == "call":
            _print_calls(console, group)
        else:
            _print_lines(console, group)
    means = [row for row in rows if row.has_ratio and row.op not in ("network", "call")]
    for group in grouped(means, lambda row: (row.dtype, row.baseline)).values():
        _print_means(console, group, best_layout_ratios(rows))
    for (status, reason), group in grouped(rows, lambda row: (row.status, row.reason)).items():
        if status == "ok":
            continue
        style = "bold red" if group[0].is_failure else "yellow"
        console.print(f"[{style}]{status.upper()}[/], {len(group)} lines: {escape(reason)}")
        for row in group if group[0].is_failure else ():
            console.print(
                escape(f"  {row.op} {row.pass_} {row.layout} {row.problem} ({row.layer})")
            )
    notes = dict.fromkeys(row.note for row in rows if row.note)
    for note in notes:
        console.print(f"[yellow]no CUDA graph:[/] {escape(note)}")
    _print_counts(console, rows)
