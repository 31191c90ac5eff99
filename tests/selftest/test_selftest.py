"""`fastconv selftest`: what it tries, and that a kernel which is wrong, hangs or takes its process
along is a line of its table and not the end of the run."""

import itertools
import json
import os
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from conv_kernels import tf32
from devices import CUDA, TRITON, device_of, interpreted
from test_first_use import writes_nothing

from fastconv import __main__ as command_line
from fastconv._native import core, cuda
from fastconv.backends import BACKENDS
from fastconv.bench.cases.shapes import load_layers
from fastconv.problem import DTYPES, ConvOp
from fastconv.selftest import cases as selftest_cases
from fastconv.selftest import children
from fastconv.selftest.cases import cases, why_nothing
from fastconv.selftest.cases import device_of as place_of
from fastconv.selftest.problems import CONVOLUTIONS, EPILOGUES, POOLINGS, Place, difference
from fastconv.selftest.trial import find

FAMILIES = ["cpu", CUDA, TRITON]
# What the interpreter runs: each algorithm has one of these.
QUICK = ("stem, few filters", "depthwise, two filters a channel")


def groups(family):
    """{(backend, operation): its cases}"""
    ordered = sorted(cases(family), key=lambda case: (case.backend, case.operation))
    by = itertools.groupby(ordered, key=lambda case: (case.backend, case.operation))
    return {name: list(group) for name, group in by}


def use_few(monkeypatch):
    few = [problem for problem in CONVOLUTIONS if problem.name in QUICK]
    for name, problems in (
        ("CONVOLUTIONS", few),
        ("POOLINGS", POOLINGS[1::4]),
        ("EPILOGUES", EPILOGUES[::5]),
    ):
        monkeypatch.setattr(selftest_cases, name, problems)


@pytest.mark.parametrize("family", FAMILIES)
def test_all_lines_pass(family, monkeypatch, exhaustive):
    """Without --exhaustive the dtypes and layouts take turns; of the interpreted kernels those
    whose turn it is are tried on all problems with it."""
    assert why_nothing(family) is None
    for turn, group in enumerate(groups(family).values()):
        for number, case in enumerate(group):
            is_in_turn = number == turn % len(group)
            if not is_in_turn and not exhaustive:
                continue
            with monkeypatch.context() as patch:
                if interpreted(family) and not (is_in_turn and exhaustive):
                    use_few(patch)
                outcome, reason, count = case.run()
            assert outcome == "passed" and count > 0, f"{case.name}: {reason}"


@pytest.mark.parametrize("family", FAMILIES)
def test_every_algorithm_has_lines(family):
    """Those of the code's own lists: a new one is tried without a word to the self-test."""
    found = {(case.backend, case.operation) for case in cases(family)}
    named = [name for name in BACKENDS if name.startswith(f"{family}:")]
    assert found == {
        *itertools.product(named, ConvOp.__members__),
        *((family, operation) for operation in (*core.PoolOp.__members__, "epilogue")),
    }
    for name in named:
        dtypes = {case.dtype for case in cases(family) if case.backend == name}
        assert len(dtypes) == len(DTYPES) - (name == "cuda:implicit_gemm")  # has no float64
    if family != "cpu":
        assert any(case.allow_tf32 for case in cases(family))


def kernels_of(case):
    return {case.kernel_of(problem, backend) for problem, backend in case.attempts()}


@pytest.mark.parametrize("family", [CUDA])
def test_every_kernel_that_networks_need_has_a_problem(family):
    """For the layers of known networks and an H100, to the tile; and all kernels of pools. That
    sums are in slices, the last of a kernel's detail, need not be tried with every tile."""

    def tiles(kernels):
        return {kernel._replace(detail=kernel.detail[:-1]) for kernel in kernels}

    def sliced(kernels):
        of = {kernel[:3] for kernel in kernels if kernel.detail and kernel.detail[-1]}
        return {kernel for kernel in of if kernel[0] in ConvOp.__members__}

    reached = set().union(*map(kernels_of, cases(family)))
    device, needed = torch.device(device_of(family)), set()
    backend = BACKENDS["cuda"].planned_for(132)
    for layer, op, dtype, allowed, channels_last in itertools.product(
        load_layers(), ConvOp.__members__, DTYPES, (False, True), (False, True)
    ):
        with tf32(allowed):
            needed.add(backend.kernel(op, layer.call(), dtype, channels_last, device.index))
    assert len(needed) > 150
    assert not [(str(kernel), kernel.detail) for kernel in tiles(needed) - tiles(reached)]
    assert sliced(needed) <= sliced(reached)
    algorithms = {kernel.algorithm for kernel in reached}
    assert algorithms >= set(core.CudaPoolAlgorithm.__members__)


@pytest.mark.parametrize("family", [CUDA])
def test_a_kernel_is_tried_on_a_problem_that_leads_to_it(family):
    """For the first use of a kernel: the same tile, loads and way to multiply."""
    for case in cases(family):
        for kernel in kernels_of(case):
            with tf32(case.allow_tf32):
                trial = find(BACKENDS[family], kernel, place_of(family))
                place = trial.place
                assert kernel == trial.backend.kernel(
                    *(trial.operation, trial.problem.call, place.dtype, place.channels_last),
                    place.device.index,
                )


def test_an_algorithm_without_a_problem_is_an_error():
    kernel = BACKENDS["cuda"].kernel("epilogue", None, torch.complex64, False, None)
    with pytest.raises(LookupError, match="no problem of the self-test"):
        find(BACKENDS["cuda"], kernel, torch.device("cpu"))


@pytest.mark.parametrize("family", [CUDA])
@pytest.mark.parametrize("operation", ["fprop", "max_fwd", "max_bwd", "avg_bwd", "epilogue"])
def test_a_kernel_that_writes_nothing_is_seen(family, operation, monkeypatch):
    """Though the memory may hold what the same problem left there before."""
    if operation in ConvOp.__members__:
        case = next(c for c in cases(family) if c.operation == operation)
    else:
        case = next(c for c in cases(family) if c.operation == operation and c.channels_last)
    assert case.run()[0] == "passed"

    class Nothing:
        def __getattr__(self, name):
            function = getattr(cuda, name)
            compute = ("conv2d", "pool2d_max", "pool2d_avg", "epilogue_forward")
            return (lambda *args: writes_nothing(function, *args)) if name in compute else function

    for module in ("conv2d", "pool2d", "im2col"):
        monkeypatch.setattr(f"fastconv.backends.cuda.{module}.cuda", Nothing())
    assert "elements differ" in case.run()[1]


# The command

# A module with the emulated one's functions, some of them faulty.
FAULTY = """
import importlib.util, os, time
spec = importlib.util.spec_from_file_location("fastconv._cuda", {path!r})
emulated = importlib.util.module_from_spec(spec)
spec.loader.exec_module(emulated)
globals().update({{name: getattr(emulated, name) for name in dir(emulated) if name[0] != "_"}})

def conv2d(op, sizes, dtype, plan, *args):
    algorithm = plan[0]
    if algorithm == 0 and op == 0:
        time.sleep(3600)  # as a kernel that never ends
    if algorithm == 0 and op == 1:
        os.abort()
    if algorithm == 0:
        return None
    return emulated.conv2d(op, sizes, dtype, plan, *args)
"""


def selftest(*arguments, cwd, **environment):
    code = "import sys; from fastconv.__main__ import main; sys.exit(main())"
    return subprocess.run(
        [sys.executable, "-c", code, "selftest", *arguments],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=170,
    )


@pytest.mark.parametrize("family", [CUDA])
def test_faulty_kernels_are_lines_of_the_table(family, tmp_path):
    module = tmp_path / "faulty.py"
    module.write_text(textwrap.dedent(FAULTY).format(path=cuda.__file__))
    done = selftest(
        *("--device", "cuda", "--only", " float16 channels_last", "--time-limit", "5"),
        *("--json", "results.json"),
        cwd=tmp_path,
        FASTCONV_CUDA_MODULE=str(module),
    )
    assert done.returncode == 1, done.stdout + done.stderr
    found = json.loads((tmp_path / "results.json").read_text())
    outcomes = {
        (row["backend"], row["operation"]): (row["outcome"], row["reason"])
        for row in found["results"]
    }
    outcome, reason = outcomes.pop(("cuda:direct", "fprop"))
    assert (outcome, reason) == ("hung", "dense: not done within 5 s")
    outcome, reason = outcomes.pop(("cuda:direct", "dgrad"))
    assert (outcome, reason) == ("crashed", "dense: its process was ended by SIGABRT")
    outcome, reason = outcomes.pop(("cuda:direct", "wgrad"))
    assert outcome == "failed" and "dw: " in reason and "elements differ" in reason
    assert len(outcomes) > 10 and {outcome for outcome, _ in outcomes.values()} == {"passed"}
    assert f"{len(outcomes)} passed, 1 failed, 1 hung, 1 crashed" in done.stdout
    bad = [line for line in done.stdout.splitlines() if line[:4] in ("hung", "cras", "fail")]
    assert len(bad) == 6 and bad[:3] == bad[3:]  # again at the end
    assert found["devices"] == {"cuda": {"name": "emulated"}}


def test_nothing_to_run_is_status_2(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("FASTCONV_SELFTEST", "")  # restored: the command sets it
    monkeypatch.setattr(selftest_cases, "why_nothing", lambda family: "no GPU")
    path = tmp_path / "results.json"
    assert command_line.main(["selftest", "--device", "cuda", "--json", str(path)]) == 2
    assert "not run  cuda: no GPU" in capsys.readouterr().out
    assert json.loads(path.read_text())["skipped"] == {"cuda": "no GPU"}


@pytest.mark.parametrize("seconds, status", [("100", 0), ("0.001", 3)])
def test_all_right_is_status_0_and_too_little_time_status_3(seconds, status, monkeypatch, capsys):
    monkeypatch.setenv("FASTCONV_SELFTEST", "")  # restored: the command sets it
    outcomes = iter([children.Result("passed", 0.1, "", 9)] * 2)

    def run_all(items, add, limit, workers, until):
        for item in items:
            if time.monotonic() < until or item is items[0]:
                add(item, next(outcomes))

    monkeypatch.setattr(children, "run_all", run_all)
    arguments = ["--device", "cpu", "--only", "cpu max_fwd float32", "--seconds", seconds]
    assert command_line.main(["selftest", *arguments]) == status
    told = capsys.readouterr().out
    assert f"{2 - (status > 0)} passed, 0 failed, 0 hung, 0 crashed" in told
    assert ("1 lines left for want of time" in told) == (status > 0)


@pytest.mark.parametrize("arguments", [["--device", "tpu"], ["--time-limit", "0"]])
def test_wrong_usage_is_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        command_line.main(["selftest", *arguments])
    assert ended.value.code == 2 and arguments[0] in capsys.readouterr().err


def test_results_of_another_size_or_off_by_a_rounding_are_seen():
    right = torch.ones(2, 3, dtype=torch.float64)
    assert difference("y", right.float(), right, 0) is None
    assert "size [3, 2]" in difference("y", right.T.float(), right, 0)
    off = right.float()
    off[1, 2] = torch.nextafter(off[1, 2], torch.tensor(2.0))
    assert "1 of 6 elements differ, the first at (1, 2)" in difference("y", off, right, 0)
    assert difference("y", off, right, 2) is None
    off[0, 0] = float("nan")
    assert "first at (0, 0)" in difference("y", off, right, 2)


def test_memory_is_poisoned_by_what_is_no_result():
    place = Place(torch.float16, torch.device("cpu"), True)
    assert place.put(torch.zeros(2, 3, 4, 5)).is_contiguous(memory_format=torch.channels_last)
    place.poison([torch.zeros(2, 3, dtype=torch.float64), torch.zeros(4, dtype=torch.int8)])
