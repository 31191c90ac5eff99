"""bench/accept_gpu.sh where there is no GPU: arguments, time budget, a carried wheel, a step that
hangs, a step that fails. What the steps leave: test_accept_results.py."""

import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "bench" / "accept_gpu.sh"
STEPS = ["environment", "build", "wrappers", "selftest", "tests", "bench", "triton", "sanitizer"]
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a shell")


@pytest.fixture
def accept(monkeypatch):
    """The command's modules, imported as it does."""
    folder = ROOT / "bench" / "accept"
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(sys, "path", list(sys.path))  # it adds to them
    names = [path.stem for path in folder.glob("*.py") if path.stem != "__main__"]
    for name in names:
        monkeypatch.delitem(sys.modules, name, raising=False)
    yield type("Accept", (), {name: __import__(name) for name in names})
    for name in names:
        sys.modules.pop(name)


def run(*arguments, cwd, **environment):
    return subprocess.run(
        [SCRIPT, *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, "PYTHON": sys.executable, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


def planned(*arguments, cwd):
    """{step: seconds} that it would give."""
    done = run("--dry-run", *arguments, cwd=cwd)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()[:-1]]
    return {name: float(seconds) for name, seconds, *_ in lines}


def test_the_plan_fits_in_nine_minutes_and_starts_nothing(tmp_path):
    whole = planned(cwd=tmp_path)
    assert list(whole) == STEPS
    assert sum(whole.values()) <= 540 and min(whole.values()) >= 20
    assert not list(tmp_path.iterdir())


def test_a_rehearsal_takes_less_than_five_minutes(tmp_path):
    short = planned("--rehearse", cwd=tmp_path)
    assert list(short) == STEPS and sum(short.values()) < 300


def test_single_steps_have_their_full_limits_in_the_plans_order(tmp_path):
    whole = planned(cwd=tmp_path)
    some = planned("--only", "bench,build", cwd=tmp_path)
    assert some == {name: whole[name] for name in ("build", "bench")}
    assert list(some) == ["build", "bench"]
    # Less time is no less for each: the last ones have to do without.
    short = planned("--only", "build,tests,bench", "--seconds", "210", cwd=tmp_path)
    assert short == {"build": whole["build"], "tests": whole["tests"], "bench": 10}
    more = planned("--only", "build,bench", "--seconds", "425", cwd=tmp_path)
    assert more == {"build": 420 - whole["bench"], "bench": whole["bench"]}


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


def without_nvcc():
    """PATH, less the folders that have one."""
    folders = os.environ["PATH"].split(os.pathsep)
    return os.pathsep.join(f for f in folders if not Path(f, "nvcc").exists())


@pytest.mark.skipif(
    bool(subprocess.run("command -v nvidia-smi", shell=True, capture_output=True).stdout),
    reason="there is a GPU",
)
def test_without_a_gpu_it_says_so_and_nvcc_is_found_as_the_build_finds_it(tmp_path):
    nvcc = tmp_path / "toolkit" / "bin" / "nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text("#!/bin/sh\necho nvcc of CUDA_HOME\n")
    nvcc.chmod(0o755)
    home = {"PATH": without_nvcc(), "CUDA_HOME": str(tmp_path / "toolkit")}
    arguments = ("--only", "environment", "--out", "out", "--seconds", "110")
    done = run(*arguments, cwd=tmp_path, **home)
    assert done.returncode == 1
    assert "torch sees no GPU" in done.stdout and "NOT ACCEPTED" in done.stdout
    facts = json.loads((tmp_path / "out" / "environment.json").read_text())
    assert facts["torch"] and facts["gpu"] is None and facts["missing"] == []
    assert facts["nvcc"] == "nvcc of CUDA_HOME"
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"environment.json", "log.txt", "summary.txt"}


def test_the_output_folder_has_at_most_eight_plain_files(accept):
    files = accept.output.FILES
    assert len(files) <= 8 and all(name.replace(".", "").isalnum() for name in files)
    source = "".join(path.read_text() for path in (ROOT / "bench" / "accept").glob("*.py"))
    source += (ROOT / "bench" / "sweep.py").read_text()
    assert all(f'"{name}"' in source for name in files)


def test_the_files_that_steps_name_are_there():
    names = ("gpu/test_device_wrappers.py", "accept/results_plugin.py", "accept/triton_problems.py")
    for name in (*names, "emulator/tiny_problems.py", "emulator/build.py"):
        assert (ROOT / "tests" / name).is_file()


# A wheel that was built beforehand


def source_tree(root):
    (root / "csrc").mkdir(parents=True)
    (root / "csrc" / "kernel.cu").write_text("one")
    return root


def test_a_wheel_is_taken_where_it_was_built_from_these_sources(accept, tmp_path):
    root, folder = source_tree(tmp_path / "tree"), tmp_path / "carried"
    assert accept.carried.find(root, folder) == (None, f"0 wheels in {folder}")
    folder.mkdir()
    wheel = folder / "fastconv-1.whl"
    wheel.touch()
    assert "other sources" in accept.carried.find(root, folder)[1]
    (folder / "sources").write_text(accept.carried.fingerprint(root))
    assert accept.carried.find(root, folder) == (wheel, None)
    (root / "csrc" / "kernel.cu").write_text("two")
    assert "other sources" in accept.carried.find(root, folder)[1]


def test_a_wheel_needs_both_modules_and_they_must_load(accept, tmp_path):
    wheel = tmp_path / "fastconv-1.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("fastconv/_core.so", "no machine code")
    assert accept.carried._missing(wheel) == ["_cuda", "_core"]


@pytest.mark.parametrize("carries", [False, True])
def test_a_wheel_saves_the_build_unless_it_does_not_serve(accept, monkeypatch, tmp_path, carries):
    commands = []

    def execute(place, output, command, seconds, **environment):
        commands.append(command)
        return "exit status 1" if len(commands) == 1 and carries else None

    wheel = tmp_path / "fastconv-1.whl"
    found = (wheel, None) if carries else (None, "no wheel")
    monkeypatch.setattr(accept.steps, "execute", execute)
    monkeypatch.setattr(accept.carried, "find", lambda *_: found)
    place, output = accept.place.Place(tmp_path, tmp_path), accept.output.Output(tmp_path)
    assert accept.steps.build(place, 100, output) is None
    assert [command[-1] for command in commands] == [wheel] * carries + [tmp_path]
    assert "no carried wheel serves" in (tmp_path / "log.txt").read_text()
    if carries:
        commands[:] = ["not the first"]
        assert accept.steps.build(place, 100, output) is None
        assert commands[1][-1] == wheel and "-c" in commands[2] and len(commands) == 3


# Limits


def test_what_a_step_leaves_goes_to_the_next(accept):
    shares = accept.clock.shares
    assert shares(535, [20, 100, 415]) == 20
    assert shares(533, [100, 415]) == 118
    assert shares(90, [100, 415]) == 90
    assert shares(-3, [100]) == 0


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
    child = f"sleep 45.{os.getpid()}"  # unlike that of another run of this test
    with open(tmp_path / "log", "wb") as log:
        assert accept.clock.run(["sh", "-c", f"{child} & exit 3"], log, 20) == 3
    # A busy machine may take a moment to end what was killed.
    for _ in range(50):
        listing = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout
        if child not in listing:
            return
        time.sleep(0.1)
    raise AssertionError(listing)


def use_steps(accept, monkeypatch, steps):
    """main() of the command with other steps."""
    import importlib

    plan = accept.plan
    table = {
        name: plan.Step(function, seconds, 1, name) for name, (function, seconds) in steps.items()
    }
    monkeypatch.setattr(plan, "STEPS", table)
    spec = importlib.util.spec_from_file_location(
        "accept_main", ROOT / "bench" / "accept" / "__main__.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.main


def test_no_step_stops_the_next(accept, monkeypatch, tmp_path, capsys):
    def shell(script):
        return lambda place, seconds, output: accept.place.execute(
            place, output, ["sh", "-c", script], min(seconds, 4)
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
        *("ok", "FAIL", "CUT", "FAIL", "ok"),
    ]
    assert "the reason" in out  # the end of a failed step's words, on the screen too
    log = (tmp_path / "out" / "log.txt").read_text()
    assert all(word in log for word in ("fine", "the reason", "waiting", "end"))


def test_all_passed_is_status_0_and_time_that_is_left_goes_on(accept, monkeypatch, tmp_path):
    given = {}

    def step(name):
        return lambda place, seconds, output: given.update({name: seconds})

    steps = {"one": (step("one"), 300), "two": (step("two"), 100), "three": (step("three"), 50)}
    main = use_steps(accept, monkeypatch, steps)
    assert main(["--out", str(tmp_path / "out")]) == 0
    assert given["one"] == pytest.approx(300, abs=1)
    assert given["two"] == pytest.approx(400, abs=5)
    assert given["three"] == pytest.approx(450, abs=5)
    # Where the time is at an end, the last ones do not begin.
    assert main(["--out", str(tmp_path / "out"), "--seconds", "30", "--only", "two"]) == 0
    assert given["two"] == pytest.approx(25, abs=5)


def test_the_log_is_bounded(accept, tmp_path):
    place = accept.place.Place(tmp_path)
    output = accept.output.Output(tmp_path)
    script = "yes 0123456789abcdef | head -c 8000000; echo the end"
    assert accept.place.execute(place, output, ["sh", "-c", script], 60) is None
    output.finish("done")
    log = (tmp_path / "log.txt").read_text()
    assert len(log) < 2 * accept.output.MAX_STEP_LOG
    assert "(left out)" in log and "the end" in log


def test_interrupting_it_ends_the_step(tmp_path):
    """Ctrl-C during a step: nothing of it runs on."""
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
