"""Native modules through ninja: parallel, incremental, and a failing compile is an error.

The build folder stays, also of an editable install, and ninja decides what is compiled again: where
a source, a header of ours, the command or the tools' versions have changed.
"""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

from .toolkit import cuda_wanted

CSRC = Path(__file__).resolve().parent.parent
TOOLS = "tools"  # the file, in a build folder, of the tools' versions


@dataclass(frozen=True)
class Compilation:
    source: Path
    flags: tuple = ()
    variant: str = ""  # of a source that is compiled several times
    bindings: bool = False  # whether it includes the headers of Python and pybind11

    @property
    def object(self):
        """File name, in the build folder."""
        parts = self.source.parent.name, self.source.stem, self.variant, "o"
        return ".".join(filter(None, parts))

    @property
    def description(self):
        return self.source.name + (f" ({self.variant})" if self.variant else "")


@dataclass
class NativeModule:
    """One extension module: what is compiled, and how it is linked. A module without compilations
    is not built, and `missing` says why."""

    name: str
    compilations: list = field(default_factory=list)
    cxx_flags: list = field(default_factory=list)
    nvcc: str = ""
    nvcc_flags: list = field(default_factory=list)  # for sources that end in .cu
    link_flags: list = field(default_factory=list)
    missing: str | None = None

    def extension(self):
        extension = Extension(self.name, sources=[])
        extension.module = self
        return extension


def _quoted(arguments):
    return " ".join(shlex.quote(str(argument)) for argument in arguments).replace("$", "$$")


def _cxx():
    return os.environ.get("CXX", "c++")


def _check_cxx(module):
    """SystemExit where the compiler does not know the language; else every file would say so."""
    command = [*shlex.split(_cxx()), "-std=c++20", "-fsyntax-only", "-x", "c++", os.devnull]
    try:
        done = subprocess.run(command, capture_output=True, text=True)
        failed, words = done.returncode != 0, done.stdout + done.stderr
    except OSError as error:
        failed, words = True, f"{error}\n"
    if failed:
        raise SystemExit(
            f"{words}fastconv: building {module} failed: {_cxx()} does not compile C++20; the "
            "environment variable CXX names another compiler"
        )


def _version(command):
    """What a compiler says of itself."""
    return subprocess.run([*command, "--version"], capture_output=True, text=True).stdout


def _write_where_changed(path, text):
    """A file that keeps its time where its text stays."""
    if not path.is_file() or path.read_text() != text:
        path.write_text(text)


def _write_ninja(path, module, target, includes):
    from ninja.ninja_syntax import Writer

    # CCACHE_DISABLE=1 in the environment turns it off.
    cache = "ccache " if shutil.which("ccache") else ""
    cxx = _cxx()
    # nvcc's host compiler is ours, unless NVCC_CCBIN says otherwise or it is more than one word.
    ccbin = ["-ccbin", cxx] if "CXX" in os.environ and len(cxx.split()) == 1 else []
    if "NVCC_CCBIN" in os.environ:
        ccbin = []
    with open(path, "w") as file:
        out = Writer(file)
        out.variable("cxx", cxx if cxx.startswith("ccache ") else cache + cxx)
        out.variable("user_flags", os.environ.get("CXXFLAGS", ""))
        out.variable("flags", _quoted([*module.cxx_flags, f"-I{CSRC}"]))
        out.variable("nvcc", _quoted([module.nvcc, *ccbin, *module.nvcc_flags]))
        out.variable("link_flags", _quoted(module.link_flags))
        for rule, command in (
            ("cxx", "$cxx $flags $extra $user_flags"),
            ("nvcc", f"{cache}$nvcc -I{shlex.quote(str(CSRC))} $extra"),
        ):
            out.rule(
                rule,
                f"{command} -MMD -MF $out.d -c $in -o $out",
                depfile="$out.d",
                deps="gcc",
                description="compiling $what",
            )
        link = "-bundle -undefined dynamic_lookup" if sys.platform == "darwin" else "-shared"
        command = f"$cxx {link} $in -o $out $link_flags -pthread"
        out.rule("link", command, description=f"linking {module.name}")
        objects = []
        for one in module.compilations:
            rule = "nvcc" if one.source.suffix == ".cu" else "cxx"
            extra = _quoted([*one.flags, *(includes if one.bindings else ())])
            variables = {"extra": extra, "what": one.description}
            objects += out.build(one.object, rule, str(one.source), TOOLS, variables=variables)
        out.build(str(target), "link", objects)


class NinjaBuild(build_ext):
    def finalize_options(self):
        super().finalize_options()
        if self.editable_mode:
            # pip's folder is a new one each time. This is the one of `setup.py build_ext`.
            folder = f"temp.{sysconfig.get_platform()}-{sys.implementation.cache_tag}"
            self.build_temp = str(Path("build", folder))

    def run(self):
        for extension in [e for e in self.extensions if e.module.missing]:
            if cuda_wanted() == "1":
                raise SystemExit(f"fastconv: FASTCONV_CUDA=1, but {extension.module.missing}")
            self.extensions.remove(extension)
            # A module that an earlier build left must not be taken for part of this one.
            name = self.get_ext_filename(extension.name)
            for path in (Path(self.build_lib, name), Path(self.get_ext_fullpath(extension.name))):
                path.unlink(missing_ok=True)
        super().run()

    def build_extension(self, ext):
        try:
            import ninja
            import pybind11
        except ImportError as error:
            raise SystemExit(
                f"fastconv: building needs {error.name}: without build isolation, install what "
                "build-system.requires in pyproject.toml names"
            ) from error

        module = ext.module
        _check_cxx(ext.name)
        build_dir = Path(self.build_temp).resolve() / ext.name
        build_dir.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        # Through a link, whose path stays the same. pip makes a new folder for each build, and a
        # compiler cache would take the headers in it for different ones.
        headers = build_dir / "pybind11"
        headers.unlink(missing_ok=True)
        headers.symlink_to(pybind11.get_include())
        includes = ["-isystempybind11", *(f"-isystem{path}" for path in self.include_dirs)]
        _write_ninja(build_dir / "build.ninja", module, target, includes)
        # Their headers are not among the dependencies that compilers write down with -MMD.
        compilers = [shlex.split(_cxx()), *([[module.nvcc]] if module.nvcc else [])]
        versions = [f"pybind11 {pybind11.__version__}", *map(_version, compilers)]
        _write_where_changed(build_dir / TOOLS, "\n".join(versions))

        jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
        command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(build_dir), *jobs]
        if subprocess.run(command, check=False).returncode != 0:
            advice = "; FASTCONV_CUDA=0 builds without CUDA kernels" if module.nvcc else ""
            raise SystemExit(
                f"fastconv: building {ext.name} failed; the compiler's output is above{advice}"
            )
