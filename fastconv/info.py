"""fastconv.info(): what this installation can do, and why it cannot do the rest."""

import importlib.util
import platform

import torch

from ._native import core, cuda, cuda_missing
from .backends import BACKENDS
from .dispatch import fallbacks


class Info(dict):
    """A dict that prints as a list of `name: value` lines."""

    def __str__(self):
        width = max(map(len, self))
        return "\n".join(f"{name:<{width}}  {value}" for name, value in self.items())


def _cuda_line():
    if cuda is None:
        return f"not available: {cuda_missing}"
    if cuda.is_emulated:
        return "emulated: the CUDA kernels run on the CPU (FASTCONV_CUDA_MODULE)"
    built = f"built for {cuda.archs}"
    status = cuda.driver_status()
    if status != "no error":
        return f"{built}; no device can be used here: {status}"
    return f"available: {built}"


def info():
    """Versions, backends and the reasons for what is missing.

    Returns:
        A dict that prints well, with the keys fastconv, torch, python, instruction_set (of the CPU
        kernels), threads, backends (names that `backend=` takes), cuda and triton ("available" or
        the reason), fallbacks (reason -> number of calls of this process that went to ATen).
    """
    from . import __version__

    triton = "not available: no kernels in this version yet"
    if importlib.util.find_spec("triton") is None:
        triton = "not available: triton is not installed"
    return Info(
        fastconv=__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        instruction_set=core.instruction_set(),
        threads=torch.get_num_threads(),
        backends=", ".join(sorted(BACKENDS)),
        cuda=_cuda_line(),
        triton=triton,
        fallbacks=dict(fallbacks),
    )
