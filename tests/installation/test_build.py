"""The build: where a CUDA toolkit is looked for, what it is asked to compile, and that what cannot
be built says so."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "csrc"))
toolkit = pytest.importorskip("fastconv_build.toolkit")

KNOWN = "compute_75 compute_80 compute_90 compute_100 compute_120"


@pytest.fixture
def no_toolkit(monkeypatch, tmp_path):
    """A machine without CUDA: no nvcc on PATH, in CUDA_HOME or from wheels."""
    (tmp_path / "path").mkdir()
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(toolkit, "wheel_folders", lambda: [tmp_path / "nvidia" / "cu13"])
    for name in ("FASTCONV_CUDA", "FASTCONV_CUDA_ARCHS"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


def fake_nvcc(folder, known=KNOWN, top="", compiles="true"):
    """A script that answers as nvcc does, and compiles nothing."""
    folder.mkdir(parents=True, exist_ok=True)
    nvcc = folder / "nvcc"
    nvcc.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *--list-gpu-arch*) printf "%s\\n" {known};;\n'
        f'*--dryrun*) echo "#$ TOP={top or folder.parent}" >&2;;\n'
        f"*) echo compiling; {compiles};; esac\n"
    )
    nvcc.chmod(0o755)
    return nvcc


@pytest.mark.parametrize("place", ["path", "home/bin", "nvidia/cu13/bin"])
def test_nvcc_is_found_on_path_in_cuda_home_and_among_packages(no_toolkit, place):
    assert toolkit.find_toolkit() == (None, f"{toolkit.NOT_FOUND} when fastconv was built")
    nvcc = fake_nvcc(no_toolkit / place)
    found, missing = toolkit.find_toolkit()
    assert found.nvcc == str(nvcc) and missing is None


def test_path_comes_before_cuda_home(no_toolkit):
    fake_nvcc(no_toolkit / "home/bin")
    nvcc = fake_nvcc(no_toolkit / "path")
    assert toolkit.find_toolkit()[0].nvcc == str(nvcc)


def test_fastconv_cuda_is_obeyed(no_toolkit, monkeypatch):
    assert toolkit.wheel_requirements() == []
    monkeypatch.setenv("FASTCONV_CUDA", "1")
    required = toolkit.wheel_requirements()
    assert any(line.startswith("nvidia-cuda-nvcc==13.0") for line in required)
    fake_nvcc(no_toolkit / "path")
    assert toolkit.wheel_requirements() == []
    monkeypatch.setenv("FASTCONV_CUDA", "0")
    assert toolkit.find_toolkit() == (None, "built with FASTCONV_CUDA=0")
    monkeypatch.setenv("FASTCONV_CUDA", "yes")
    with pytest.raises(SystemExit, match="must be auto, 0 or 1, got 'yes'"):
        toolkit.find_toolkit()


@pytest.mark.parametrize(
    ("known", "asked", "archs", "words"),
    [
        (KNOWN, None, ["80", "90a", "100+PTX"], "sm_80, sm_90a, sm_100, PTX"),
        ("compute_80 compute_90", None, ["80", "90a+PTX"], "sm_80, sm_90a, PTX"),
        (KNOWN, "90a", ["90a"], "sm_90a"),
        (KNOWN, "80, 90a+PTX", ["80", "90a+PTX"], "sm_80, sm_90a, PTX"),
    ],
)
def test_architectures(no_toolkit, monkeypatch, known, asked, archs, words):
    if asked:
        monkeypatch.setenv("FASTCONV_CUDA_ARCHS", asked)
    found = toolkit.Toolkit(str(fake_nvcc(no_toolkit / "path", known)))
    assert found.archs == archs
    assert found.describe_archs() == words
    flags = found.gencode_flags()
    assert flags[0] == f"-gencode=arch=compute_{archs[0]},code=sm_{archs[0]}"
    ptx = [flag for flag in flags if "code=compute" in flag]
    assert len(ptx) == ("PTX" in words) and not any("a,code=compute" in flag for flag in ptx)


@pytest.mark.parametrize("asked", ["sm_90a", "77", "90a;80", "90a,"])
def test_an_unknown_architecture_is_named(no_toolkit, monkeypatch, asked):
    monkeypatch.setenv("FASTCONV_CUDA_ARCHS", asked)
    with pytest.raises(SystemExit, match="is not an architecture"):
        _ = toolkit.Toolkit(str(fake_nvcc(no_toolkit / "path"))).archs


@pytest.mark.parametrize("lib", ["lib64", "lib", "targets/x86_64-linux/lib"])
def test_headers_and_libraries_are_those_of_nvcc_itself(no_toolkit, monkeypatch, lib):
    """What is on PATH may be a link or a script that starts an nvcc elsewhere."""
    monkeypatch.setattr(toolkit.platform, "machine", lambda: "x86_64")
    top = no_toolkit / "elsewhere"
    for file in ("include/cuda_runtime.h", f"{lib}/libcudart_static.a"):
        (top / file).parent.mkdir(parents=True)
        (top / file).touch()
    found = toolkit.Toolkit(str(fake_nvcc(no_toolkit / "path", top=f"{top}/bin/..")))
    (top / "bin").mkdir()
    assert found.include_folders == [str(top / "include")]
    assert found.library_folders == [str(top / lib)]


def test_an_nvcc_that_does_not_work_is_an_error(no_toolkit):
    nvcc = fake_nvcc(no_toolkit / "path")
    nvcc.write_text("#!/bin/sh\necho no licence; exit 3\n")
    with pytest.raises(SystemExit, match=r"no licence\n.*FASTCONV_CUDA=0 builds without"):
        _ = toolkit.Toolkit(str(nvcc)).archs


SETUP = """
import sys
import sysconfig
from pathlib import Path
from setuptools import setup
sys.path.insert(0, {csrc!r})
from fastconv_build.native import Compilation, NativeModule, NinjaBuild
module = NativeModule("one", [Compilation(Path(file).resolve()) for file in {files!r}],
                      nvcc={nvcc!r}, missing={missing!r})
setup(name="one", ext_modules=[module.extension()], cmdclass={{"build_ext": NinjaBuild}})
"""


def build(folder, nvcc="", missing=None, files=("kernel.cu",), **environment):
    pytest.importorskip("ninja")
    pytest.importorskip("pybind11")
    (folder / "setup.py").write_text(
        SETUP.format(csrc=str(ROOT / "csrc"), nvcc=str(nvcc), missing=missing, files=files)
    )
    for path in map(folder.joinpath, files):
        path.exists() or path.touch()
    return subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=120,
    )


@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_only_what_a_change_concerns_is_compiled_again(tmp_path):
    (tmp_path / "part.h").touch()
    (tmp_path / "a.cpp").write_text('#include "part.h"\n')

    def compiled(**environment):
        done = build(tmp_path, files=("a.cpp", "b.cpp"), CXX="c++", **environment)
        assert done.returncode == 0, done.stdout + done.stderr
        return sorted(line.split()[-1] for line in done.stdout.splitlines() if "compiling" in line)

    assert compiled() == ["a.cpp", "b.cpp"]
    (tmp_path / "part.h").write_text("// Changed.\n")
    assert compiled() == ["a.cpp"]
    # The environment's flags, as all flags, are part of the command.
    assert compiled(CXXFLAGS="-O1") == ["a.cpp", "b.cpp"]
    tools = next(tmp_path.glob("build/temp*/one/tools"))
    tools.write_text("another compiler's version")
    assert compiled(CXXFLAGS="-O1") == ["a.cpp", "b.cpp"]
    assert compiled(CXXFLAGS="-O1") == []


def test_an_editable_install_keeps_its_build_folder(monkeypatch, tmp_path):
    """The folder of `setup.py build_ext`; pip's own is another each time."""
    native = pytest.importorskip("fastconv_build.native")
    from setuptools import Distribution

    folders = []
    for editable in (False, True):
        command = native.NinjaBuild(Distribution())
        command.editable_mode = editable
        if editable:
            command.build_temp = str(tmp_path)
        command.ensure_finalized()
        folders.append(command.build_temp)
    assert folders[0] == folders[1]


@pytest.mark.parametrize(
    "compiler",
    ["#!/bin/sh\ncase $* in *c++20*) echo unknown -std=c++20; exit 1;; esac\n", None],
    ids=["too old", "missing"],
)
def test_a_compiler_without_cxx20_is_named(tmp_path, compiler):
    path = tmp_path / "old-c++"
    if compiler:
        path.write_text(compiler)
        path.chmod(0o755)
    done = build(tmp_path, files=("a.cpp",), CXX=str(path))
    assert done.returncode != 0
    assert f"building one failed: {path} does not compile C++20" in done.stderr
    assert ("unknown -std=c++20" if compiler else "No such file") in done.stderr


def test_a_missing_build_tool_is_named(tmp_path):
    (tmp_path / "pybind11.py").write_text("raise ImportError('gone', name='pybind11')")
    done = build(tmp_path, files=("a.cpp",), PYTHONPATH=str(tmp_path))
    assert done.returncode != 0
    assert "building needs pybind11: " in done.stderr and "Traceback" not in done.stderr


def test_an_old_setuptools_is_named():
    code = "import runpy, setuptools; setuptools.__version__ = '65.5.1'; runpy.run_path('setup.py')"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode != 0
    assert "setuptools >= 77" in done.stderr and "65.5.1" in done.stderr
    assert "setuptools>=77" in (ROOT / "pyproject.toml").read_text()


def test_a_failing_nvcc_is_an_error(tmp_path):
    nvcc = fake_nvcc(tmp_path / "bin", compiles="exit 2")
    done = build(tmp_path, nvcc)
    assert done.returncode != 0
    assert "compiling" in done.stdout and "building one failed" in done.stderr
    assert not list(tmp_path.glob("one*.so"))


def test_a_demanded_but_impossible_module_is_an_error(tmp_path):
    done = build(tmp_path, missing="there is no nvcc", FASTCONV_CUDA="1")
    assert done.returncode != 0 and "FASTCONV_CUDA=1, but there is no nvcc" in done.stderr


def test_no_module_of_an_earlier_build_is_left(tmp_path):
    name = "one" + sysconfig.get_config_var("EXT_SUFFIX")
    lib = f"lib.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
    stale = [tmp_path / name, tmp_path / "build" / lib / name]
    for path in stale:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    done = build(tmp_path, missing="there is no nvcc", FASTCONV_CUDA="0")
    assert done.returncode == 0, done.stderr
    assert not any(path.exists() for path in stale)


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="no nvcc")
def test_the_toolkit_of_this_machine_has_what_a_build_needs(monkeypatch):
    monkeypatch.delenv("FASTCONV_CUDA_ARCHS", raising=False)
    found = toolkit.Toolkit(shutil.which("nvcc"))
    assert {"80", "90a"} <= {arch.removesuffix("+PTX") for arch in found.archs}
    assert found.include_folders or Path("/usr/include/cuda_runtime.h").is_file()
