"""bench/accept_gpu.sh where there is no GPU: arguments, time budget, output folder, a step that
hangs, a step that fails, the table at the end."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "bench" / "accept_gpu.sh"
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a shell")


@pytest.fixture
def accept(monkeypatch):
    """The command's modules, imported as it does."""
    monkeypatch.syspath_prepend(str(ROOT / "bench" / "accept"))
    names = ("__main__", "clock", "output", "plan", "summary")
    for name in names[1:]:
        sys.modules.pop(name, None)
    import clock
    import output
    import plan
    import summary

    yield type("Accept", (), {"clock": clock, "output": output, "plan": plan, "summary": summary})
    for name in names[1:]:
        sys.modules.pop(name, None)


def run(*arguments, cwd, **environment):
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def test_the_plan_fits_in_nine_minutes_and_starts_nothing(tmp_path):
    done = run("--dry-run", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    names = [line.split()[0] for line in done.stdout.splitlines()]
    steps = ["environment", "build", "wrappers", "tests", "triton", "sanitizer", "bench"]
    assert names == [*steps, "in"]
    seconds = [float(line.split()[1]) for line in done.stdout.splitlines()[:-1]]
    assert sum(seconds) <= 540 and min(seconds) >= 20
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--only", "bnch"], "got bnch; steps: environment, build"),
        (["--only", ","], "got no name"),
        (["--seconds", "5"], "30 seconds or more"),
        (["--seconds", "soon"], "'soon'"),
        (["--unknown"], "--unknown"),
    ],
)
def test_bad_arguments_are_named(arguments, message, tmp_path):
    done = run(*arguments, cwd=tmp_path)
    assert done.returncode == 2 and message in done.stderr


def test_single_steps_in_the_plans_order(tmp_path):
    done = run("--dry-run", "--only", "bench,build", "--seconds", "270", cwd=tmp_path)
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["build", "bench", "in"]
    assert float(done.stdout.splitlines()[-1].split()[2]) <= 270


@pytest.mark.skipif(
    bool(subprocess.run("command -v nvidia-smi", shell=True, capture_output=True).stdout),
    reason="there is a GPU",
)
def test_where_there_is_no_gpu_it_says_so(tmp_path):
    done = run("--only", "environment", cwd=tmp_path)
    assert done.returncode == 1
    assert "torch sees no GPU" in done.stdout and "NOT ACCEPTED" in done.stdout
    folder = tmp_path / "fastconv-gpu"
    facts = json.loads((folder / "environment.json").read_text())
    assert facts["torch"] and facts["gpu"] is None and facts["missing"] == []
    assert {path.name for path in folder.iterdir()} == {
        "environment.json",
        "log.txt",
        "summary.txt",
    }


def test_the_output_folder_has_at_most_eight_plain_files(accept):
    files = accept.output.FILES
    assert len(files) <= 8 and all(name.replace(".", "").isalnum() for name in files)
    source = "".join(path.read_text() for path in (ROOT / "bench" / "accept").glob("*.py"))
    source += (ROOT / "bench" / "sweep.py").read_text()
    assert all(f'"{name}"' in source for name in files)


def test_a_step_that_hangs_is_stopped_with_its_children(accept, tmp_path):
    marker = tmp_path / "child"
    script = f"trap '' TERM; (trap '' TERM; echo $$ > {marker}; sleep 60) & sleep 60"
    with open(tmp_path / "log", "wb") as log:
        begin = time.monotonic()
        assert accept.clock.run(["sh", "-c", script], log, 4) is None
        assert time.monotonic() - begin < 10
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert str(marker) not in listing


def test_a_step_that_ends_by_itself_leaves_no_child(accept, tmp_path):
    with open(tmp_path / "log", "wb") as log:
        assert accept.clock.run(["sh", "-c", "sleep 45.25 & exit 3"], log, 20) == 3
    listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
    assert "sleep 45.25" not in listing


def use_steps(accept, monkeypatch, steps):
    """main() of the command with other steps."""
    import importlib

    plan = accept.plan
    table = {
        name: plan.Step(function, seconds, name) for name, (function, seconds) in steps.items()
    }
    monkeypatch.setattr(plan, "STEPS", table)
    spec = importlib.util.spec_from_file_location(
        "accept_main", ROOT / "bench" / "accept" / "__main__.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_no_step_stops_the_next(accept, monkeypatch, tmp_path, capsys):
    plan = accept.plan

    def shell(script):
        return lambda place, seconds, output: plan._execute(
            place, output, ["sh", "-c", script], seconds
        )

    def broken(place, seconds, output):
        raise KeyError("a step's own bug")

    main = use_steps(
        accept,
        monkeypatch,
        {
            "passes": (shell("echo fine"), 30),
            "fails": (shell("echo the reason; exit 7"), 30),
            "hangs": (shell("echo waiting; sleep 60"), 4),
            "breaks": (broken, 30),
            "last": (shell("echo end"), 30),
        },
    )
    begin = time.monotonic()
    assert main(["--out", str(tmp_path / "out")]) == 1
    assert time.monotonic() - begin < 30
    out = capsys.readouterr().out
    summary = (tmp_path / "out" / "summary.txt").read_text()
    for text in (out, summary):
        assert "exit status 7" in text and "stopped after 4 s" in text
        assert "KeyError" in text and "NOT ACCEPTED" in text
    assert [line.split()[0] for line in summary.splitlines() if " s  " in line] == [
        *("ok", "FAIL", "FAIL", "FAIL", "ok"),
    ]
    assert "the reason" in out  # the end of a failed step's words, on the screen too
    log = (tmp_path / "out" / "log.txt").read_text()
    assert all(word in log for word in ("fine", "the reason", "waiting", "end"))


def test_all_passed_is_status_0_and_time_left_goes_to_the_last(accept, monkeypatch, tmp_path):
    given = {}

    def step(name):
        return lambda place, seconds, output: given.update({name: seconds})

    main = use_steps(accept, monkeypatch, {"one": (step("one"), 300), "two": (step("two"), 100)})
    assert main(["--out", str(tmp_path / "out")]) == 0
    assert given["one"] == 300 and 520 < given["two"] < 540


def test_the_log_is_bounded(accept, tmp_path):
    place = accept.plan.Place(tmp_path)
    output = accept.output.Output(tmp_path)
    script = "yes 0123456789abcdef | head -c 8000000; echo the end"
    assert accept.plan._execute(place, output, ["sh", "-c", script], 60) is None
    output.finish("done")
    log = (tmp_path / "log.txt").read_text()
    assert len(log) < 2 * accept.output.MAX_STEP_LOG
    assert "(left out)" in log and "the end" in log


HEAD = "backend,op,pass,family,layout,dtype,problem,status,baseline,x_baseline,roofline_percent\n"
LAYERS = f"""{HEAD}\
cuda,conv2d,fprop,dense RxS,channels_last,bfloat16,a,ok,cuDNN,0.5,40
cuda,conv2d,fprop,dense RxS,channels_last,bfloat16,b,ok,cuDNN,2.0,90
cuda,conv2d,wgrad,depthwise,nchw,float32,c,wrong,cuDNN TF32,,
triton,conv2d,fprop,dense RxS,channels_last,bfloat16,a,ok,cuDNN,0.25,20
triton,conv2d,fprop,dense RxS,channels_last,bfloat16,a,ok,fastconv CUDA,0.75,20
"""
POOLS = f"""{HEAD}\
cuda,max_pool2d,fwd,max pool,nchw,bfloat16,d,ok,ATen,3.25,81.6
"""
JUNIT = (
    '<testsuites><testsuite name="pytest" errors="1" failures="2" skipped="3" tests="10">'
    "</testsuite></testsuites>"
)


def test_the_table_of_families(accept, tmp_path):
    (tmp_path / "layers.csv").write_text(LAYERS)
    (tmp_path / "pools.csv").write_text(POOLS)
    (tmp_path / "tests.xml").write_text(JUNIT)
    results = {"tests": (12.0, "exit status 1"), "bench": (200.0, None)}
    text, passed = accept.summary.summarise(tmp_path, results)
    assert not passed
    lines = [line.split() for line in text.splitlines()]
    assert "family pass lines bf16 NCHW bf16 NHWC tf32 NCHW".split() in lines
    assert "dense RxS fprop 2 - 1.00x 60% -".split() in lines
    assert "depthwise wgrad 1 - - - 1 WRONG".split() in lines
    assert "max pool fwd 1 3.25x 82% - -".split() in lines
    assert text.count("times faster than") == 3
    peers = [line.split()[0] for line in text.splitlines() if "times faster" in line]
    assert peers == ["cuda:", "triton:", "triton:"]
    assert "dense RxS fprop 1 0.25x 20%".split() in lines
    assert "dense RxS fprop 1 0.75x 20%".split() in lines
    assert "4 passed, 3 failed, 3 skipped" in text
    assert "5 layer lines, 1 pool lines" in text


def test_results_that_are_missing_or_cut_off_do_no_harm(accept, tmp_path):
    (tmp_path / "layers.csv").write_text(LAYERS[: len(LAYERS) // 2])
    (tmp_path / "tests.xml").write_text(JUNIT[:40])
    text, passed = accept.summary.summarise(tmp_path, {"bench": (1.0, None)})
    assert passed and "0 pool lines" in text


def test_tests_that_were_all_skipped_are_a_failure(accept, monkeypatch, tmp_path):
    place = accept.plan.Place(tmp_path)
    output = accept.output.Output(tmp_path)
    test = tmp_path / "test_skipped.py"
    test.write_text("import pytest\n\n\ndef test_gpu():\n    pytest.skip('no GPU')\n")
    assert accept.plan._pytest(place, output, 60, "tests.xml", [test]) == "no test ran"
    test.write_text("def test_gpu():\n    pass\n")
    assert accept.plan._pytest(place, output, 60, "tests.xml", [test]) is None
    assert accept.summary.count_tests(tmp_path / "tests.xml") == (1, 0, 0)


def test_the_files_that_steps_name_are_there(accept):
    for name in ("test_device_wrappers.py", "test_gpu.py", "emulator/tiny_problems.py"):
        assert (ROOT / "tests" / name).is_file()


def test_the_sweep_goes_on_where_it_ended(tmp_path, monkeypatch):
    """On the CPU, whose lines are as good for this: rows are kept, the rest is measured, a file of
    another commit is not mixed with ours."""
    from fastconv.bench import resume, sweep
    from fastconv.bench.cases import select_cases

    monkeypatch.setattr(resume, "is_busy", lambda cpus: False)  # else it measures some again
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
    from fastconv.bench.cases import QUICK, select_cases
    from fastconv.bench.record import Row
    from fastconv.bench.resume import key

    cases = select_cases(
        None, ["nchw", "channels_last"], ["fprop", "dgrad", "wgrad", "fwd"], ["bfloat16", "float32"]
    )
    jobs = [(case, backend) for backend in ("triton", "cuda") for case in cases]
    ordered = sorted(jobs, key=sweep.importance)
    assert all(backend == "cuda" for _, backend in ordered[: 3 * len(QUICK)])
    quick = sum(case.shape.layer in QUICK for case in cases)
    assert all(case.shape.layer in QUICK for case, _ in ordered[: 2 * quick])
    first = [case for case, _ in ordered[: 3 * len(QUICK)]]
    assert all(case.shape.layer in QUICK and case.shape.N == 32 for case in first)
    assert (first[0].dtype, first[0].layout) == ("bfloat16", "channels_last")
    families = {case.family for case in first}
    assert families >= {"dense RxS", "depthwise 3x3", "max pool", "stem (C=3)"}
    assert len({key(Row.of(case, 1, backend, "cuDNN")) for case, backend in jobs}) == len(jobs)


def test_ceilings_make_a_floor():
    from fastconv.bench.cases import select_cases
    from fastconv.bench.record import Row
    from fastconv.bench.roofline import Ceilings

    ceilings = Ceilings(copy_gbs=3000, bf16_tflops=800, tf32_tflops=400, fp32_tflops=60)
    (case,) = select_cases(
        None, ["channels_last"], ["fprop"], ["bfloat16"], ["resnet18 l1.3x3 dense RxS conv2d fprop"]
    )[:1]
    row = Row(*("",) * 8, baseline="cuDNN")
    assert case.shape.N == 32 and ceilings.floor_us(case, row) == pytest.approx(9.25, abs=0.1)


def test_interrupting_it_ends_the_step(tmp_path):
    """Ctrl-C during a step: nothing of it runs on."""
    pytest.importorskip("torch")
    process = subprocess.Popen(
        [SCRIPT, "--only", "environment", "--out", str(tmp_path / "out")],
        env={**os.environ, "PYTHON": sys.executable},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    time.sleep(0.5)
    os.killpg(process.pid, signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode != 0
