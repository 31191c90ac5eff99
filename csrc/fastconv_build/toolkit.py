"""The CUDA toolkit: where nvcc is, what it compiles for, where its headers and libraries lie."""

import importlib.util
import os
import platform
import re
import shutil
import subprocess
from functools import cached_property
from pathlib import Path

# The toolkit as wheels: compiler, its headers and back end, the runtime, <nv/target>.
WHEELS = (
    *("nvidia-cuda-nvcc", "nvidia-cuda-crt", "nvidia-nvvm"),
    *("nvidia-cuda-runtime", "nvidia-cuda-cccl"),
)
WHEEL_VERSION = "13.0.*"
# Architectures that machine code is made for, as far as nvcc knows them. For the last one there is
# PTX too, which the driver compiles for any later GPU.
ARCHS = ("80", "90a", "100")
NOT_FOUND = "no nvcc was found on PATH, in CUDA_HOME or among Python's packages"


def cuda_wanted():
    """FASTCONV_CUDA: "auto", "0" or "1"."""
    wanted = os.environ.get("FASTCONV_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        raise SystemExit(f"fastconv: FASTCONV_CUDA must be auto, 0 or 1, got {wanted!r}")
    return wanted


def wheel_folders():
    """Where NVIDIA's wheels put their toolkits in this Python environment."""
    spec = importlib.util.find_spec("nvidia")
    packages = spec.submodule_search_locations or [] if spec else []
    return [folder for path in packages for folder in sorted(Path(path).glob("cu[0-9]*"))]


def find_tool(name):
    """Path of a program of the CUDA toolkit, or None: on PATH, in CUDA_HOME, from wheels."""
    homes = [os.environ.get("CUDA_HOME", "/usr/local/cuda"), *wheel_folders()]
    path = os.pathsep.join([os.environ.get("PATH", ""), *(f"{home}/bin" for home in homes)])
    return shutil.which(name, path=path)


def wheel_requirements():
    """What a build needs from PyPI to have an nvcc: nothing if there is one, or none is wanted."""
    if cuda_wanted() != "1" or find_tool("nvcc"):
        return []
    return [f"{name}=={WHEEL_VERSION}" for name in WHEELS]


class Toolkit:
    def __init__(self, nvcc):
        self.nvcc = nvcc

    def _output(self, *arguments):
        try:
            done = subprocess.run([self.nvcc, *arguments], capture_output=True, text=True)
        except OSError as error:
            raise SystemExit(f"fastconv: {self.nvcc} does not run: {error}") from error
        if done.returncode != 0:
            raise SystemExit(
                f"fastconv: {self.nvcc} {' '.join(arguments)} failed:\n{done.stdout}{done.stderr}"
                "(FASTCONV_CUDA=0 builds without CUDA kernels)"
            )
        return done.stdout + done.stderr

    @cached_property
    def top(self):
        """The toolkit's folder in nvcc's own words: what is on PATH may be a link or a script."""
        listing = self._output("--dryrun", "-c", "-x", "cu", os.devnull, "-o", os.devnull)
        return Path(re.search(r"^#\$ TOP=(.*)$", listing, re.MULTILINE)[1]).resolve()

    def _folder(self, names, holding):
        """-I or -L of the first folder of the toolkit that holds a file; empty where the compiler
        has to find it by itself (a distribution's toolkit lies in /usr)."""
        cpu = {"aarch64": "sbsa"}.get(platform.machine(), platform.machine())
        for name in (names, f"targets/{cpu}-linux/{names}", f"{names}64"):
            if (self.top / name / holding).is_file():
                return [str(self.top / name)]
        return []

    @property
    def include_folders(self):
        return self._folder("include", "cuda_runtime.h")

    @property
    def library_folders(self):
        return self._folder("lib", "libcudart_static.a")

    @cached_property
    def archs(self):
        """What to compile for: ["80", "90a", "100+PTX"]. FASTCONV_CUDA_ARCHS replaces it."""
        known = re.findall(r"compute_(\d+)", self._output("--list-gpu-arch"))
        if asked := os.environ.get("FASTCONV_CUDA_ARCHS"):
            archs = [part.strip() for part in asked.split(",")]
            for arch in archs:
                match = re.fullmatch(r"(\d+)[af]?(\+PTX)?", arch)
                if match is None or match[1] not in known:
                    raise SystemExit(
                        f"fastconv: FASTCONV_CUDA_ARCHS={asked}: {arch!r} is not an architecture "
                        f"that {self.nvcc} knows, such as 80, 90a or 100+PTX; it knows "
                        f"{', '.join(known)}"
                    )
            return archs
        archs = [arch for arch in ARCHS if arch.rstrip("a") in known]
        return [*archs[:-1], f"{archs[-1]}+PTX"]

    def gencode_flags(self):
        flags = []
        for arch in self.archs:
            name, ptx, _ = arch.partition("+PTX")
            flags.append(f"-gencode=arch=compute_{name},code=sm_{name}")
            if ptx:  # PTX of an architecture with a letter runs on that one alone
                plain = name.rstrip("af")
                flags.append(f"-gencode=arch=compute_{plain},code=compute_{plain}")
        return flags

    def describe_archs(self):
        """For fastconv.info(): "sm_80, sm_90a, sm_100, PTX"."""
        names = [f"sm_{arch.removesuffix('+PTX')}" for arch in self.archs]
        return ", ".join(names + ["PTX"] * any(arch.endswith("+PTX") for arch in self.archs))


def find_toolkit():
    """(Toolkit, None), or (None, why fastconv._cuda is not built). It does not fail where a toolkit
    is demanded: pip also runs setup.py before the requirements that provide one are installed."""
    if cuda_wanted() == "0":
        return None, "built with FASTCONV_CUDA=0"
    nvcc = find_tool("nvcc")
    if nvcc is None:
        return None, f"{NOT_FOUND} when fastconv was built"
    return Toolkit(nvcc), None
