"""What the steps of bench/accept_gpu.sh run and leave: the tests that a GPU runs, results that
outlive a stopped run, the Triton kernels' problems, the table at the end."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from devices import needs_triton
from test_accept import ROOT, accept  # noqa: F401

from fastconv.__main__ import _parser
from fastconv.selftest import children
from fastconv.selftest.command import INCOMPLETE

HERE = Path(__file__).parent
TESTS = HERE.parent
pytestmark = pytest.mark.skipif(os.name != "posix", reason="needs a shell")


def start_pytest(folder, *arguments):
    """pytest with the plugin in a process of its own, over the tests that lie in a folder."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-c", os.devnull]
    command += ["-p", "results_plugin", f"--results={folder / 'tests.csv'}", *arguments, folder]
    return subprocess.Popen(
        command,
        env={**os.environ, "PYTHONPATH": str(HERE)},
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


class Chosen:
    """A plugin that notes what pytest collects."""

    def pytest_collection_finish(self, session):
        self.tests = [item.nodeid for item in session.items]


def test_the_tests_of_the_cuda_kernels_are_chosen(accept):  # noqa: F811
    arguments = [*accept.selection.test_files(TESTS), "-k", accept.selection.WORDS]
    quiet = ["-q", "--collect-only", f"--rootdir={ROOT}", "--capture=no"]
    for plugin in ("cacheprovider", "faulthandler"):
        quiet += ["-p", f"no:{plugin}"]
    found = Chosen()
    # In this process, which has imported most of it.
    assert pytest.main([*map(str, arguments), *quiet], plugins=[found]) == 0
    chosen = found.tests
    assert len(chosen) > 300
    # Every algorithm, the pools, a network, what only a GPU can show.
    for words in (
        *(("direct",), ("im2col",), ("implicit_gemm",), ("depthwise",), ("epilogue",)),
        *(("max_pool",), ("avg_pool",), ("network",), ("test_gpu", "graph"), ("gradcheck",)),
    ):
        assert any(all(word in test for word in words) for test in chosen), words
    # Nothing that builds, and none of the steps' own.
    for word in ("triton", "faults", "device_wrappers", "test_accept", "test_build", "packaging"):
        assert not any(word in test.partition("[")[0] for test in chosen), word


def test_results_outlive_a_run_that_is_stopped(accept, tmp_path):  # noqa: F811
    (tmp_path / "test_some.py").write_text(
        "import pytest, time\n"
        "def test_passes(): pass\n"
        "def test_fails(): assert 1 == 2, 'the reason'\n"
        "def test_skips(): pytest.skip('no need')\n"
        "@pytest.fixture\ndef broken(): raise OSError('of the fixture')\n"
        "def test_errors(broken): pass\n"
        "def test_hangs(): time.sleep(60)\n"
    )
    (tmp_path / "test_unimportable.py").write_text("import nothing_of_this_name\n")
    process = start_pytest(tmp_path, "--continue-on-collection-errors")
    results, end = tmp_path / "tests.csv", time.monotonic() + 60
    while time.monotonic() < end and "errors" not in str(accept.summary.outcomes(results)):
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=30)
    found = accept.summary.outcomes(results)
    found = {test.rpartition(":")[2]: rest for test, rest in found.items()}
    assert found.pop("test_unimportable.py")[0] == "failed"
    assert {test: outcome for test, (outcome, _) in found.items()} == {
        "test_passes": "passed",
        "test_fails": "failed",
        "test_skips": "skipped",
        "test_errors": "failed",
    }
    assert "the reason" in found["test_fails"][1] and "no need" in found["test_skips"][1]
    assert accept.summary.count_tests(results) == (1, 3, 1)


LOSES_ITS_CONTEXT = """
import results_plugin

def test_breaks():
    results_plugin.context_is_lost = lambda: True
    assert False

def test_comes_after(): pass
"""


@pytest.mark.parametrize("workers", [0, 1])
def test_a_lost_cuda_context_takes_no_other_test_along(accept, tmp_path, workers):  # noqa: F811
    """With workers the next one runs what is left; without, the run ends where it happened."""
    if workers:
        pytest.importorskip("xdist")
    (tmp_path / "test_some.py").write_text(LOSES_ITS_CONTEXT)
    process = start_pytest(tmp_path, *["-n", str(workers)] * bool(workers))
    text, _ = process.communicate(timeout=60)
    assert process.returncode != 0, text
    found = accept.summary.outcomes(tmp_path / "tests.csv")
    assert found["test_some.py::test_breaks"][0] == "failed"
    assert ("test_some.py::test_comes_after" in found) == bool(workers)


def test_tests_that_were_all_skipped_are_a_failure(accept, tmp_path):  # noqa: F811
    place = accept.place.Place(tmp_path)
    output = accept.output.Output(tmp_path)
    test = tmp_path / "test_skipped.py"
    test.write_text("import pytest\n\n\ndef test_gpu():\n    pytest.skip('no GPU')\n")
    assert accept.steps._pytest(place, output, 60, "tests.csv", [test]) == "no test ran"
    test.write_text("def test_gpu():\n    pass\n")
    assert accept.steps._pytest(place, output, 60, "tests.csv", [test]) is None
    assert accept.summary.count_tests(tmp_path / "tests.csv") == (1, 0, 0)


# The Triton kernels' problems

# Prints the kernels that no case of FIRST launches, for each dtype and layout. Tensors without
# memory, kernels that are noted instead of run, as many multiprocessors as an H100 has.
UNCOVERED = """
import contextlib, sys
from unittest import mock
import torch, triton_problems, tiny_problems, triton_launches
from fastconv.backends.triton import launch as triton_launch
from triton.runtime.jit import JITFunction

launched = set()
tiny_problems.place = lambda backend: "meta"
ours = [module for name, module in sys.modules.items() if name.startswith("fastconv")]
note = lambda kernel, *_, **__: launched.add(kernel.__name__)
with contextlib.ExitStack() as stack:
    stack.enter_context(mock.patch.object(JITFunction, "run", note))
    stack.enter_context(mock.patch.object(torch.cuda, "device", contextlib.nullcontext))
    stack.enter_context(mock.patch.object(triton_launch, "_INTERPRETED_SM_COUNT", 132))
    for module in ours:
        if hasattr(module, "runs_eagerly"):
            stack.enter_context(mock.patch.object(module, "runs_eagerly", lambda *_: True))
    first, others = triton_problems.cases()
    kinds = {(case.math, case.channels_last): set() for case in first}
    for case in first:
        launched.clear()
        with contextlib.suppress(NotImplementedError):
            backend = f"triton:{case.algorithm}" if case.algorithm else "triton"
            case.problem.run(backend, triton_problems.DTYPES[case.math], case.channels_last)
        kinds[case.math, case.channels_last] |= launched
names = {kernel.__name__ for kernel in triton_launches.all_kernels()}
print(len(names), {kind: names - kernels for kind, kernels in kinds.items() if names - kernels})
"""


@needs_triton
def test_every_triton_kernel_comes_first_in_every_dtype_and_layout(tmp_path):
    compiled = {name: v for name, v in os.environ.items() if name != "TRITON_INTERPRET"}
    folders = [HERE, TESTS, TESTS / "emulator", TESTS / "gates"]
    paths = os.pathsep.join([*map(str, folders), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", UNCOVERED],
        env=compiled | {"PYTHONPATH": paths},
        cwd=tmp_path,  # not beside a source tree
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    count, _, uncovered = done.stdout.partition(" ")
    assert int(count) >= 18 and uncovered == "{}\n"


class Fake:
    """In place of a child process: "x" ends it."""

    made = 0

    def __init__(self):
        Fake.made += 1

    def run(self, case, seconds):
        dies = case.name == "x"
        return children.Result("crashed" if dies else "passed", 0.0, "died" * dies), not dies

    def stop(self):
        pass


def test_a_worker_that_dies_is_replaced(accept, monkeypatch, tmp_path):  # noqa: F811
    triton_problems = pytest.importorskip("triton_problems")
    from results_plugin import ResultsFile

    monkeypatch.setattr(children, "_Child", Fake)
    queue = [type("Case", (), {"name": name}) for name in "axbxc"]
    path = tmp_path / "triton.csv"
    counts = triton_problems.run_all(queue, ResultsFile(path), 60, 1)
    assert counts == {"passed": 3, "failed": 2, "skipped": 0} and Fake.made == 3
    assert accept.summary.count_tests(path) == (3, 1, 0)  # two lines of one name
    assert triton_problems.run_all(queue, ResultsFile(path), 0, 2) == dict.fromkeys(counts, 0)


def test_a_self_test_without_enough_time_is_no_failure(accept, monkeypatch, tmp_path):  # noqa: F811
    commands = []

    def execute(place, output, command, seconds):
        commands.append(list(map(str, command)))
        return f"exit status {len(commands) + 1}"

    monkeypatch.setattr(accept.steps, "execute", execute)
    place = accept.place.Place(tmp_path)
    assert accept.steps.selftest(place, 35, None) == "exit status 2"
    stopped = accept.steps.selftest(place, 35, None)
    assert isinstance(stopped, accept.clock.Stopped)
    options = _parser().parse_args(commands[0][3:])
    assert (options.command, options.device, options.seconds) == ("selftest", "cuda", 20)
    assert INCOMPLETE == 3


# The table at the end

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
RESULTS = """test,outcome,seconds,reason
a,passed,0.1,
b,failed,0.1,E   it is wrong
c,skipped,0.0,no need
b,failed,0.0,worker crashed
"""


def test_the_table_of_families(accept, tmp_path):  # noqa: F811
    (tmp_path / "layers.csv").write_text(LAYERS)
    (tmp_path / "pools.csv").write_text(POOLS)
    (tmp_path / "tests.csv").write_text(RESULTS)
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
    assert "1 passed, 1 failed, 1 skipped" in text and "b: E   it is wrong" in text
    assert "5 layer lines, 1 pool lines" in text


PREDICTED = """op,pass,layer,problem,layout,dtype,algorithm,predicted_us,measured_us
conv2d,fprop,l1,a,channels_last,bfloat16,implicit_gemm,20.0,
conv2d,fprop,l2,b,channels_last,bfloat16,implicit_gemm,10.0,
conv2d,wgrad,l3,c,nchw,float32,direct,10.0,
conv2d,fprop,l4,e,channels_last,bfloat16,direct,,
"""
TIMED = """backend,op,pass,layout,dtype,problem,us,baseline
cuda,conv2d,fprop,channels_last,bfloat16,a,30.0,cuDNN
cuda,conv2d,fprop,channels_last,bfloat16,b,45.0,cuDNN
cuda,conv2d,wgrad,nchw,float32,c,3.0,cuDNN TF32
triton,conv2d,fprop,channels_last,bfloat16,a,3.0,cuDNN
cuda,conv2d,fprop,channels_last,bfloat16,e,,cuDNN
"""


def test_predicted_times_stand_beside_measured_ones(accept, tmp_path):  # noqa: F811
    results = tmp_path / "results"
    results.mkdir()
    assert accept.predicted.beside(tmp_path, results) == []
    (tmp_path / "environment.json").write_text('{"capability": "9.0"}')
    (tmp_path / "layers.csv").write_text(TIMED)
    assert accept.predicted.beside(tmp_path, results) == []
    (results / "predicted_h100.csv").write_text(PREDICTED)
    head, _, *rows, _ = [line.split() for line in accept.predicted.beside(tmp_path, results)]
    assert " ".join(head).startswith("predicted (from machine code) beside measured, 2 lines")
    assert rows == [
        ["l2", "fprop", "b", "channels_last", "bfloat16", "10.0", "45.0", "4.50"],
        ["l1", "fprop", "a", "channels_last", "bfloat16", "20.0", "30.0", "1.50"],
    ]
    (tmp_path / "environment.json").write_text('{"capability": "12.0"}')  # not predicted
    assert accept.predicted.beside(tmp_path, results) == []


def test_results_that_are_missing_or_cut_off_do_no_harm(accept, tmp_path):  # noqa: F811
    (tmp_path / "layers.csv").write_text(LAYERS[: len(LAYERS) // 2])
    (tmp_path / "tests.csv").write_text(RESULTS[:40])
    text, passed = accept.summary.summarise(tmp_path, {"bench": (1.0, None), "tests": (1.0, None)})
    assert passed and "0 pool lines" in text


def test_a_step_that_is_cut_after_a_failure_has_failed(accept, tmp_path):  # noqa: F811
    results = {"tests": (9.0, accept.clock.Stopped("stopped after 9 s"))}
    (tmp_path / "tests.csv").write_text(RESULTS)
    assert "FAIL  tests" in accept.summary.summarise(tmp_path, results)[0]
    (tmp_path / "tests.csv").write_text(RESULTS.replace("failed", "passed"))
    text, passed = accept.summary.summarise(tmp_path, results)
    assert "CUT   tests" in text and not passed


def test_a_rehearsal_is_judged_by_what_it_leaves(accept, tmp_path):  # noqa: F811
    stopped = accept.clock.Stopped("stopped after 9 s")
    results = {"environment": (1.0, None), "tests": (9.0, stopped), "bench": (3.0, None)}
    for name, text in (("environment.json", "{}"), ("layers.csv", LAYERS), ("pools.csv", POOLS)):
        (tmp_path / name).write_text(text)
    text, passed = accept.summary.rehearsed(tmp_path, results)
    assert not passed and "tests left no tests.csv" in text and "tests left no results" in text
    (tmp_path / "tests.csv").write_text(RESULTS.replace("failed", "passed"))
    text, passed = accept.summary.rehearsed(tmp_path, results)
    assert passed and "CUT   tests" in text, text
    (tmp_path / "core.123").touch()
    assert "core.123 is none of the files" in accept.summary.rehearsed(tmp_path, results)[0]
    results["bench"] = (3.0, "exit status 1")
    assert "bench failed" in accept.summary.rehearsed(tmp_path, results)[0]
