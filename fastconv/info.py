"""fastconv.info(): what this installation can run, and why it cannot run the rest."""

import platform

import torch

from . import first_use
from ._native import core, cuda, cuda_missing
from .backends import BACKENDS
from .backends.triton import launch as triton_launch
from .dispatch import fallbacks


class Info(dict):
    """A dict that prints as a list of `name: value` lines."""

    def __str__(self) -> str:
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


def _triton_line():
    if reason := triton_launch.missing_reason():
        return f"not available: {reason}"
    from triton import __version__

    if triton_launch.device_type() == "cpu":
        return f"interpreted: {__version__} runs the kernels on CPU tensors (TRITON_INTERPRET=1)"
    if not torch.cuda.is_available():
        return f"{__version__}; no device can be used here"
    if reason := triton_launch.unusable_reason("cuda"):
        return f"not available: {__version__} {reason}"
    return f"available: {__version__}"


def _tuned_line():
    if triton_launch.missing_reason():
        return "none"
    path = triton_launch.kernels("tuning").choices(triton_launch.current_device()).path
    return str(path) if path is not None and path.exists() else "none"


def info() -> Info:
    """Versions, backends and the reasons for what is missing.

    Returns:
        A dict that prints well, with the keys fastconv, torch, python, instruction_set (of the CPU
        kernels), threads, backends (names that `backend=` takes), cuda and triton ("available" or
        the reason), tuned (the file of what FASTCONV_AUTOTUNE=1 found for Triton on this device, or
        "none"), left_out (kernel -> why it failed its check at its first use on a GPU in this
        process), fallbacks (reason -> number of calls of this process that went to ATen).
    """
    from . import __version__

    return Info(
        fastconv=__version__,
        torch=torch.__version__,
        python=platform.python_version(),
        instruction_set=core.instruction_set(),
        threads=torch.get_num_threads(),
        backends=", ".join(sorted(BACKENDS)),
        cuda=_cuda_line(),
        triton=_triton_line(),
        tuned=_tuned_line(),
        left_out=first_use.left_out(),
        fallbacks=dict(fallbacks),
    )
