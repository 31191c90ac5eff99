"""A wheel of fastconv that was built beforehand, so that the build takes no time of the GPU.

prepare() builds it with the Python that it runs under, which must be of the version that the
machine with the GPU has: a compiled module fits one version alone. find() returns it only if it was
built from the sources that are there.
"""

import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

# The files that a wheel is made of.
SOURCES = (
    *("setup.py", "pyproject.toml", "csrc/**/*", "fastconv/**/*.py", "fastconv/*.pyi"),
    *("triton_kernels/**/*.py", "bench/*.*"),
    *(f"bench/{folder}/*.*" for folder in ("cases", "demo", "measure", "models", "report")),
)
ARCHS = "90a"
MODULES = ("_core", "_cuda")
# Imports a compiled module by its path, as there may be no torch here, which fastconv needs.
_LOAD = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("fastconv." + sys.argv[1], sys.argv[2])
spec.loader.exec_module(importlib.util.module_from_spec(spec))
"""


def fingerprint(root):
    """A hash of the sources."""
    seen = hashlib.sha256()
    for path in sorted({path for pattern in SOURCES for path in root.glob(pattern)}):
        if path.is_file() and path.suffix not in (".sh", ".pyc"):
            seen.update(f"{path.relative_to(root).as_posix()}\0".encode())
            seen.update(hashlib.sha256(path.read_bytes()).digest())
    return seen.hexdigest()


def find(root, folder):
    """(the wheel, None), or (None, why there is none to take)."""
    wheels = sorted(folder.glob("fastconv-*.whl"))
    if len(wheels) != 1:
        return None, f"{len(wheels)} wheels in {folder}"
    try:
        built_from = (folder / "sources").read_text()
    except OSError:
        built_from = None
    if built_from != fingerprint(root):
        return None, f"{wheels[0].name} was built from other sources"
    return wheels[0], None


def _missing(wheel):
    """The modules that a wheel does not hold, or that do not load."""
    with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(wheel) as archive:
        found = {}
        for name in archive.namelist():
            if name.endswith(".so"):
                found[Path(name).name.partition(".")[0]] = archive.extract(name, folder)
        missing = [name for name in MODULES if name not in found]
        for name in found:
            command = [sys.executable, "-c", _LOAD, name, found[name]]
            if subprocess.run(command).returncode != 0:
                missing.append(name)
    return missing


def prepare(root, folder):
    """Builds the wheel. Returns an exit status."""
    begun = fingerprint(root)
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    # Object files are kept for the next time. Copies of Python files are not: one whose source was
    # deleted would stay in the wheel.
    base = root / "build" / f"accept-{sys.implementation.cache_tag}"
    for old in base.glob("lib*"):
        shutil.rmtree(old)
    settings = base / "setup.cfg"
    base.mkdir(parents=True, exist_ok=True)
    settings.write_text(f"[build]\nbuild_base = {base}\n")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "-w", folder, root]
    if all(map(importlib.util.find_spec, ("setuptools", "pybind11", "ninja"))):
        command += ["--no-build-isolation", "--no-index"]
    asked = {"FASTCONV_CUDA_ARCHS": ARCHS} | os.environ
    wanted = {"FASTCONV_CUDA": "1", "DIST_EXTRA_CONFIG": str(settings)}
    if subprocess.run(list(map(str, command)), env=asked | wanted).returncode != 0:
        return 1
    (wheel,) = folder.glob("fastconv-*.whl")
    if missing := _missing(wheel):
        print(f"{wheel}: {', '.join(missing)} cannot be loaded", file=sys.stderr)
        return 1
    (folder / "sources").write_text(begun)
    print(f"{wheel}: {wheel.stat().st_size / 2**20:.1f} MiB, for {asked['FASTCONV_CUDA_ARCHS']}")
    return 0
