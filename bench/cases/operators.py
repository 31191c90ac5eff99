"""Each timed operator twice: fastconv's and torch's, as a user would call them."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F

import fastconv
from fastconv.activations import ACTIVATIONS
from fastconv.backends.base import is_convolution

from .selection import DTYPES, LAYOUTS

# The argument a pass takes the gradient of; None for the forward pass.
WANTED = {"fprop": None, "fwd": None, "dgrad": 0, "bwd": 0, "wgrad": 1, "bgrad": 2}
# Arguments that hold one piece for each sample: x, residual.
PER_SAMPLE = (0, 3)


def _windows(shape):
    return (shape.kernel_size, shape.stride, shape.pad, shape.dilation)


def _geometry(shape):
    return (shape.stride, shape.pad, shape.dilation, shape.groups)


def _transposed_geometry(shape):
    return (shape.stride, shape.pad, 0, shape.groups, shape.dilation)


# Attributes of the package are looked up at the call: a test replaces one by a wrong kernel.
def _our_fused(activation):
    return lambda shape, x, w, b, residual=None: fastconv.conv2d(
        x, w, b, *_geometry(shape), activation=activation, residual=residual
    )


def _torch_fused(activation):
    def function(shape, x, w, b, residual=None):
        y = F.conv2d(x, w, b, *_geometry(shape))
        # In place where torch has it: the cheapest activations of eager torch.
        return ACTIVATIONS[activation].in_place(y if residual is None else y.add_(residual))

    return function


def _fused_ops(fused):
    ops = {f"conv2d+bias+{name}": fused(name) for name in ACTIVATIONS}
    return ops | {"conv2d+bias+residual+relu": fused("relu")}


_OURS = {
    "conv2d": lambda shape, x, w: fastconv.conv2d(x, w, None, *_geometry(shape)),
    **_fused_ops(_our_fused),
    "conv_transpose2d": lambda shape, x, w: fastconv.conv_transpose2d(
        x, w, None, *_transposed_geometry(shape)
    ),
    "max_pool2d": lambda shape, x: fastconv.max_pool2d(x, *_windows(shape)),
    "max_pool2d+indices": lambda shape, x: fastconv.max_pool2d(
        x, *_windows(shape), return_indices=True
    ),
    "avg_pool2d": lambda shape, x: fastconv.avg_pool2d(x, *_windows(shape)[:3]),
    "adaptive_avg_pool2d": lambda shape, x: fastconv.adaptive_avg_pool2d(x, shape.output_size),
    "adaptive_max_pool2d": lambda shape, x: fastconv.adaptive_max_pool2d(x, shape.output_size),
}
_TORCH = {
    "conv2d": lambda shape, x, w: F.conv2d(x, w, None, *_geometry(shape)),
    **_fused_ops(_torch_fused),
    "conv_transpose2d": lambda shape, x, w: F.conv_transpose2d(
        x, w, None, *_transposed_geometry(shape)
    ),
    "max_pool2d": lambda shape, x: F.max_pool2d(x, *_windows(shape)),
    "max_pool2d+indices": lambda shape, x: F.max_pool2d(x, *_windows(shape), return_indices=True),
    "avg_pool2d": lambda shape, x: F.avg_pool2d(x, *_windows(shape)[:3]),
    "adaptive_avg_pool2d": lambda shape, x: F.adaptive_avg_pool2d(x, shape.output_size),
    "adaptive_max_pool2d": lambda shape, x: F.adaptive_max_pool2d(x, shape.output_size),
}

OPERATORS = tuple(_OURS)


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
    """Random inputs of a case: x and dy normal, w scaled so that y is of order 1.

    For bgrad x, w and b are whole numbers: their sums are exact, so that rounding does not decide
    on which side of 0 a ReLU's input lies, where its derivative jumps.
    """
    whole = case.pass_ == "bgrad"
    generator = torch.Generator(device).manual_seed(seed)
    layout, dtype, shape = LAYOUTS[case.layout], DTYPES[case.dtype], case.shape

    def normal(*size, scale=1.0):
        values = torch.randn(size, generator=generator, device=device, dtype=torch.float32) * scale
        values = values.to(dtype)
        return values.contiguous(memory_format=layout) if len(size) == 4 else values

    tensors = [normal(*shape.in_size())]
    if is_convolution(case.op):
        scale = 1.0 if whole else shape.terms() ** -0.5
        tensors.append(normal(*shape.filter_size(), scale=scale))
        if "+bias" in case.op:
            tensors.append(normal(shape.K))
        if "+residual" in case.op:
            tensors.append(normal(*shape.out_size()))
    if whole:
        tensors = [tensor.round() for tensor in tensors]
    wanted = WANTED[case.pass_]
    if wanted is None:
        return Inputs(tuple(tensors), None)
    tensors[wanted].requires_grad_()
    return Inputs(tuple(tensors), normal(*shape.out_size()))


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
