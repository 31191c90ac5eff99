"""`fastconv report BEFORE AFTER`: what changed between two runs, and what is noise."""

from dataclasses import replace

import pytest
from report_rows import NETWORKS, WHERE, layer

from fastconv.__main__ import main
from fastconv.bench.measure.record import append_csv
from fastconv.bench.report.changes import Change, pair_rows

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


def timed(us, baseline_us=20.0, **fields):
    return layer(baseline_us / us, us, **fields)


@pytest.mark.parametrize(
    ("before", "after", "noise", "verdict"),
    [
        (timed(10.0), timed(5.0), 0.05, "^"),
        (timed(5.0), timed(10.0), 0.05, "v"),
        (timed(10.4), timed(10.0), 0.05, "="),
        # Its own times are spread by a fifth.
        (timed(11.5, p20_us=9.2, p80_us=13.8), timed(10.0), 0.2, "="),
        (timed(10.0), timed(11.5, p20_us=9.2, p80_us=13.8), 0.2, "="),
        # The other side, which is the same, became slower or faster as well.
        (timed(10.0, 20.0), timed(7.0, 13.0), 7 / 13, "="),
        (timed(10.0, 20.0), timed(12.5, 26.0), 0.3, "="),
        (timed(10.0, 20.0), timed(5.0, 26.0), 0.3, "^"),
    ],
)
def test_a_change_is_one_where_it_is_larger_than_the_noise(before, after, noise, verdict):
    change = Change(before, after)
    assert change.noise == pytest.approx(noise) and change.verdict == verdict
    assert change.ratio == pytest.approx(before.us / after.us)


def test_rows_are_paired_and_the_rest_is_counted():
    both, only, more = timed(10.0), timed(10.0, problem="n2"), timed(10.0, threads=2)
    wrong = layer(None, None, pass_="dgrad", status="wrong")
    changes, before, after, missing = pair_rows([both, only, wrong], [wrong, both, more])
    assert (changes, before, after, missing) == ([Change(both, both)], [only], [more], 1)


def test_two_folders_are_compared_and_what_differs_is_said(tmp_path, monkeypatch, capsys):
    rows = [
        timed(10.0),
        timed(10.0, problem="n2"),
        timed(10.0, problem="n3", others_cpus=0.9),
        timed(10.0, problem="n4", family="max pool"),
        timed(10.0, problem="n5"),
    ]
    faster = [replace(row, us=row.us / 2) for row in rows[:3]]
    monkeypatch.chdir(tmp_path)
    for folder, found, where in (
        ("a", rows, WHERE),
        ("b", [*faster, rows[3]], WHERE | {"torch": "2.14", "commit": "def"}),
    ):
        (tmp_path / folder).mkdir()
        append_csv(tmp_path / folder / "layers.csv", found, where)
    append_csv(tmp_path / "b" / "models.csv", NETWORKS[:1], WHERE)
    assert main(["report", "a", "b"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "n2 fprop NCHW 1 10.0 5.0 2.00 ^ 5% 1.00" in out and "2.00 ^!" in out
    assert "dense 1x1 3 2.00 2.00-2.00 3 0 0 1" in out
    assert "max pool 1 1.00 1.00-1.00 0 0 1 0" in out
    assert "4 lines in both; only before 1, only after 1" in out
    assert "torch differs: before 2.13; after 2.13, 2.14" in out and "device differs" not in out
    assert main(["report", "a", "b", "--disturbed-limit", "1"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "dense 1x1 3 2.00 2.00-2.00 3 0 0 0" in out


def test_a_commit_stands_for_its_rows_also_those_put_aside(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "fastconv-results"
    folder.mkdir()
    append_csv(folder / "layers.abc.csv", [timed(10.0)], WHERE)
    append_csv(folder / "layers.csv", [timed(5.0)], WHERE | {"commit": "def123"})
    append_csv(folder / "layers.def.csv", [timed(1.0)], WHERE | {"commit": "def123+456"})
    assert main(["report", "abc", "def"]) == 0
    assert "2.00 ^" in capsys.readouterr().out
    assert main(["report", "abc", "def+"]) == 0
    assert "10.00 ^" in capsys.readouterr().out
    assert main(["report", "abc", "fed"]) == 2
    assert "fed is no folder, and fastconv-results has no" in capsys.readouterr().err
    assert main(["report", "a", "b", "c"]) == 2 and "got 3" in capsys.readouterr().err
    assert main(["report", "abc", "def", "--readme", "x"]) == 2
    assert "--readme" in capsys.readouterr().err
