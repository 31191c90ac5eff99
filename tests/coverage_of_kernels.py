"""Which kernels a test run executes: every combination of backend, kernel, pass, dtype and layout.

    pytest --kernels after.csv
    python tests/coverage_of_kernels.py before.csv after.csv

The second command counts the combinations of both runs, names those that the later run lost, and
exits with an error where there are any. Only kernels of the test process itself are seen, not those
of processes that it starts.
"""

import csv
import ctypes
import importlib
import pkgutil
import re
import sys
from collections import Counter
from typing import NamedTuple

from fastconv import _native, triton_kernels
from fastconv.backends.cpu.conv2d import CpuBackend
from fastconv.backends.cuda.conv2d import CudaBackend
from fastconv.backends.triton import launch as triton_launch
from fastconv.backends.triton.conv2d import TritonBackend
from fastconv.problem import ConvOp


class Combination(NamedTuple):
    backend: str
    kernel: str
    op: str  # the pass: fprop, dgrad, max_fwd, ...
    dtype: str
    layout: str


def _layout(tensor):
    if tensor.numel() < 2 or tensor.dim() != 4:
        return "any"
    contiguous = tensor.is_contiguous()
    if contiguous and max(tensor.shape[2:]) == 1:  # channels are adjacent as well
        return "any"
    if contiguous:
        return "nchw"
    return "nhwc" if tensor.permute(0, 2, 3, 1).is_contiguous() else "strided"


def _op_name(op):
    return ConvOp(op).name if isinstance(op, int) else op.name


class Recorder:
    """While it is installed, the backends' methods note down which kernels they started."""

    def __init__(self):
        self.seen = Counter()
        self._started = set()  # names of kernels since the method began

    def install(self):
        core = _native.core
        names = ("_convolve", "_max", "_avg", "_epilogue_backward", "_activate")
        for backend in (CpuBackend, CudaBackend, TritonBackend):
            for name in names:
                setattr(backend, name, self._noting(backend, name, getattr(backend, name)))
        for name in ("conv2d", "pool2d_max", "pool2d_avg", "epilogue_backward"):
            setattr(core, name, self._naming(name, getattr(core, name)))
        core.activation_forward = self._naming("activation_forward", core.activation_forward)
        if triton_launch.missing_reason() is None:
            self._watch_triton()
        self._take_emulated = lambda: b""
        if _native.cuda is not None and _native.cuda.is_emulated:
            self._take_emulated = ctypes.CDLL(_native.cuda.__file__).emulator_take_launches
            self._take_emulated.restype = ctypes.c_char_p

    def _naming(self, name, function):
        """A function of the core. Its algorithm, where it has one, belongs to the kernel's name."""

        def named(*args):
            words = [getattr(arg, "name", "") for arg in args[:2]]
            algorithm = {"conv2d": words[1], "pool2d_max": words[0], "pool2d_avg": words[0]}
            self._started.add(f"{name} {algorithm.get(name, '')}".strip())
            return function(*args)

        return named

    def _watch_triton(self):
        launch = importlib.import_module("fastconv.triton_kernels.launch").launch

        def noted(kernel, *args, **constants):
            self._started.add(kernel.fn.__name__)
            return launch(kernel, *args, **constants)

        for module in pkgutil.iter_modules(triton_kernels.__path__, "fastconv.triton_kernels."):
            loaded = importlib.import_module(module.name)
            if getattr(loaded, "launch", None) is launch:
                loaded.launch = noted

    def _noting(self, backend, name, method):
        family = backend.__name__.removesuffix("Backend").lower()

        def noted(backend_self, *args, **kwargs):
            self._started.clear()
            self._take_emulated()  # what was started before
            result = method(backend_self, *args, **kwargs)
            tensors = [arg for arg in args if hasattr(arg, "data_ptr")]
            op = name.strip("_")
            if not hasattr(args[0], "data_ptr"):
                op = _op_name(args[0])
            layout = _layout(max(tensors[:3], key=lambda t: t.numel()))
            dtype = str(tensors[0].dtype).removeprefix("torch.")
            emulated = self._take_emulated().decode().splitlines()
            kernels = self._started | {_short(kernel) for kernel in emulated}
            for kernel in kernels:
                self.seen[Combination(family, kernel, op, dtype, layout)] += 1
            return result

        return noted

    def write(self, path):
        with open(path, "w", newline="") as file:
            out = csv.writer(file)
            out.writerow(Combination._fields)
            out.writerows(sorted(self.seen))


def _short(kernel):
    """A template's name and arguments without its return type, namespaces and parameters."""
    kernel = re.sub(r"\((?:anonymous namespace|[A-Za-z_:]+)\)(?=::|\d)", "", kernel)
    kernel = re.sub(r"\b(?:fastconv|cuda)::", "", kernel).removeprefix("void ")
    return re.sub(r"\(.*\)$", "", kernel).replace(" ", "")


def read(path):
    with open(path, newline="") as file:
        return {Combination(**row) for row in csv.DictReader(file)}


def base(combination):
    """A combination without the arguments of the kernel's template, which hold the tile."""
    return combination._replace(kernel=combination.kernel.partition("<")[0])


def main(before, after):
    before, after = read(before), read(after)
    print(f"{'backend':10} {'kernels':>14} {'combinations':>16} {'with tiles':>16}")
    for backend in sorted({c.backend for c in before | after}):
        counts = []
        for run in (before, after):
            own = {c for c in run if c.backend == backend}
            counts.append((len({base(c).kernel for c in own}), len({*map(base, own)}), len(own)))
        columns = [f"{a} -> {b}" for a, b in zip(*counts)]
        print(f"{backend:10} {columns[0]:>14} {columns[1]:>16} {columns[2]:>16}")
    lost = sorted({*map(base, before)} - {*map(base, after)})
    lost_tiles = sorted({c.kernel for c in before} - {c.kernel for c in after})
    for title, items in (("lost", lost), ("lost instances", lost_tiles)):
        print(f"\n{title}: {len(items)}")
        for item in items:
            print(" ", *item if isinstance(item, Combination) else (item,))
    return 1 if lost or lost_tiles else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
