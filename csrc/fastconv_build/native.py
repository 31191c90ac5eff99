"""Native modules through ninja: parallel, incremental, and a failing compile is an error."""

import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

from setuptools import Extension
from setuptools.command.build_ext import build_ext

from .toolkit import cuda_wanted

CSRC = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Compilation:
    source: Path
    object: str  # file name, in the build folder
    flags: tuple = ()


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


def _write_ninja(path, module, target, includes):
    from ninja.ninja_syntax import Writer

    # CCACHE_DISABLE=1 in the environment turns it off.
    cache = "ccache " if shutil.which("ccache") else ""
    cxx = os.environ.get("CXX", "c++")
    # nvcc's host compiler is ours, unless NVCC_CCBIN says otherwise or it is more than one word.
    ccbin = ["-ccbin", cxx] if "CXX" in os.environ and len(cxx.split()) == 1 else []
    if "NVCC_CCBIN" in os.environ:
        ccbin = []
    with open(path, "w") as file:
        out = Writer(file)
        out.variable("cxx", cxx if cxx.startswith("ccache ") else cache + cxx)
        out.variable("user_flags", os.environ.get("CXXFLAGS", ""))
        out.variable("includes", _quoted(includes))
        out.variable("flags", _quoted(module.cxx_flags))
        out.variable("nvcc", _quoted([module.nvcc, *ccbin, *module.nvcc_flags]))
        out.variable("link_flags", _quoted(module.link_flags))
        for rule, command in (
            ("cxx", "$cxx $flags $includes $extra $user_flags"),
            ("nvcc", f"{cache}$nvcc -I{shlex.quote(str(CSRC))} $extra"),
        ):
            out.rule(
                rule,
                f"{command} -MMD -MF $out.d -c $in -o $out",
                depfile="$out.d",
                deps="gcc",
                description="compile $out",
            )
        link = "-bundle -undefined dynamic_lookup" if sys.platform == "darwin" else "-shared"
        out.rule("link", f"$cxx {link} $in -o $out $link_flags -pthread", description="link $out")
        objects = []
        for one in module.compilations:
            rule = "nvcc" if one.source.suffix == ".cu" else "cxx"
            variables = {"extra": _quoted(one.flags)}
            objects += out.build(one.object, rule, str(one.source), variables=variables)
        out.build(str(target), "link", objects)


class NinjaBuild(build_ext):
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
        import ninja
        import pybind11

        build_dir = Path(self.build_temp).resolve() / ext.name
        build_dir.mkdir(parents=True, exist_ok=True)
        target = Path(self.get_ext_fullpath(ext.name)).resolve()
        target.parent.mkdir(parents=True, exist_ok=True)
        # Through a link, whose path stays the same. pip makes a new folder for each build, and a
        # compiler cache would take the headers in it for different ones.
        headers = build_dir / "pybind11"
        headers.unlink(missing_ok=True)
        headers.symlink_to(pybind11.get_include())
        includes = [f"-I{CSRC}", "-isystempybind11"]
        includes += [f"-isystem{path}" for path in self.include_dirs]
        _write_ninja(build_dir / "build.ninja", ext.module, target, includes)

        jobs = ["-j", os.environ["MAX_JOBS"]] if "MAX_JOBS" in os.environ else []
        command = [str(Path(ninja.BIN_DIR) / "ninja"), "-C", str(build_dir), *jobs]
        if subprocess.run(command, check=False).returncode != 0:
            advice = "; FASTCONV_CUDA=0 builds without CUDA kernels" if ext.module.nvcc else ""
            raise SystemExit(
                f"fastconv: building {ext.name} failed; the compiler's output is above{advice}"
            )
