"""Every command and every example of the README files runs.

A command of a harmless program runs as it stands. One that a test cannot or must not run has a line
in ELSEWHERE: it says who runs it or what is run in its place, and that is checked."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("markdown_it")
from packaging.requirements import Requirement
from readme import BASH, BLOCKS, ROOT, SPANS, commands, is_command, program, script_with

needs_bash = pytest.mark.skipif(BASH is None, reason="no bash")
GATE = [ROOT / ".ci" / name for name in ("steps.sh", "run", "full")]
SECONDS = 600  # for one block, on a busy machine


@dataclass(frozen=True)
class Here:
    """Run here as another command, as is whatever begins like it; {} stands for the command as the
    README has it."""

    command: str
    exhaustive: str | None = None  # with --exhaustive


class Gate:
    """Run by a step of .ci/run or .ci/full: by these commands of it, or in the README's own words
    where there are none. A * stands for any words."""

    def __init__(self, *commands):
        self.commands = commands


@dataclass(frozen=True)
class Extra:
    """Installs an extra all of which is installed here already."""

    name: str


SMALL = "--batch 1 --layout nchw --passes fprop --threads 1 --seconds 0.005"
SMALL_NETWORKS = (
    "--batch 4 --image-size 64 --layout nchw --threads 1 --seconds 0.005 --filter mobilenet_v2"
)
SANITIZERS = Gate("for sanitizer in address thread", "python tests/emulator/sanitize.py $sanitizer")
# A line for each command that does not run as it stands.
ELSEWHERE = {
    "pip install torch .": Gate("pip install torch $work/dist/fastconv-*.whl"),
    "pip install torch '.[test]'": Gate("pip install torch", "FASTCONV_CUDA=1 * .[test${2:-}]"),
    "pip install torch '.[demo]'": Gate("pip install $(echo *fastconv-*.whl)[demo]"),
    "pip install '.[bench]'": Extra("bench"),
    "pip install -e '.[test]'": Gate("FASTCONV_CUDA=0 * pip install torch -e .[test]"),
    "FASTCONV_CUDA=1 pip install .": Gate("FASTCONV_CUDA=1 * pip install .[test${2:-}]"),
    "fastconv demo": Gate(),
    "pytest": Gate(),
    "pytest -m gradcheck": Here("{} -q tests/fuse/test_frozen_batch_norm.py"),
    "pytest --exhaustive": Here("{} -q tests/test_problem.py -k out_size"),
    "pytest tests/faults/test_cuda_faults.py --exhaustive": Gate(
        "pytest tests/faults/test_faults.py tests/faults/test_cuda_faults.py --exhaustive"
    ),
    "pytest tests/recipes --exhaustive": Here(f"pytest -q --collect-only {ROOT}/tests/recipes"),
    "pytest tests/recipes/test_new_activation.py --exhaustive": Here("{} -q -k places"),
    "pytest -k": Here("{} -q --collect-only tests/conv2d/test_conv2d_kernels.py"),
    "pytest --kernels": Here("{} -q tests/test_problem.py -k out_size"),
    # Of two runs that executed nothing.
    "python tests/coverage_of_kernels.py": Here(
        "python tests/coverage_of_kernels.py /dev/null /dev/null"
    ),
    "pytest tests/cuda_kernels/test_emulator.py": Gate("pytest"),
    "python tests/emulator/sanitize.py address": SANITIZERS,
    "python tests/emulator/sanitize.py thread -k implicit_gemm": SANITIZERS,
    # It would compile into the source tree.
    "FASTCONV_CUDA=0 python setup.py -q build_ext": Here(
        f"FASTCONV_CUDA=0 python {ROOT}/setup.py build_ext --help | grep -e --inplace"
    ),
    "python tests/gates/static_gates.py": Gate("python tests/gates/static_gates.py --module *"),
    "python tests/gates/triton_gates.py": Gate(),
    # It compiles for half a minute.
    "python tests/gates/loop_speed.py": Here("{} --help"),
    # Without --debug it is what conftest.py has built; with it, a build of minutes.
    "python tests/emulator/build.py --debug": Here("python tests/emulator/build.py", "{}"),
    # The program that gdb would start.
    "gdb": Here("${BASH_COMMAND##*--args }", "{} | tee /dev/stderr | grep -q 'hit Breakpoint 1'"),
    "python -m fastconv.bench.predict": Here("{}"),
    "bench/accept_gpu.sh": Here("{} --dry-run"),
    "fastconv bench": Here(f"{{}} {SMALL} --filter l4.3x3"),
    "fastconv bench --filter": Here(f"{{}} {SMALL}"),
    "fastconv bench models": Here(f"{{}} {SMALL_NETWORKS}"),
    "fastconv bench calls": Here("{} --seconds 0.001 --filter 'max_pool2d function inference'"),
    "fastconv bench --shape": Here("{} --threads 1 --seconds 0.001 --layout nchw"),
    "fastconv bench ops --list": Here("{}"),
    "fastconv bench ops": Here(f"{{}} {SMALL} --filter l4.3x3"),
    "fastconv selftest": Here("{} --device cpu --only 'cpu max_fwd'"),
    ".ci/run": Here("bash -n .ci/run"),
    ".ci/full": Here("bash -n .ci/full"),
}
# Programs that run as they stand.
HARMLESS = {"python", "fastconv", "cat", "cd", "echo", "export", "mkdir"}
# What stands where readers put words of their own.
PLACEHOLDERS = {"<layer>": "l4.3x3"}
# Part of a command -> (whether there is what it needs, what that is).
NEEDS = {
    "--baseline onnxruntime": (find_spec("onnxruntime"), "onnxruntime"),
    "emulator/build.py": (shutil.which(os.environ.get("CXX", "g++")), "C++ compiler"),
    "TRITON_INTERPRET=1": (find_spec("triton"), "Triton"),
    "gdb": (shutil.which("gdb"), "gdb"),
}

SCRIPTS = [block for block in BLOCKS if block.language == "sh"]
_IN_BLOCKS = {line.strip() for block in SCRIPTS for line in re.split(r"\n|&&|#", block.text)}
SCRIPTS += {
    span.text: span
    for span in reversed(SPANS)
    if is_command(span.text) and span.text not in _IN_BLOCKS
}.values()
EXAMPLES = [block for block in BLOCKS if block.language == "python"]


def shell(code):
    text = code.text
    for placeholder, word in PLACEHOLDERS.items():
        text = text.replace(placeholder, word)
    return text


def entry(command):
    """The key of ELSEWHERE for a command, or None where it runs as it stands."""
    if command in ELSEWHERE:
        return command
    keys = [key for key, how in ELSEWHERE.items() if isinstance(how, Here)]
    keys = [key for key in keys if command.startswith(key + " ")]
    if keys:
        return max(keys, key=len)
    assert program(command)[0] in HARMLESS, f"no test runs `{command}`: ELSEWHERE lacks it"
    return None


def spelling(command):
    """A command without quotes, virtual environments, versions, redirections and quiet options."""
    command = re.sub(r"\$work/(fastconv|packages)", ".", re.sub(r"""["']""", "", command))
    command = re.sub(r"\S*/bin/(?=\w)", "", command).replace("$torch", "torch")
    return re.sub(r" -q\b| --durations=\d+|==[\d.]+|\s*\d?>.*", "", command)


@cache
def gate_commands():
    # The bodies of functions, as if they were called.
    scripts = [re.sub(r"^(\w+\(\) \{|\})$", "", path.read_text(), flags=re.M) for path in GATE]
    return [spelling(command) for script in scripts for command in commands(script)]


def is_in_gate(wanted):
    pattern = re.escape(spelling(wanted)).replace(r"\*", ".*")
    return any(re.fullmatch(pattern, command) for command in gate_commands())


def check_gate(command, gate):
    """None, or why it could not be checked."""
    if not GATE[0].exists():
        return f"there is no .ci here, which runs `{command}`"
    for wanted in gate.commands or (command,):
        assert is_in_gate(wanted), f".ci lacks `{wanted}`, which stands for `{command}`"
    return None


def check_extra(name):
    lines = [Requirement(line) for line in requires("fastconv") or []]
    lines = [line for line in lines if line.marker and line.marker.evaluate({"extra": name})]
    assert lines, f"there is no extra {name!r}"
    for line in lines:
        try:
            assert version(line.name) in line.specifier, f"not what is installed: {line}"
        except PackageNotFoundError:
            pytest.fail(f"not installed: {line}, of the extra {name!r}")


def plan(script, exhaustive=False):
    """({command: what runs in its place, "" for nothing}, reasons why some were not checked)."""
    replaced, unchecked = {}, []
    for command in commands(script):
        how = ELSEWHERE.get(entry(command))
        if isinstance(how, Here):
            instead = how.exhaustive if exhaustive and how.exhaustive else how.command
            replaced[command] = instead.replace("{}", command)
        elif isinstance(how, Gate):
            replaced[command] = ""
            unchecked.append(check_gate(command, how))
        elif isinstance(how, Extra):
            replaced[command] = ""
            check_extra(how.name)
        for part, (there, what) in NEEDS.items():
            if part in replaced.get(command, command) and not there:
                pytest.skip(f"no {what}")
    return replaced, list(filter(None, unchecked))


def source_tree(folder):
    """A folder of links to what is at the top of the source tree: new files stay in it."""
    tree = folder / "tree"
    tree.mkdir()
    for path in ROOT.iterdir():
        (tree / path.name).symlink_to(path)
    return tree


def names_a_file_of_the_tree(text):
    words = re.split(r"""[\s'"()=;&|<>]+""", text)
    return any("/" in word and (ROOT / word).is_file() for word in words)


def run(command, folder):
    """The output of a command in a user's environment: without what conftest.py sets, and with the
    programs of this Python first."""
    environment = {
        name: value
        for name, value in os.environ.items()
        if name == "FASTCONV_EMULATOR_CACHE" or not name.startswith(("FASTCONV_", "TRITON_"))
    }
    path = os.pathsep.join([str(Path(sys.executable).parent), environment.get("PATH", "")])
    done = subprocess.run(
        command,
        cwd=folder,
        env=environment | {"PATH": path},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=SECONDS,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


@needs_bash
@pytest.mark.parametrize("code", SCRIPTS, ids=str)
def test_commands(code, tmp_path, exhaustive):
    script = shell(code)
    replaced, unchecked = plan(script, exhaustive)
    in_tree = names_a_file_of_the_tree(" ".join([script, *replaced.values()]))
    folder = source_tree(tmp_path) if in_tree else tmp_path
    run([BASH, "-c", script_with(script, replaced)], folder)
    if unchecked:
        pytest.skip("; ".join(unchecked))


@pytest.mark.parametrize("code", EXAMPLES, ids=str)
def test_examples(code, tmp_path):
    (tmp_path / "example.py").write_text(code.text)
    run([sys.executable, "example.py"], tmp_path)


def test_every_block_is_of_a_kind_that_runs():
    assert SCRIPTS and EXAMPLES
    assert {block.language for block in BLOCKS} <= {"sh", "python", ""}


@needs_bash
def test_no_line_of_a_table_is_stale():
    used = {entry(command) for code in SCRIPTS for command in commands(shell(code))}
    here = {key for key in ELSEWHERE if not key.startswith(".ci/") or GATE[0].exists()}
    assert here - used == set()
    assert all(any(word in code.text for code in SCRIPTS) for word in PLACEHOLDERS)


# How this file would notice


@needs_bash
def test_bash_finds_every_command_and_runs_none(tmp_path):
    script = "export A=$(B=1 c --d)\ncat > e <<'EOF'\nno command\nEOF\n"
    script += "f 'g\nh' \\\n  i && (j | python -m k.l)\n"
    found = commands(script)
    assert [program(command)[0] for command in found] == "export c cat f j k".split()
    assert found[3] == "f 'g\nh' i"
    script = f"echo > {tmp_path}/a && export B=$(echo > {tmp_path}/b)"
    assert len(commands(script)) == 3 and not list(tmp_path.iterdir())


@needs_bash
def test_a_replaced_command_does_not_run_and_a_failing_one_ends_the_script(tmp_path):
    script = script_with("export X=$(slow)\nnever && echo $X", {"never": "", "slow": "echo fast"})
    assert run([BASH, "-c", script], tmp_path) == "fast\n"
    for failing in (script_with("bad\necho", {"bad": "false"}), script_with("false | cat", {})):
        with pytest.raises(AssertionError):
            run([BASH, "-c", failing], tmp_path)


@needs_bash
@pytest.mark.parametrize(
    "command", ["pip install torch . --user", "python -m pip list", "curl x", "pytest --lf"]
)
def test_a_command_that_nobody_runs_is_found(command):
    with pytest.raises(AssertionError, match="no test runs"):
        plan(command)


@needs_bash
@pytest.mark.skipif(not GATE[0].exists(), reason="no .ci")
def test_a_command_that_the_gate_lacks_is_found():
    assert is_in_gate("fastconv info") and is_in_gate("fastconv *")
    for wanted in ("fastconv", "fastconv bench", "pytest --lf", "pip install torch '.[bench]'"):
        assert not is_in_gate(wanted)
    with pytest.raises(AssertionError, match="lacks `pytest --lf`"):
        check_gate("pytest --exhaustive", Gate("pytest", "pytest --lf"))


def test_an_extra_that_is_none_is_found():
    with pytest.raises(AssertionError, match="no extra 'nothing'"):
        check_extra("nothing")
