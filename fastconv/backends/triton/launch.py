"""Whether the Triton kernels can run, and on which tensors. Nothing here needs triton before the
first call of one of these functions."""

import functools
import importlib
import importlib.util
import re

import torch

from ...problem import memory_format
from ..base import constant_while_compiling

OLDEST = (3, 4)
_OLDEST_CAPABILITY = (8, 0)
# The interpreter runs programs one by one: large tiles and few slices suit it.
_INTERPRETED_SM_COUNT = 2


@functools.cache
def missing_reason():
    """Why there are no Triton kernels in this process, or None."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    try:
        import triton
    except Exception as error:  # whatever is wrong with an installation is a reason, not our error
        return f"triton could not be imported: {error}"
    version = re.match(r"(\d+)\.(\d+)", triton.__version__)
    if version is None or tuple(map(int, version.groups())) < OLDEST:
        return f"needs triton {OLDEST[0]}.{OLDEST[1]} or later, found {triton.__version__}"
    language = kernels("device.language")
    if isinstance(language.widen, triton.JITFunction) == language.IS_INTERPRETED:
        return "TRITON_INTERPRET was changed after triton was imported (fastconv imports it, too)"
    return None


def kernels(stem):
    """The module fastconv.triton_kernels.<stem>."""
    return importlib.import_module(f"fastconv.triton_kernels.{stem}")


@functools.cache
def device_type():
    """The type of the tensors that the kernels take; only where missing_reason() is None."""
    return "cpu" if kernels("device.language").IS_INTERPRETED else "cuda"


@constant_while_compiling  # compilers need not read how it is found out
def unusable_reason(device, index=None):
    """Why the kernels cannot run tensors of a device type, or None. `index` is the device's, None
    for the one in use."""
    if (reason := missing_reason()) is not None:
        return reason
    if device not in (device_type(), "meta"):
        if device == "cpu":
            return (
                "runs CPU tensors only where TRITON_INTERPRET=1 is set before triton and fastconv "
                "are imported"
            )
        return f"runs tensors on {device_type()}, got device {device}"
    if device != "cuda":
        return None
    return _gpu_reason(torch.cuda.current_device() if index is None else index)


@functools.cache
def _gpu_reason(index):
    if torch.version.hip is not None:
        return "torch is built for ROCm, the kernels for NVIDIA's GPUs"
    capability = torch.cuda.get_device_capability(index)
    if capability < _OLDEST_CAPABILITY:
        return f"needs compute capability 8.0, the device has {capability[0]}.{capability[1]}"
    return None


def current_device():
    """The index of the CUDA device in use; None is the interpreter, or no device at all."""
    if device_type() == "cpu" or not torch.cuda.is_available():
        return None
    return torch.cuda.current_device()


@functools.cache
def sm_count(index):
    """Multiprocessors of a CUDA device; None is the interpreter."""
    if index is None:
        return _INTERPRETED_SM_COUNT
    return torch.cuda.get_device_properties(index).multi_processor_count


def without_memory(size, channels_last):
    """A dense 4-D tensor that has sizes and strides only: what plans are made for."""
    return torch.empty(size, device="meta", memory_format=memory_format(channels_last))
