"""What fastconv is timed against: torch as it comes, with one of its libraries, or compiled."""

import warnings
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from typing import NamedTuple

import torch
import torch._functorch.config

from ..._native import cuda
from ...backends.base import is_convolution
from ..cases.operators import ours, theirs
from .onnx_network import OnnxNetwork, missing_packages

OURS = "fastconv"
# What --baseline takes -> the devices that have it.
BASELINES = {
    "torch": ("cpu", "cuda"),
    "cudnn": ("cuda",),
    "aten": ("cpu", "cuda"),
    "compile": ("cpu", "cuda"),
    "onednn": ("cpu",),
    "onnxruntime": ("cpu",),
}
DEFAULT = {"cpu": ["torch"], "cuda": ["cudnn"]}


class Baseline(NamedTuple):
    """One side that fastconv is timed against."""

    name: str
    settings: Callable  # () -> a context; fastconv is timed in it too, for it obeys allow_tf32
    compiled: bool = False  # by torch.compile
    exported: bool = False  # to onnxruntime: networks alone
    backend: str | None = None  # of fastconv, where that is the other side

    def function(self, case):
        """This side's function of (x, *parameters) for a case."""
        if self.backend is not None:
            return ours(case)
        return compiled(theirs(case)) if self.compiled else theirs(case)

    def network(self, network, x):
        """This side's network."""
        if self.exported:
            return OnnxNetwork(network, x)
        return compiled(network) if self.compiled else network


def compiled(function):
    """torch.compile for the sizes it is called with, whatever was compiled before.

    Without the reset the functions of two cases count as one function's recompilations, of which
    torch allows few before it falls back to eager mode without a word.
    """
    torch.compiler.reset()
    return torch.compile(function, fullgraph=True, dynamic=False)


def _cudnn(layout, allow_tf32, enabled=True):
    # In channels_last cuDNN may search for its fastest algorithm; in NCHW it has torch's defaults,
    # as in most programs.
    return lambda: torch.backends.cudnn.flags(
        enabled=enabled,
        benchmark=layout == "channels_last",
        deterministic=False,
        allow_tf32=allow_tf32,
    )


@contextmanager
def _mkldnn(enabled):
    with warnings.catch_warnings():
        # flags() writes the TF32 setting of Intel's GPUs back; torch warns where there are none.
        warnings.filterwarnings("ignore", "TF32 acceleration on top of oneDNN")
        with torch.backends.mkldnn.flags(enabled=enabled):
            yield


def _compiled(case, settings):
    @contextmanager
    def enter():
        # A compiled backward pass may overwrite what its forward pass has saved; but a case's
        # backward pass is timed again and again after one forward pass.
        with settings(), torch._functorch.config.patch(donated_buffer=False):
            yield

    return Baseline(
        "torch.compile", settings if case.op in ("network", "call") else enter, compiled=True
    )


def _on_cpu(name, case):
    if name == "torch":
        yield Baseline("torch", nullcontext)
    elif name == "onednn":
        yield Baseline("oneDNN", lambda: _mkldnn(True))
    elif name == "aten":
        yield Baseline("ATen", lambda: _mkldnn(False))
    elif name == "onnxruntime":
        yield Baseline("onnxruntime", nullcontext, exported=True)
    else:
        yield _compiled(case, nullcontext)


def _on_cuda(name, case):
    convolves = is_convolution(case.op) or case.op == "network"
    if name == "compile":
        yield _compiled(case, _cudnn(case.layout, case.dtype != "float32"))
    elif case.op == "call":
        yield Baseline("torch", nullcontext)
    elif not convolves:
        yield Baseline("ATen", nullcontext)
    elif name == "aten":
        yield Baseline("ATen", _cudnn(case.layout, False, enabled=False))
    elif case.dtype == "float32":
        # torch's default lets cuDNN round float32 inputs to TF32's 10 bits: another precision,
        # hence another pair.
        yield Baseline("cuDNN", _cudnn(case.layout, False))
        yield Baseline("cuDNN TF32", _cudnn(case.layout, True))
    else:
        yield Baseline("cuDNN", _cudnn(case.layout, True))


def baselines(case, device, backend=None, names=None):
    """The Baselines of a case, each row's other side.

    Args:
        device: "cpu" or "cuda".
        backend: the one of fastconv that is measured; "triton" has our CUDA kernels as one more.
        names: of BASELINES; None: torch as it comes.
    """
    on_device = _on_cpu if device == "cpu" else _on_cuda
    found = {b.name: b for name in names or DEFAULT[device] for b in on_device(name, case)}
    if backend == "triton" and cuda is not None and case.op not in ("network", "call"):
        last = [*found.values()][-1]
        name = OURS + " CUDA" + (" TF32" if last.name.endswith("TF32") else "")
        found[name] = Baseline(name, last.settings, backend="cuda")
    return [*found.values()]


def why_impossible(names, device):
    """What is wrong with the wish for these baselines, by name, or None."""
    for name in names:
        if device not in BASELINES[name]:
            return f"{name} is no baseline on device {device}"
    if "onednn" in names and not torch.backends.mkldnn.is_available():
        return "onednn: this torch was built without it"
    if "onnxruntime" in names and (missing := missing_packages()):
        return f"onnxruntime: pip install '.[onnx]' brings {', '.join(missing)}"
    if "cudnn" in names and not torch.backends.cudnn.is_available():
        return "cudnn: this torch was built without it"
    if "compile" in names:
        try:
            compiled(torch.relu)(torch.ones(1, device=device))
        except Exception as error:  # no compiler, an unsupported Python: whatever it may be
            reason = str(error).strip().splitlines()[0]
            return f"compile: torch.compile does not work here: {reason}"
    return None
