"""`fastconv report`: the tables of README.md and bench/README.md, from the rows of the page."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
from report_rows import LAYERS, NETWORKS, RESULTS, WHERE, layer, network

from fastconv.__main__ import main
from fastconv.bench.measure.record import append_csv
from fastconv.bench.report.results import read_parts, rows_of_the_readme
from fastconv.bench.report.summary import by_family, family_name, kind_of
from fastconv.bench.report.tables import (
    TABLES,
    calls_table,
    families_table,
    kinds_table,
    networks_table,
    with_tables,
)

ROOT = Path(__file__).parents[2]
QUOTING = {"README.md": ["kinds"], "bench/README.md": ["families", "networks", "calls"]}


def test_families_are_named_and_ordered():
    assert family_name("grouped C/g=4 +bias+relu") == "grouped, 4 channels a group + bias + ReLU"
    assert family_name("dense RxS +bias+residual+relu") == "dense R x S + bias + residual + ReLU"
    assert family_name("stem (C=3)") == "stem (C = 3)"
    names = [
        "max pool",
        "depthwise 27x27",
        "depthwise 5x5 +bias+relu",
        "depthwise 5x5",
        "stem (C=3)",
    ]
    assert list(by_family([layer(1.0, family=name) for name in names])) == names[::-1]
    assert [kind_of(name) for name in names[1:4]] == ["depthwise"] * 3
    assert kind_of("something else 3x3") == "something else 3x3"


def test_tables_are_made_from_quotable_rows():
    assert families_table(LAYERS).splitlines()[2:] == [
        "| dense 1 x 1 | fprop | 1.00 (0.50-2.00), 1 disturbed, 1 wrong | 4.00 (4.00-4.00) | - |",
        "| | dgrad | 1 no kernel | - | - |",
        "| max pool | forward | 1.00 (1.00-1.00) | - | - |",
        "",
        "1 of 7 lines are disturbed: other programs kept more than 0.2 CPUs busy. A `!` marks "
        "numbers of such lines alone.",
    ]
    wrong = network("resnet18", "fused", "channels_last", None, None, status="wrong")
    assert networks_table([*NETWORKS, wrong]).splitlines()[2:] == [
        "| ResNet-18 | converted | inference | 1 | 1.25 | 0.90 |",
        "| ResNet-18 | fused | inference | 1 | 1.50 | wrong |",
        "| ResNet-18 | fused, bfloat16 autocast | inference | 1 | - | 0.95 |",
    ]
    with pytest.raises(ValueError, match="n1c3h64, n8c3h224"):
        networks_table([*NETWORKS, replace(NETWORKS[0], problem="n1c3h64")])


def test_where_every_row_is_disturbed_the_tables_have_marked_numbers():
    rows = [replace(row, others_cpus=0.7) for row in (*LAYERS[1:3], *NETWORKS[:1])]
    assert families_table(rows).splitlines()[2:] == [
        "| dense 1 x 1 | fprop | 0.50 ! (0.50-0.50) | 4.00 ! (4.00-4.00) | - |",
        "",
        "2 of 2 lines are disturbed: other programs kept more than 0.2 CPUs busy. A `!` marks "
        "numbers of such lines alone.",
    ]
    assert "| inference | 1 | 1.25 ! | - |" in networks_table(rows)


def test_a_row_without_a_number_still_says_how_fast_the_baseline_is():
    ours = layer(2.0, 10.0)
    wrong = replace(layer(None, None, layout="channels_last", status="wrong"), baseline_us=5.0)
    assert families_table([ours, wrong]).splitlines()[2:] == [
        "| dense 1 x 1 | fprop | 2.00 (2.00-2.00) | 1 wrong | 0.50 |",
    ]


def test_a_call_is_a_row_with_both_sides_microseconds():
    call = {"op": "call", "model": "conv2d", "layer": "module", "pass_": "training step"}
    wrong = layer(None, None, **call | {"pass_": "inference"}, status="wrong")
    rows = [layer(0.5, 12.34, **call), wrong, *LAYERS]
    assert calls_table(rows).splitlines()[2:] == [
        "| conv2d | module | training step | 6.2 | 12.3 | 0.50 |",
        "| conv2d | module | inference | - | - | wrong |",
    ]
    with pytest.raises(ValueError, match="numbers of threads"):
        calls_table([*rows, replace(rows[0], threads=2)])
    with pytest.raises(ValueError, match="no line of a call"):
        calls_table(LAYERS)


def both_layouts(ratios, **fields):
    """Rows of 10 us in NCHW and channels_last, with these ratios."""
    return [
        layer(ratio, layout=layout, **fields)
        for ratio, layout in zip(ratios, ("nchw", "channels_last"), strict=True)
    ]


def test_every_kind_of_layer_is_a_row_against_the_faster_layout():
    rows = [
        # torch takes 20 us in NCHW and 5 us in channels_last: 5 us is the time to beat.
        *both_layouts((2.0, 0.5), family="depthwise 3x3"),
        *both_layouts((2.0, 8.0), family="depthwise 5x5", problem="n2"),
        *both_layouts((4.0, 4.0), family="depthwise 5x5 +bias+relu", op="conv2d+bias+relu"),
        *both_layouts((0.1, 0.1), family="depthwise 5x5 +bias+gelu", op="conv2d+bias+gelu"),
        *both_layouts((0.5, 0.5), family="average pool", op="avg_pool2d", pass_="bwd"),
        *both_layouts((2.0, 2.0), family="global average pool", op="gap", pass_="bwd"),
        layer(None, None, family="average pool", op="avg_pool2d", pass_="fwd", status="wrong"),
    ]
    header, _, *lines = kinds_table(rows).splitlines()
    assert header == (
        "| kind of layer | fprop, forward | dgrad, backward | wgrad | fprop + bias + ReLU |"
    )
    assert lines == [
        "| depthwise | 1.00 (0.50-2.00) | - | - | 4.00 (4.00-4.00) |",
        "| average pool | 1 wrong | 1.00 (0.50-2.00) | - | - |",
    ]
    assert kinds_table([layer(3.0)]).splitlines()[2:] == ["| dense 1 x 1 | - | - | - | - |"]


def test_the_readmes_have_every_table_once():
    marks = {
        name: re.findall(r"<!-- (\w+): generated", (ROOT / name).read_text("utf-8"))
        for name in QUOTING
    }
    assert marks == QUOTING
    assert sorted(name for names in marks.values() for name in names) == sorted(TABLES)


@pytest.mark.parametrize("name", QUOTING)
def test_the_readmes_quote_the_committed_results(name):
    """`fastconv report --readme README.md --readme bench/README.md` on a copy of the results sets
    the tables."""
    text = (ROOT / name).read_text("utf-8")
    assert with_tables(text, rows_of_the_readme(read_parts(RESULTS))) == text


def marked(*names):
    """A text with marks for tables of these names."""
    marks = "a\n<!-- {}: generated by fastconv report -->\nold\n<!-- end -->\nb\n"
    return "".join(map(marks.format, names))


@pytest.mark.parametrize(
    "text, missing",
    [
        ("a\n", "there is no <!-- kinds|families|networks|calls: generated"),
        (marked("nothing"), "nothing: generated"),
        (marked("kinds").partition("old")[0], "there is no <!-- end --> after <!-- kinds:"),
    ],
)
def test_a_text_without_marks_is_left_alone(text, missing):
    with pytest.raises(ValueError, match=re.escape(missing)):
        with_tables(text, LAYERS)


def test_readmes_are_brought_up_to_date(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    pytest.importorskip("jinja2")
    append_csv(tmp_path / "layers.csv", LAYERS, WHERE)
    first, second = tmp_path / "README.md", tmp_path / "other.md"
    both = ["--readme", str(first), "--readme", str(second)]
    first.write_text(marked("kinds"))
    second.write_text(marked("families", "networks"))
    assert main(["report", str(tmp_path), *both]) == 2
    assert "no line of a network" in capsys.readouterr().err
    assert first.read_text() == marked("kinds")
    append_csv(tmp_path / "models.csv", NETWORKS, WHERE)
    assert main(["report", str(tmp_path), *both]) == 0
    assert [str(first), str(second)] == capsys.readouterr().out.splitlines()[-3:-1]
    assert "| dense 1 x 1 | 1 disturbed, 1 wrong |" in first.read_text()
    text = second.read_text()
    assert "old" not in text and "| dense 1 x 1 | fprop |" in text and "| ResNet-18 |" in text
    assert re.fullmatch(
        r"a\n<.*-->\n\n\|.*\|\n\n1 of 7 [^\n]*\n\n<!-- end -->\nb\n",
        text[: text.index("b\n") + 2],
        re.S,
    )
