"""The calls whose cost `fastconv bench calls` times. Their tensors are so small that computing
takes next to no time; what remains is to check arguments, choose a kernel, record a derivative.

Each operator is called as a function and as a module, as a user of torch would write it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import nn

import fastconv

from .selection import DTYPES, LAYOUTS
from .shapes import Layer, Pool

PASSES = ("inference", "training step")
FORMS = ("function", "module")


def _layer(name, groups=1):
    return Layer("call", name, 1, 8, 6, 6, 8, 3, 3, 1, 1, 1, groups)


def _pool(name, kind, R=3, stride=2, pad=1):
    return Pool("call", name, kind, 1, 8, 6, 6, R, stride, pad)


# In order of the table.
SHAPES = (
    _layer("conv2d"),
    _layer("conv2d+bias+relu"),
    _layer("depthwise conv2d", groups=8),
    _layer("conv_transpose2d"),
    _pool("max_pool2d", "max"),
    _pool("avg_pool2d", "avg"),
    _pool("adaptive_avg_pool2d", "gap", 6, 1, 0),
    _pool("adaptive_max_pool2d", "gmp", 6, 1, 0),
    Layer("call", "conv1d", 1, 8, 1, 36, 8, 1, 3, 1, (0, 1), 1, 1),
    Layer("call", "conv_transpose1d", 1, 8, 1, 36, 8, 1, 3, 1, (0, 1), 1, 1),
    Pool("call", "max_pool1d", "max", 1, 8, 1, 36, 1, (1, 2), (0, 1), S=3),
    Pool("call", "avg_pool1d", "avg", 1, 8, 1, 36, 1, (1, 2), (0, 1), S=3),
)


def _is_1d(shape):
    """Whether a shape, of one row, is that of an operator along one axis."""
    return shape.name.endswith("1d")


# Names are looked up at the call, as in programs, on both sides.
def _conv2d(functions, shape):
    return lambda x, w, b: functions.conv2d(x, w, b, padding=shape.pad, groups=shape.groups)


def _our_conv_relu(x, w, b):
    return fastconv.conv2d(x, w, b, padding=1, activation="relu")


def _their_conv_relu(x, w, b):
    return F.relu_(F.conv2d(x, w, b, padding=1))


def _function(shape, functions):
    """The function of (x, *parameters): out of `functions`, which is fastconv or F."""
    ours = functions is fastconv
    return {
        "conv2d": _conv2d(functions, shape),
        "conv2d+bias+relu": _our_conv_relu if ours else _their_conv_relu,
        "depthwise conv2d": _conv2d(functions, shape),
        "conv_transpose2d": lambda x, w, b: functions.conv_transpose2d(x, w, b, padding=shape.pad),
        "max_pool2d": lambda x: functions.max_pool2d(x, shape.R, shape.stride, shape.pad),
        "avg_pool2d": lambda x: functions.avg_pool2d(x, shape.R, shape.stride, shape.pad),
        "adaptive_avg_pool2d": lambda x: functions.adaptive_avg_pool2d(x, 1),
        "adaptive_max_pool2d": lambda x: functions.adaptive_max_pool2d(x, 1),
        "conv1d": lambda x, w, b: functions.conv1d(x, w, b, padding=1),
        "conv_transpose1d": lambda x, w, b: functions.conv_transpose1d(x, w, b, padding=1),
        "max_pool1d": lambda x: functions.max_pool1d(x, 3, 2, 1),
        "avg_pool1d": lambda x: functions.avg_pool1d(x, 3, 2, 1),
    }[shape.name]


def _module(shape, modules):
    """The module out of `modules`, which is fastconv or torch.nn."""
    if _is_1d(shape):
        return {
            "conv1d": lambda: modules.Conv1d(shape.C, shape.K, shape.S, padding=1),
            "conv_transpose1d": lambda: modules.ConvTranspose1d(
                shape.C, shape.K, shape.S, padding=1
            ),
            "max_pool1d": lambda: modules.MaxPool1d(3, 2, 1),
            "avg_pool1d": lambda: modules.AvgPool1d(3, 2, 1),
        }[shape.name]()
    if isinstance(shape, Layer):
        if shape.name == "conv_transpose2d":
            return modules.ConvTranspose2d(shape.C, shape.K, shape.R, shape.stride, shape.pad)
        geometry = (shape.C, shape.K, shape.R, shape.stride, shape.pad, 1, shape.groups)
        if shape.name != "conv2d+bias+relu":
            return modules.Conv2d(*geometry)
        if modules is fastconv:
            return fastconv.ConvReLU2d(*geometry)
        return nn.Sequential(nn.Conv2d(*geometry), nn.ReLU(inplace=True))
    return {
        "max": lambda: modules.MaxPool2d(shape.R, shape.stride, shape.pad),
        "avg": lambda: modules.AvgPool2d(shape.R, shape.stride, shape.pad),
        "gap": lambda: modules.AdaptiveAvgPool2d(1),
        "gmp": lambda: modules.AdaptiveMaxPool2d(1),
    }[shape.kind]()


@dataclass(frozen=True)
class CallCase:
    """One operator, called in one form: a line of the table."""

    shape: Layer | Pool
    layer: str  # of FORMS
    pass_: str  # of PASSES
    layout: str
    dtype: str
    op: ClassVar = "call"

    @property
    def family(self):
        return self.shape.name

    @property
    def model(self):
        return self.shape.name

    @property
    def problem(self):
        return self.shape.problem

    @property
    def title(self):
        """What --filter looks at."""
        return (
            f"call {self.model} {self.layer} {self.pass_} {self.layout} {self.dtype} {self.problem}"
        )


@dataclass(frozen=True)
class Contender:
    """One side of a call."""

    function: Callable
    tensors: tuple  # its arguments
    wanted: tuple  # whose gradients a training step computes
    dy: torch.Tensor

    def call(self, is_training):
        """A call without arguments that runs the pass once: y, or the gradients of `wanted`."""
        if not is_training:
            return lambda: self.function(*self.tensors)
        return lambda: torch.autograd.grad(self.function(*self.tensors), self.wanted, self.dy)


def contender(case, library, device, dtype=None):
    """fastconv's or torch's side of a case, the same numbers in every process.

    They are whole, so that convolutions sum them without rounding, and rounding does not decide on
    which side of 0 a ReLU's input lies.

    Args:
        library: fastconv or torch.
        dtype: a torch.dtype; None: the case's.
    """
    shape, dtype = case.shape, dtype or DTYPES[case.dtype]
    generator = torch.Generator().manual_seed(0)

    def whole(size):
        values = torch.randn(size, generator=generator).mul_(2).round_()
        return values.to(device, dtype).requires_grad_()

    layout = LAYOUTS[case.layout]

    def image(size):
        result = whole(size).detach().contiguous(memory_format=layout)
        return result.squeeze(2) if _is_1d(shape) else result

    x = image((shape.N, shape.C, shape.H, shape.W)).requires_grad_(case.pass_ == "training step")
    module = _module(shape, fastconv if library is fastconv else nn)
    module.to(device, dtype)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(whole(parameter.shape))
    module.to(memory_format=layout)
    dy = image(shape.out_size())
    parameters = tuple(module.parameters())
    if case.layer == "module":
        return Contender(module, (x,), (x, *parameters), dy)
    function = _function(shape, fastconv if library is fastconv else F)
    return Contender(function, (x, *parameters), (x, *parameters), dy)


def select_calls(batches, layouts, passes, dtypes, words=(), quick=False):
    """The CallCases of one run.

    Args:
        batches: values of N.
        layouts, passes, dtypes: names; passes that no call has are left out.
        words: texts of which each line's title must contain one; empty: all calls.
        quick: functions alone.
    """
    cases = [
        CallCase(shape.with_batch(batch), form, pass_, layout, dtype)
        for shape in SHAPES
        for batch in batches
        for form in (FORMS[:1] if quick else FORMS)
        for pass_ in PASSES
        if pass_ in passes
        for layout in layouts
        for dtype in dtypes
    ]
    return [c for c in cases if not words or any(word.lower() in c.title for word in words)]
