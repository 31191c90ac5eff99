"""A kernel proves itself before its first use on a GPU: on a small problem of integers
(selftest/problems.py), whose result it must compute exactly, or it is left out, with its reason.

That happens once for each kernel and device of a process, where seen_on_gpu.py does not list the
algorithm for the device's compute capability, and takes some milliseconds; Triton compiles first.
dispatch.select asks for all kernels of a call, those of backward included, so that another backend
or ATen can take it; a backend that is named raises the reason. Backends ask again, with the very
tensors, when a kernel starts, except in calls that are prepared, which one that started went
before: a call that torch.compile recorded, or one of unusual strides, raises then.

Nothing is checked while something is traced, or where FASTCONV_SELFTEST=0. While the current stream
is captured into a CUDA graph no check can run: what was not checked before is not used.

An error that destroys the GPU's context, and a kernel that never ends, destroy this process all the
same: `fastconv selftest` finds those.
"""

import contextlib
import functools
import logging
import threading
import time

import torch

from .backends.base import constant_while_compiling
from .seen_on_gpu import is_seen
from .variables import is_off

_log = logging.getLogger(__name__)

FAMILIES = ("cuda", "triton")  # of backends that run on GPUs

# (index of the device, family of backends, Kernel) -> why it is left out; None: it is not.
_verdicts: dict = {}
_one_at_a_time = threading.Lock()
_this_thread = threading.local()
_CAPTURED = (
    "it was not checked on this device before a CUDA graph was captured: call it once before"
)


def capability(device):
    """(major, minor) of a GPU's compute capability; None of another device."""
    return torch.cuda.get_device_capability(device) if device.type == "cuda" else None


def applies(device):
    """Whether kernels are to prove themselves on a device, before this thread uses them."""
    if capability(device) is None or is_off("FASTCONV_SELFTEST"):
        return False
    return not getattr(_this_thread, "is_checking", False)


def family_of(backend):
    return backend.name.partition(":")[0]


def refusal(backend, kernels, device):
    """Why one of these Kernels of a backend is left out on a device, or None; they are checked if
    they have not been."""
    for kernel in kernels:
        if reason := _verdict(backend, kernel, device):
            return f"{kernel} is left out on {device}: {reason}"
    return None


def require(backend, kernel, device):
    """NotImplementedError where a Kernel is left out on a device."""
    if reason := refusal(backend, (kernel,), device):
        raise NotImplementedError(f"backend {backend.name}: {reason}")


def left_out():
    """{"cuda direct fprop float32 on device 0": reason} of all that failed in this process."""
    return {
        f"{family} {kernel} on device {index or 0}": reason
        for (index, family, kernel), reason in dict(_verdicts).items()
        if reason is not None
    }


@constant_while_compiling
def known_refusal(family, index):
    """Why a family of backends is not chosen while something is traced, when sizes may be symbolic:
    the reason of any of its kernels that was left out on the device, or None."""
    for (at, of, kernel), reason in dict(_verdicts).items():
        if reason is not None and (at, of) == (index, family):
            return f"{kernel} is left out on device {index or 0}: {reason}"
    return None


def _verdict(backend, kernel, device):
    key = (device.index, family_of(backend), kernel)
    if key in _verdicts:
        return _verdicts[key]
    if is_seen(capability(device), key[1], kernel.algorithm):
        return None
    if _is_captured(device):
        return _CAPTURED
    with _one_at_a_time:
        if key not in _verdicts:
            begin = time.perf_counter()
            try:
                reason = _in_a_fresh_thread(lambda: _check(backend, kernel, device))
            except torch.cuda.OutOfMemoryError:
                return "no memory is left to check it"
            _verdicts[key] = reason
            took = f"checked in {1e3 * (time.perf_counter() - begin):.1f} ms"
            if reason is None:
                _log.debug("%s %s on %s: %s", key[1], kernel, device, took)
            else:
                _log.warning("%s %s is left out on %s: %s", key[1], kernel, device, reason)
    return _verdicts[key]


def _is_captured(device):
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):
        return torch.cuda.is_current_stream_capturing()


def _check(backend, kernel, device):
    """What is wrong with a kernel, or None."""
    from .selftest.trial import find

    try:
        with _own_stream(device):
            return find(backend, kernel, device).wrong()
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception as error:  # whatever a kernel, a compiler or a driver says is a reason
        return f"{type(error).__name__}: {error}"


@contextlib.contextmanager
def _own_stream(device):
    """Work that others have enqueued is not waited for."""
    if device.type != "cuda":
        yield
        return
    with torch.cuda.device(device), torch.cuda.stream(_stream(device)):
        yield


@functools.cache
def _stream(device):
    """One for all checks of a device: torch keeps the memory that each stream has used."""
    return torch.cuda.Stream(device)


def _in_a_fresh_thread(function):
    """function() in a thread of its own, where none of the caller's modes, transforms, autocast,
    gradients, default devices and streams are active."""
    outcome = []

    def run():
        _this_thread.is_checking = True
        try:
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=run, name="fastconv first use", daemon=True)
    thread.start()
    thread.join()
    result, error = outcome[0]
    if error is not None:
        raise error
    return result
