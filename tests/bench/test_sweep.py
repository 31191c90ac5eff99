"""The sweep over layers and pools that a GPU is judged by, where there is none."""

import csv

import pytest


def test_the_sweep_goes_on_where_it_ended(tmp_path, monkeypatch):
    """Rows that are there are kept, the rest is measured, and a file of another commit is not mixed
    with ours. Lines of the CPU show this as well as a GPU's."""
    from fastconv.bench import sweep
    from fastconv.bench.cases.selection import select_cases
    from fastconv.bench.measure.record import Row

    monkeypatch.setattr(Row, "is_disturbed", False)  # else it measures some again
    ceilings = sweep.Ceilings(copy_gbs=10, fp32_tflops=0.1, bf16_tflops=0.1)
    monkeypatch.setattr(sweep.Ceilings, "measured", lambda device, dtypes: ceilings)
    monkeypatch.setenv("FASTCONV_COMMIT", "abc")
    words = ["resnet18 l4.ds1x1s2", "resnet18 gap7x7"]
    cases = select_cases([1], ["nchw"], ["fprop", "fwd"], ["float32"], words)
    assert len(cases) == 3
    jobs = [(case, "cpu") for case in cases]
    assert sweep.sweep(jobs[:1], tmp_path, 60, "cpu", 0.005) == (1, 0, 0)
    assert sweep.sweep(jobs, tmp_path, 60, "cpu", 0.005) == (2, 0, 0)
    other = [(cases[0], "cpu:direct")]
    assert sweep.sweep(other, tmp_path, 60, "cpu", 0.005) == (1, 0, 0)
    assert sweep.sweep(jobs + other, tmp_path, 60, "cpu", 0.005) == (0, 0, 0)
    lines = list(csv.reader((tmp_path / "layers.csv").read_text().splitlines()))
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert len((tmp_path / "pools.csv").read_text().splitlines()) == 2
    monkeypatch.setenv("FASTCONV_COMMIT", "def")
    assert sweep.sweep(jobs[:1], tmp_path, 0, "cpu", 0.005) == (0, 1, 0)
    assert [path.name for path in tmp_path.iterdir()] == []


def test_the_sweep_begins_with_what_tells_most():
    from fastconv.bench import sweep
    from fastconv.bench.cases.selection import LAYOUTS, PASSES, QUICK, select_cases
    from fastconv.bench.measure.record import Row
    from fastconv.bench.measure.results_file import key

    cases = select_cases(None, list(LAYOUTS), PASSES, sweep.TIMED_DTYPES)
    jobs = sweep.in_order(cases, ["triton", "cuda"])
    assert len(jobs) == 2 * len(cases)
    first = sweep.first_layers(cases)
    assert first > QUICK
    # Everything of one layer of each family before the others, our CUDA before our Triton.
    count = sum(case.shape.layer in first and case.shape.N == 32 for case in cases)
    begin, next_ = jobs[:count], jobs[count : 2 * count]
    assert all(backend == "cuda" for _, backend in begin)
    assert all(backend == "triton" for _, backend in next_)
    assert {case for case, _ in begin} == {case for case, _ in next_}
    assert all(case.shape.N == 32 for case, _ in begin)
    assert {case.shape.family for case, _ in begin} == {case.shape.family for case in cases}
    kinds = list(dict.fromkeys((case.dtype, case.layout) for case, _ in begin))
    assert kinds == list(sweep.KINDS) and len(kinds) == 8
    assert len({key(Row.of(case, 1, backend, "cuDNN")) for case, backend in jobs}) == len(jobs)


def test_the_way_is_tried_on_the_cpu(tmp_path, monkeypatch, capsys):
    from fastconv.bench import sweep

    ceilings = sweep.Ceilings(copy_gbs=10, fp32_tflops=0.1, bf16_tflops=0.1)
    monkeypatch.setattr(sweep.Ceilings, "measured", lambda device, dtypes: ceilings)
    monkeypatch.setattr(sweep, "SECONDS_PER_SIDE", 0.001)
    monkeypatch.setattr(sweep, "TIMED_DTYPES", ["float32"])
    words = ["resnet18 l4.ds1x1s2 dense 1x1 conv2d fprop", "resnet18 gap7x7"]
    monkeypatch.setattr(sweep, "CPU_WORDS", words)
    assert sweep.main(["--out", str(tmp_path), "--seconds", "60", "--device", "cpu"]) == 0
    for name in ("layers.csv", "pools.csv"):
        assert len((tmp_path / name).read_text().splitlines()) > 1
    assert "0 failures" in capsys.readouterr().out


def test_ceilings_make_a_floor():
    from fastconv.bench.cases.selection import select_cases
    from fastconv.bench.measure.ceilings import Ceilings
    from fastconv.bench.measure.record import Row

    ceilings = Ceilings(copy_gbs=3000, bf16_tflops=800, tf32_tflops=400, fp32_tflops=60)
    (case,) = select_cases(
        None, ["channels_last"], ["fprop"], ["bfloat16"], ["resnet18 l1.3x3 dense RxS conv2d fprop"]
    )[:1]
    row = Row(*("",) * 8, baseline="cuDNN")
    assert case.shape.N == 32 and ceilings.floor_us(case, row) == pytest.approx(9.25, abs=0.1)
