"""Each timed operator twice: fastconv's and torch's, as a user would call them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

import fastconv

from .cases import DTYPES, LAYOUTS

# The argument a pass takes the gradient of; None for the forward pass.
WANTED = {"fprop": None, "fwd": None, "dgrad": 0, "bwd": 0, "wgrad": 1}


def _geometry(shape):
    return (shape.stride, shape.pad, shape.dilation, shape.groups)


# Attributes of the package are looked up at the call: a test replaces one by a wrong kernel.
_OURS = {
    "conv2d": lambda o, x, w: fastconv.conv2d(x, w, None, *_geometry(o)),
    "conv2d+bias+relu": lambda o, x, w, b: fastconv.conv2d(
        x, w, b, *_geometry(o), activation="relu"
    ),
    "max_pool2d": lambda o, x: fastconv.max_pool2d(x, o.R, o.stride, o.pad),
    "avg_pool2d": lambda o, x: fastconv.avg_pool2d(x, o.R, o.stride, o.pad),
    "adaptive_avg_pool2d": lambda o, x: fastconv.adaptive_avg_pool2d(x, 1),
}
_TORCH = {
    "conv2d": lambda o, x, w: F.conv2d(x, w, None, *_geometry(o)),
    # In place, as networks write it: the cheapest ReLU that eager torch has.
    "conv2d+bias+relu": lambda o, x, w, b: F.relu_(F.conv2d(x, w, b, *_geometry(o))),
    "max_pool2d": lambda o, x: F.max_pool2d(x, o.R, o.stride, o.pad),
    "avg_pool2d": lambda o, x: F.avg_pool2d(x, o.R, o.stride, o.pad),
    "adaptive_avg_pool2d": lambda o, x: F.adaptive_avg_pool2d(x, 1),
}


def ours(case):
    """fastconv's function of (x, *parameters) for a case."""
    return lambda *tensors: _OURS[case.op](case.shape, *tensors)


def theirs(case):
    """torch's function of (x, *parameters) for a case."""
    return lambda *tensors: _TORCH[case.op](case.shape, *tensors)


@dataclass
class Inputs:
    """The tensors of one case: (x, *parameters), and dy for a backward pass."""

    tensors: tuple
    dy: torch.Tensor | None


def make_inputs(case, device, seed=0):
    """Random inputs of a case: x and dy normal, w scaled so that y is of order 1."""
    generator = torch.Generator(device).manual_seed(seed)
    layout, dtype, o = LAYOUTS[case.layout], DTYPES[case.dtype], case.shape

    def normal(*size, scale=1.0):
        values = torch.randn(size, generator=generator, device=device, dtype=torch.float32) * scale
        values = values.to(dtype)
        return values.contiguous(memory_format=layout) if len(size) == 4 else values

    tensors = [normal(o.N, o.C, o.H, o.W)]
    if case.op.startswith("conv2d"):
        taps = o.C // o.groups * o.R * o.S
        tensors.append(normal(o.K, o.C // o.groups, o.R, o.S, scale=taps**-0.5))
        if case.op.endswith("relu"):
            tensors.append(normal(o.K))
    wanted = WANTED[case.pass_]
    if wanted is None:
        return Inputs(tuple(tensors), None)
    tensors[wanted].requires_grad_()
    return Inputs(tuple(tensors), normal(*o.out_size()))


def make_call(function, inputs):
    """A call without arguments that runs the pass once and returns its result.

    A backward pass asks autograd for the one gradient that is wanted, so that each side computes
    that one and no other; the forward pass is run here, once, and kept.
    """
    if inputs.dy is None:
        return lambda: function(*inputs.tensors)
    y = function(*inputs.tensors)
    wanted = next(tensor for tensor in inputs.tensors if tensor.requires_grad)
    return lambda: torch.autograd.grad(y, wanted, inputs.dy, retain_graph=True)[0]
