"""`fastconv report`: its rows, summaries and choices, and the README's tables."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from report_rows import LAYERS, NETWORKS, WHERE, layer, network, reported, write_made_up

import fastconv.bench
from fastconv.__main__ import main
from fastconv.bench.measure.record import append_csv, read_rows
from fastconv.bench.report.choices import compare_choices
from fastconv.bench.report.results import read_parts, rows_of_the_readme
from fastconv.bench.report.summary import Summary, by_family, family_name
from fastconv.bench.report.tables import families_table, networks_table, with_tables

README = Path(__file__).parents[2] / "README.md"
# The results that the README quotes.
RESULTS = Path(fastconv.bench.__file__).parent / "results" / "cpu_amd_epyc_2cores"


def test_rows_are_read_as_they_were_written(tmp_path):
    write_made_up(tmp_path)
    pairs = read_rows(tmp_path / "layers.csv")
    # Times are written with five digits.
    assert [row for row, _ in pairs][:4] == LAYERS[:4] and pairs[4][0].us == 123.46
    assert pairs[0][1] == WHERE | {"command": "fastconv bench --threads 1"}


def test_columns_younger_than_a_file_are_none_and_older_ones_are_asked_for(tmp_path):
    path = tmp_path / "layers.csv"
    old = "op,pass,family,model,layer,problem,layout,dtype"
    path.write_text(f"{old},us\nconv2d,fprop,dilated,net,conv,n1,nchw,float32,2.5\n")
    ((row, where),) = read_rows(path)
    assert row.us == 2.5 and row.roofline_percent is None and row.status == "ok" and where == {}
    path.write_text(f"{old},us\nconv2d,fprop,dilated,net,conv,n1,nchw,float32,fast\n")
    with pytest.raises(ValueError, match=r"layers\.csv, line 2: .*'fast'"):
        read_rows(path)
    path.write_text("op,pass\nconv2d,fprop\n")
    with pytest.raises(ValueError, match="no column 'family'"):
        read_rows(path)


def test_a_summary_counts_what_is_quotable():
    summary = Summary.of(LAYERS)
    assert summary.lines == 4 and (summary.low, summary.high) == (0.5, 4.0)
    assert summary.mean == pytest.approx(4 ** (1 / 4))  # of 2, 1/2, 4 and 1
    assert (summary.wins, summary.losses, summary.level) == (2, 1, 1)
    assert Summary.of(LAYERS[3:6]) is None


def test_the_fastest_choice_is_marked():
    ways, (line,) = compare_choices(NETWORKS)
    assert [(w.dtype, w.layout, w.variants) for w in ways] == [
        ("float32", "nchw", ("converted", "fused")),
        ("float32", "channels_last", ("converted",)),
        ("bfloat16", "channels_last", ("fused",)),
    ]
    # torch was timed against two variants in NCHW: 100,000 us and 90,000 us.
    assert [round(c.us) for c in line.choices] == [90000, 80000, 60000, 90000, 100000, 90250, 95000]
    assert [c.is_fastest for c in line.choices] == [False, False, True, False, False, True, False]
    assert [c.is_fastest_of_all for c in line.choices].index(True) == 2
    compiled = network("resnet18", "fused", "nchw", 61e3, 1.1, baseline="torch.compile")
    ways, (line,) = compare_choices([*NETWORKS[:3], compiled])
    assert [w.baseline for w in ways] == ["torch", "torch", "torch.compile"]
    assert [round(c.us) for c in line.choices[-2:]] == [67100, 61000]
    assert line.choices[0].us == 90000
    disturbed = network("resnet18", "fused", "nchw", 1e3, 90.0, others_cpus=0.9)
    _, (line,) = compare_choices([NETWORKS[0], disturbed])
    assert [(c.us, c.note) for c in line.choices][2] == (None, "disturbed")
    assert [c.is_fastest_of_all for c in line.choices] == [False, True, False]


def test_a_row_without_a_number_still_says_how_fast_the_baseline_is():
    ours = layer(2.0, 10.0)
    wrong = replace(layer(None, None, layout="channels_last", status="wrong"), baseline_us=5.0)
    assert families_table([ours, wrong]).splitlines()[2:] == [
        "| dense 1 x 1 | fprop | 2.00 (2.00-2.00) | 1 wrong | 0.50 |",
    ]


def test_the_readme_quotes_fastconvs_own_choice_of_one_input(tmp_path):
    named = {"backend": "reference", "requested_backend": "reference"}
    append_csv(tmp_path / "layers.csv", [layer(2.0), layer(0.01, **named)], WHERE)
    slow = network("resnet18", "converted", "nchw", 9e6, 0.01, requested_backend="reference")
    append_csv(tmp_path / "models.csv", [*NETWORKS, slow], WHERE)
    parts = read_parts(tmp_path)
    assert rows_of_the_readme(parts) == [*NETWORKS, layer(2.0)]
    page = reported(tmp_path)
    assert "reference, float32, against torch" in page.words
    assert "Geometric mean of 1 line" in page.words and "9000" not in page.words
    with pytest.raises(ValueError, match="n1c3h64, n8c3h224"):
        networks_table([*NETWORKS, replace(NETWORKS[0], problem="n1c3h64")])


def test_of_lines_measured_again_the_last_one_counts(tmp_path):
    path = tmp_path / "layers.csv"
    append_csv(path, [layer(2.0), layer(3.0)], WHERE)
    with open(path, "a") as file:  # a run that was killed
        file.write(path.read_text().splitlines()[2][:40])
    ((row, _),) = read_parts(tmp_path)["Layers and pools"]
    assert row.x_baseline == 3.0


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


def test_tables_are_made_from_quotable_rows():
    assert families_table(LAYERS).splitlines()[2:] == [
        "| dense 1 x 1 | fprop | 1.00 (0.50-2.00), 1 disturbed, 1 wrong | 4.00 (4.00-4.00) | - |",
        "| | dgrad | 1 no kernel | - | - |",
        "| max pool | forward | 1.00 (1.00-1.00) | - | - |",
    ]
    wrong = network("resnet18", "fused", "channels_last", None, None, status="wrong")
    assert networks_table([*NETWORKS, wrong]).splitlines()[2:] == [
        "| ResNet-18 | converted | inference | 1 | 1.25 | 0.90 |",
        "| ResNet-18 | fused | inference | 1 | 1.50 | wrong |",
        "| ResNet-18 | fused, bfloat16 autocast | inference | 1 | - | 0.95 |",
    ]


def test_the_readme_quotes_the_committed_results():
    """`fastconv report FOLDER --readme README.md` mends it."""
    text = README.read_text("utf-8")
    assert with_tables(text, rows_of_the_readme(read_parts(RESULTS))) == text


def test_the_readme_is_brought_up_to_date(tmp_path, capsys):
    results, copy = tmp_path / "results", tmp_path / "README.md"
    results.mkdir()
    write_made_up(results)
    marks = "a\n<!-- families: generated by fastconv report -->\nold\n<!-- end -->\nb\n"
    copy.write_text(marks)
    assert main(["report", str(results), "--readme", str(copy)]) == 2
    assert "networks: generated" in capsys.readouterr().err and copy.read_text() == marks
    copy.write_text(marks + marks.replace("families", "networks"))
    assert main(["report", str(results), "--readme", str(copy)]) == 0
    text = copy.read_text()
    assert "old" not in text and "| dense 1 x 1 | fprop |" in text and "| ResNet-18 |" in text
    assert re.fullmatch(
        r"a\n<.*-->\n\n\|.*\|\n\n<!-- end -->\nb\n", text[: text.index("b\n") + 2], re.S
    )
