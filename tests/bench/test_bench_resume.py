"""`fastconv bench` goes on where it was broken off: no row is lost, measured twice or mixed in."""

import csv
import re
import signal
from dataclasses import fields, replace
from types import SimpleNamespace

import pytest
import torch

from fastconv.__main__ import main
from fastconv._native import core
from fastconv.bench import run
from fastconv.bench.cases.selection import select_cases
from fastconv.bench.measure import record
from fastconv.bench.measure.baselines import baselines
from fastconv.bench.measure.ceilings import Ceilings
from fastconv.bench.measure.record import Row, append_csv, columns
from fastconv.bench.measure.results_file import ResultsFile, key

WORDS = ["resnet18 l4.ds1x1s2"]
CASES = select_cases([1], ["nchw"], ["fprop", "dgrad", "wgrad"], ["float32"], WORDS)
COMMAND = ["bench", "layers", "--device", "cpu", "--batch", "1", "--layout", "nchw"]
COMMAND += ["--threads", "1", "--filter", WORDS[0], "--out"]
CEILINGS = Ceilings(copy_gbs=10.0, fp32_tflops=0.1, fp64_tflops=0.05)


class Measuring:
    """Stands for measure.measure; counts its calls, and is broken off after so many."""

    def __init__(self, breaks_after=None, how=None, **fields):
        self.breaks_after, self.how, self.fields, self.calls = breaks_after, how, fields, []

    def __call__(self, case, device, seconds, backend, attempts, against, disturbed_limit):
        if len(self.calls) == self.breaks_after:
            self.how()
        self.calls.append(case)
        threads = torch.get_num_threads()
        times = {"us": 2.0, "p20_us": 2.0, "p80_us": 2.0, "tflops": 1.0, "gbs": 1.0}
        times |= {"baseline_us": 4.0, "baseline_p20_us": 4.0, "baseline_p80_us": 4.0}
        return [
            replace(
                Row.of(case, threads, backend, b.name), backend="cpu", x_baseline=2.0,
                seconds=seconds, disturbed_limit=disturbed_limit, **times | self.fields,
            )
            for b in against
        ]  # fmt: skip


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(run, "keep_pages", lambda: True)
    monkeypatch.setattr(Ceilings, "measured", lambda device, dtypes: CEILINGS)
    monkeypatch.setenv("FASTCONV_COMMIT", "abc")
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def bench(monkeypatch, tmp_path):
    """A function that runs the bench and returns (its exit status, how many cases it measured)."""

    def go(*arguments, measuring=None):
        measuring = measuring or Measuring()
        monkeypatch.setitem(run.PARTS, "layers", replace(run.PARTS["layers"], measure=measuring))
        return main([*COMMAND, str(tmp_path), *arguments]), len(measuring.calls)

    return go


def read(path):
    with open(path, newline="") as file:
        return [Row.read(line) for line in csv.DictReader(file)]


def assert_complete(path):
    rows = read(path)
    assert len(rows) == len({key(row) for row in rows}) == len(CASES) == 4


def fail():
    raise RuntimeError("the machine is on fire")


def test_rows_outlive_an_exception(bench, tmp_path):
    with pytest.raises(RuntimeError, match="on fire"):
        bench(measuring=Measuring(2, fail))
    assert len(read(tmp_path / "layers.csv")) == 2
    assert bench() == (0, 2)
    assert_complete(tmp_path / "layers.csv")
    assert bench() == (0, 0)


def test_rows_outlive_ctrl_c(bench, tmp_path, capsys):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        status, measured = bench(measuring=Measuring(3, lambda: signal.raise_signal(signal.SIGINT)))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (status, measured) == (130, 3)
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and "interrupted" in err and str(tmp_path) in err
    assert len(read(tmp_path / "layers.csv")) == 3
    assert bench() == (0, 1)
    assert_complete(tmp_path / "layers.csv")
    out = " ".join(capsys.readouterr().out.split())
    assert "4 lines, 3 of them there already (--fresh measures again)" in out
    assert "4 lines: faster (^) on 4" in out  # the report has all of them


def test_what_was_measured_for_less_time_or_on_a_busy_machine_is_measured_again(bench, tmp_path):
    assert bench("--seconds", "0.1") == (0, 4)
    assert bench("--seconds", "0.1") == (0, 0)
    assert bench(measuring=Measuring(others_cpus=0.9)) == (0, 4)
    assert bench("--disturbed-limit", "1") == (0, 0)
    assert bench() == (0, 4)
    assert bench() == bench("--seconds", "0.1") == (0, 0)
    assert len(read(tmp_path / "layers.csv")) == 3 * 4


@pytest.mark.parametrize("kept", [0, 1, 4])
def test_a_line_that_was_cut_off_is_measured_again(bench, tmp_path, kept):
    """With 0 lines kept, the header itself was cut off."""
    bench()
    path = tmp_path / "layers.csv"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:kept]) + lines[kept][:30])
    assert bench() == (0, min(5 - kept, 4))
    assert_complete(path)
    assert path.read_bytes().splitlines()[0] == lines[0].rstrip()


def test_a_file_of_another_commit_is_moved_aside_and_kept(bench, monkeypatch, tmp_path, capsys):
    bench()
    first = (tmp_path / "layers.csv").read_bytes()
    monkeypatch.setenv("FASTCONV_COMMIT", "def")
    capsys.readouterr()
    assert bench() == (0, 4)
    message = r"layers.csv: commit abc.* def; moved to layers.abc.csv\n"
    assert re.search(message, capsys.readouterr().err)
    assert (tmp_path / "layers.abc.csv").read_bytes() == first
    assert_complete(tmp_path / "layers.csv")
    assert bench("--fresh") == (0, 4)  # the same commit, whose name is free
    monkeypatch.setenv("FASTCONV_COMMIT", "abc")
    assert bench() == (0, 4)
    assert bench("--fresh") == (0, 4)  # whose name is taken
    assert (tmp_path / "layers.abc.csv").read_bytes() == first
    aside = {f"layers.{name}.csv" for name in ("abc", "abc.2", "def", "def.2")}
    assert {path.name for path in tmp_path.iterdir()} == {"layers.csv", *aside}
    for path in tmp_path.iterdir():
        assert_complete(path)


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("command,", "kommand,", "other columns"),
        ("abc,", "abc,1,2,3,", "a damaged line"),
        (",ok,", ",ok,,x", "a damaged line"),
        (",0.1.0,", ",0.0.9,", "fastconv 0.0.9"),
        (f",{core.instruction_set()},", ",sse9,", "instruction_set sse9, this is"),
        (",ok,", ",\xff,", "no text"),
    ],
)
def test_a_file_that_cannot_be_gone_on_with_is_moved_aside(bench, tmp_path, capsys, old, new, why):
    bench()
    path = tmp_path / "layers.csv"
    text = path.read_text()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode("latin-1"))
    assert bench() == (0, 4)
    assert why in capsys.readouterr().err
    assert len(list(tmp_path.iterdir())) == 2


def test_a_commit_may_have_any_name(bench, monkeypatch, tmp_path):
    for commit, name in (("a/b", None), ("../x y", "layers.a_b.csv"), ("c", "layers..._x_y.csv")):
        monkeypatch.setenv("FASTCONV_COMMIT", commit)
        assert bench() == (0, 4)
        assert name is None or (tmp_path / name).exists()


def test_what_is_installed_is_named_by_its_files(monkeypatch):
    monkeypatch.delenv("FASTCONV_COMMIT")
    monkeypatch.setattr(record, "_git", lambda *arguments: None)
    listed = ["a.so,sha256=1", "a.so,sha256=2", "a.so,sha256=1", None]
    monkeypatch.setattr(
        record, "distribution", lambda name: SimpleNamespace(read_text=lambda file: listed.pop(0))
    )
    first, second, third, unknown = (record.environment("cpu")["commit"] for _ in range(4))
    assert first == third != second and unknown is None


def test_a_processor_of_another_model_has_another_name(monkeypatch):
    text = "processor: 0\nmodel name\t: AMD EPYC\ncpu family\t: 25\nmodel\t\t: {}\n"
    texts = [text.format(17), text.format(1), "model name : some chip\n"]
    monkeypatch.setattr(record.Path, "read_text", lambda path: texts.pop(0))
    assert record._processor() == "AMD EPYC (family 25, model 17)"
    assert record._processor() == "AMD EPYC (family 25, model 1)"
    assert record._processor() == "some chip"


def test_what_was_asked_for_differently_is_measured(bench, tmp_path):
    assert bench() == (0, 4)
    assert bench("--baseline", "torch,aten") == (0, 4)
    assert bench("--backend", "cpu:direct") == (0, 4)
    assert bench("--batch", "1,2") == (0, 4)
    assert bench("--layout", "nchw,channels_last") == (0, 4)
    assert bench("--dtype", "float32,float64") == (0, 4)
    rows = read(tmp_path / "layers.csv")
    assert len(rows) == len({key(row) for row in rows}) == 6 * 4
    assert bench("--threads", "1,2", "--passes", "fprop") == (0, 2)


def test_networks_are_told_apart_by_name_and_variant():
    row = Row("network", "inference", "a", "a", "converted", "n1", "nchw", "float32", 1)
    others = [replace(row, model="b"), replace(row, layer="fused"), replace(row, pass_="fit")]
    assert len({key(one) for one in (row, *others)}) == 4
    conv = replace(row, op="conv2d")  # networks share layers
    assert key(conv) == key(replace(conv, model="b", layer="other"))


def test_a_row_is_read_as_it_was_written(tmp_path):
    numbers = {int | None: 3, float | None: 0.125}
    values = {field.name: numbers.get(field.type, f"some {field.name}") for field in fields(Row)}
    path, where = tmp_path / "rows.csv", {"commit": None}
    rows = [Row(**values), replace(Row(**values), us=None, note="")]
    append_csv(path, rows[:1], where)
    append_csv(path, rows[1:], where)
    assert read(path) == rows
    assert path.read_text().splitlines()[0].split(",") == columns(where)


def test_a_row_is_one_line(tmp_path):
    (baseline,) = baselines(CASES[0], "cpu")
    row = Row.of(CASES[0], 1, None, baseline.name)
    row = replace(row, status="failed", reason="no\nluck", seconds=1.0)
    where = {"device": "d", "instruction_set": "i", "commit": "c", "torch": "t", "fastconv": "f"}
    where |= {"command": "a\nb"}
    ResultsFile(tmp_path / "rows.csv", where).add([row], where)
    assert len((tmp_path / "rows.csv").read_text().splitlines()) == 2
    again = ResultsFile(tmp_path / "rows.csv", where)
    assert again.get(CASES[0], 1, None, baseline).reason == "no luck"
    assert again.missing(CASES[0], 1, None, [baseline], 1.0) == []
    assert again.missing(CASES[1], 1, None, [baseline], 1.0) == [baseline]
