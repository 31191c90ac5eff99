"""The file of tuned choices: what is written is read again; what is damaged, foreign or unwritable
costs a warning and no choice of ours; two processes lose nothing."""

import json
import subprocess
import sys
import threading
import warnings
from pathlib import Path

import pytest
from devices import needs_triton

from fastconv.backends.triton.launch import missing_reason

pytestmark = needs_triton
if missing_reason() is None:
    from fastconv.triton_kernels import tuning, tuning_cache
    from fastconv.triton_kernels.conv2d_implicit_gemm import CONFIGS

KEY = "conv2d_implicit_gemm {op} float16 fp16 channels gemm_m=64 gemm_n=32 gemm_k=512"
FPROP, DGRAD = KEY.format(op="fprop"), KEY.format(op="dgrad")


@pytest.fixture
def opened(tmp_path):
    """opened() is TunedChoices of a folder as a new process finds it, its file `opened().path`."""

    def open_again(folder=tmp_path / "cache"):
        return tuning_cache.TunedChoices(folder, "A GPU (40 GB)", "3.9.0", tuning.candidates)

    return open_again


@pytest.fixture
def found():
    return tuning_cache.Tuned(CONFIGS[1], 41.25, 52.0)


@pytest.fixture(autouse=True)
def _no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def test_choices_are_kept(opened, found):
    choices = opened()
    assert choices.get(FPROP) is None and not choices.path.exists()
    choices.put(FPROP, found)
    choices.put(DGRAD, found._replace(table_us=None))
    assert choices.path.name == "A-GPU-40-GB-triton-3.9.0.json"
    assert opened().get(FPROP) == found
    assert opened().get(DGRAD).table_us is None
    text = choices.path.read_text()
    assert (
        f'"{FPROP}":\n    {{"config": [128, 64, 64, 8, 3], "us": 41.25, "table_us": 52.0}}' in text
    )
    assert [p.name for p in sorted(choices.path.parent.iterdir())] == [".lock", choices.path.name]


def test_two_open_files_are_merged(opened, found):
    first, second = opened(), opened()
    first.put(FPROP, found)
    second.put(DGRAD, found)
    assert second.get(FPROP) == found
    assert opened().get(FPROP) == opened().get(DGRAD) == found


def _row(**changes):
    return {"config": [128, 64, 64, 8, 3], "us": 1.0, "table_us": 2.0} | changes


def _file(rows, **changes):
    head = {"format": 1, "device": "A GPU (40 GB)", "triton": "3.9.0"}
    return json.dumps(head | {"choices": rows} | changes).encode()


CONTENTS = [
    b"",
    b"{",
    _file({FPROP: _row()})[:-9],
    b"\xff\xfe\x00",
    b"[" * 100_000,
    b"[]",
    b"null",
    _file({FPROP: _row()}, format=2),
    _file({FPROP: _row()}, device="another"),
    _file({FPROP: _row()}, triton="3.8.0"),
    _file([FPROP]),
    _file(None),
    _file({FPROP: None}),
    _file({FPROP: [1, 2]}),
    _file({FPROP: {"config": [128, 64, 64, 8, 3]}}),
    _file({FPROP: _row(more=1)}),
    _file({FPROP: _row(config=[128, 64, 64, 8, 4])}),
    _file({FPROP: _row(config=[])}),
    _file({FPROP: _row(config=None)}),
    _file({FPROP: _row(config="128, 64, 64, 8, 3")}),
    _file({FPROP: _row(us="1")}),
    _file({FPROP: _row(us=True)}),
    _file({FPROP: _row(us=-1)}),
    _file({FPROP: _row(us=float("nan"))}),
    _file({FPROP: _row(us=10**400)}),
    _file({FPROP: _row(table_us=[])}),
    _file({"": _row()}),
    _file({FPROP + " ": _row()}),
    _file({FPROP.replace("fprop", "../x"): _row()}),
    _file({FPROP.replace("implicit_gemm", "no_such_kernel"): _row()}),
    _file({FPROP.replace("64", "9" * 30): _row()}),
    # float64 has a configuration of its own.
    _file({FPROP.replace("float16 fp16", "float64 float64"): _row()}),
]


@pytest.mark.parametrize("content", CONTENTS, ids=map(str, range(len(CONTENTS))))
def test_damaged_and_foreign_files_are_ignored_and_replaced(opened, found, content):
    path = opened().path
    path.parent.mkdir()
    path.write_bytes(content)
    with pytest.warns(UserWarning) as told:
        choices = opened()
    assert len(told) == 1 and str(path) in str(told[0].message)
    assert choices.get(FPROP) is None
    choices.put(DGRAD, found)  # told once
    assert opened().get(DGRAD) == found


def test_good_choices_survive_beside_foreign_ones(opened, found):
    path = opened().path
    path.parent.mkdir()
    path.write_bytes(_file({"x": _row(), FPROP: _row(), DGRAD: _row(config=[1])}))
    with pytest.warns(UserWarning, match="ignored 'x' and any like it"):
        choices = opened()
    assert choices.get(FPROP).config == found.config and choices.get(DGRAD) is None


def test_an_unwritable_folder_warns_once(opened, found, tmp_path):
    (tmp_path / "file").touch()
    choices = opened(tmp_path / "file" / "cache")
    with pytest.warns(UserWarning, match="kept in this process only") as told:
        choices.put(FPROP, found)
        choices.put(DGRAD, found)
    assert len(told) == 1
    assert choices.get(FPROP) == choices.get(DGRAD) == found


def test_a_failed_write_leaves_the_old_file(opened, found, monkeypatch):
    choices = opened()
    choices.put(FPROP, found)
    before = choices.path.read_bytes()

    def full(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.warns(UserWarning, match="No space left"):
        choices.put(DGRAD, found)
    assert choices.path.read_bytes() == before and len(list(choices.path.parent.iterdir())) == 2


def test_where_the_files_lie(monkeypatch, tmp_path, found):
    monkeypatch.setenv("FASTCONV_CACHE_DIR", str(tmp_path / "a"))
    assert tuning_cache.folder() == tmp_path / "a"
    monkeypatch.setenv("FASTCONV_CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "b"))
    assert tuning_cache.folder() == tmp_path / "b" / "fastconv"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tuning_cache.folder() == tmp_path / ".cache" / "fastconv"
    monkeypatch.setattr("os.path.expanduser", lambda path: path)  # a user without a home
    assert tuning_cache.folder() is None
    choices = tuning_cache.TunedChoices(None, "a", "b", tuning.candidates)
    with pytest.warns(UserWarning, match="FASTCONV_CACHE_DIR"):
        choices.put(FPROP, found)
    assert choices.get(FPROP) == found


def test_one_writer_at_a_time(opened, found, monkeypatch):
    """The second reads what the first is about to write."""
    first, second = opened(), opened()
    write, reached, go = tuning_cache._write, threading.Event(), threading.Event()

    def slow_write(*args):
        if not reached.is_set():
            reached.set()
            go.wait()
        write(*args)

    monkeypatch.setattr(tuning_cache, "_write", slow_write)
    one = threading.Thread(target=first.put, args=(FPROP, found))
    other = threading.Thread(target=second.put, args=(DGRAD, found))
    one.start()
    reached.wait()
    other.start()
    other.join(0.2)
    go.set()
    one.join()
    other.join()
    assert opened().get(FPROP) == opened().get(DGRAD) == found


_WRITER = f"""
import sys
from pathlib import Path
from fastconv.triton_kernels import tuning, tuning_cache
from fastconv.triton_kernels.conv2d_implicit_gemm import CONFIGS
folder, n = Path(sys.argv[1]), sys.argv[2]
choices = tuning_cache.TunedChoices(folder, "a", "b", tuning.candidates)
(folder / ("ready" + n)).touch()
while not (folder / "go").exists():
    pass
for k in range(100):
    key = {FPROP!r}.replace("gemm_n=32", f"gemm_n={{n}}").replace("gemm_k=512", f"gemm_k={{k}}")
    choices.put(key, tuning_cache.Tuned(CONFIGS[0], 1.0, 1.0))
"""


def test_two_processes_lose_nothing_and_tear_nothing(tmp_path):
    writers = [
        subprocess.Popen([sys.executable, "-W", "error", "-c", _WRITER, tmp_path, n], cwd=tmp_path)
        for n in "12"
    ]
    while not all((tmp_path / f"ready{n}").exists() for n in "12"):
        assert not any(writer.poll() for writer in writers)
    (tmp_path / "go").touch()
    path, read = tmp_path / "a-triton-b.json", 0
    while any(writer.poll() is None for writer in writers):
        if path.exists():
            read += len(json.loads(path.read_bytes())["choices"]) > 0
    assert [writer.returncode for writer in writers] == [0, 0] and read > 10
    assert len(json.loads(path.read_bytes())["choices"]) == 200
    assert not list(Path(tmp_path).glob(".a-triton*"))
