"""The activations, each with all that Python has to know of it. Their names are declared in
csrc/problem/epilogue.h; importing this module fails where the two lists differ.

A call names its activation by a string: "leaky_relu", or "leaky_relu(0.2)" with a parameter other
than torch's default. Here alone the string is taken apart.
"""

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ._native import core

_aten = torch.ops.aten


@dataclass(frozen=True)
class Activation:
    """One activation. `*parameter` is its parameter, or nothing where it has none."""

    name: str
    function: Callable[..., Tensor]  # torch's, of (z, *parameter): the meaning
    in_place: Callable[..., Tensor]  # the same as networks write it, in place where torch has that
    module: type[nn.Module]  # torch's
    backward: Callable[..., Tensor]  # ATen's operators, of (dy, saved, *parameter)
    curvature: Callable[..., Tensor] | None  # second derivative at (z, *parameter); None if it is 0
    also: tuple = ()  # other functions of torch with this meaning
    methods: tuple[str, ...] = ()  # a tensor's with this meaning
    parameter: str = ""  # torch's name of it
    default: tuple[float, ...] = ()
    # Whether the slope can be told from y = activation(z), of (*parameter): backward then reads y,
    # which is kept in any case, else z.
    saves_result: Callable[..., bool] = lambda *parameter: False


def _silu_curvature(z):
    s = torch.sigmoid(z)
    return s * (1 - s) * (2 + z * (1 - 2 * s))


def _gelu_curvature(z):
    return torch.exp(-0.5 * z * z) * ((2 - z * z) / math.sqrt(2 * math.pi))


def _elu_curvature(z, alpha):
    return torch.where(z <= 0, alpha * torch.exp(z.clamp(max=0)), 0)


def _mish_curvature(z):
    s, t = torch.sigmoid(z), torch.tanh(F.softplus(z))
    return s * (1 - t * t) * (2 + z * (1 - s - 2 * s * t))


def _sigmoid_curvature(z):
    s = torch.sigmoid(z)
    return s * (1 - s) * (1 - 2 * s)


def _tanh_curvature(z):
    t = torch.tanh(z)
    return -2 * t * (1 - t * t)


ACTIVATIONS = {
    activation.name: activation
    for activation in (
        Activation(
            name="relu",
            function=F.relu,
            in_place=F.relu_,
            module=nn.ReLU,
            backward=lambda dy, y: _aten.threshold_backward(dy, y, 0),
            curvature=None,
            also=(F.relu_, torch.relu, torch.relu_),
            methods=("relu", "relu_"),
            saves_result=lambda: True,
        ),
        Activation(
            name="relu6",
            function=F.relu6,
            in_place=functools.partial(F.relu6, inplace=True),
            module=nn.ReLU6,
            backward=lambda dy, y: _aten.hardtanh_backward(dy, y, 0.0, 6.0),
            curvature=None,
            saves_result=lambda: True,
        ),
        Activation(
            name="silu",
            function=F.silu,
            in_place=functools.partial(F.silu, inplace=True),
            module=nn.SiLU,
            backward=_aten.silu_backward,
            curvature=_silu_curvature,
        ),
        Activation(
            name="gelu",
            function=F.gelu,
            in_place=F.gelu,
            module=nn.GELU,
            backward=_aten.gelu_backward,
            curvature=_gelu_curvature,
        ),
        Activation(
            name="hardswish",
            function=F.hardswish,
            in_place=functools.partial(F.hardswish, inplace=True),
            module=nn.Hardswish,
            backward=_aten.hardswish_backward,
            curvature=lambda z: (z.abs() < 3).to(z.dtype) / 3,
        ),
        Activation(
            name="leaky_relu",
            function=F.leaky_relu,
            in_place=F.leaky_relu_,
            module=nn.LeakyReLU,
            backward=lambda dy, saved, slope: _aten.leaky_relu_backward(dy, saved, slope, False),
            curvature=None,
            also=(F.leaky_relu_,),
            parameter="negative_slope",
            default=(0.01,),
            saves_result=lambda slope: slope >= 0,
        ),
        Activation(
            name="elu",
            function=F.elu,
            in_place=F.elu_,
            module=nn.ELU,
            backward=lambda dy, z, alpha: _aten.elu_backward(dy, alpha, 1.0, 1.0, False, z),
            curvature=_elu_curvature,
            also=(F.elu_,),
            parameter="alpha",
            default=(1.0,),
        ),
        Activation(
            name="mish",
            function=F.mish,
            in_place=functools.partial(F.mish, inplace=True),
            module=nn.Mish,
            backward=_aten.mish_backward,
            curvature=_mish_curvature,
        ),
        Activation(
            name="sigmoid",
            function=torch.sigmoid,
            in_place=torch.sigmoid_,
            module=nn.Sigmoid,
            backward=lambda dy, z: _aten.sigmoid_backward(dy, torch.sigmoid(z)),
            curvature=_sigmoid_curvature,
            also=(F.sigmoid, torch.sigmoid_),
            methods=("sigmoid", "sigmoid_"),
        ),
        Activation(
            name="tanh",
            function=torch.tanh,
            in_place=torch.tanh_,
            module=nn.Tanh,
            backward=lambda dy, z: _aten.tanh_backward(dy, torch.tanh(z)),
            curvature=_tanh_curvature,
            also=(F.tanh, torch.tanh_),
            methods=("tanh", "tanh_"),
        ),
        Activation(
            name="hardsigmoid",
            function=F.hardsigmoid,
            in_place=functools.partial(F.hardsigmoid, inplace=True),
            module=nn.Hardsigmoid,
            backward=_aten.hardsigmoid_backward,
            curvature=None,
        ),
    )
}

_declared = core.ActivationKind.__members__.keys() - {"none"}
if _declared != ACTIVATIONS.keys():
    raise ImportError(
        "the activations of fastconv/activations.py and of csrc/problem/epilogue.h, as it was "
        f"compiled, differ: the first lacks {sorted(_declared - ACTIVATIONS.keys())}, the second "
        f"{sorted(ACTIVATIONS.keys() - _declared)}"
    )


def parse(activation: str) -> tuple[Activation, tuple[float, ...]]:
    """The activation that a call names, and its parameter: () where it has none.

    Raises:
        ValueError: an unknown name, a parameter that the activation has not, or one that is no
            finite number.
    """
    if not isinstance(activation, str):
        raise ValueError(f"activation must be None or a name, got {activation!r}")
    if activation in ACTIVATIONS:
        return ACTIVATIONS[activation], ACTIVATIONS[activation].default
    name, _, rest = activation.partition("(")
    if name not in ACTIVATIONS:
        raise ValueError(
            f"activation must be None or one of {sorted(ACTIVATIONS)}, got {activation!r}"
        )
    if not ACTIVATIONS[name].parameter:
        raise ValueError(f"activation {name!r} has no parameter, got {activation!r}")
    number = _number(rest.removesuffix(")"))
    if not rest.endswith(")") or not math.isfinite(number):
        raise ValueError(
            f"activation {name!r} takes {ACTIVATIONS[name].parameter}, a finite number, as in "
            f"'{name}(0.5)', got {activation!r}"
        )
    return ACTIVATIONS[name], (number,)


def _number(text):
    try:
        return float(text)
    except ValueError:
        return math.nan


def spell(activation: Activation, parameter: float | None = None) -> str:
    """The string that a call names an activation by."""
    if parameter is None or (float(parameter),) == activation.default:
        return activation.name
    return f"{activation.name}({float(parameter)!r})"


def by_torch(activation: str, z: Tensor) -> Tensor:
    """activation(z) as torch computes it."""
    found, parameter = parse(activation)
    return found.function(z, *parameter)


def saves_result(activation: str) -> bool:
    """Whether backward reads y = activation(z) and not z."""
    found, parameter = parse(activation)
    return found.saves_result(*parameter)


@functools.lru_cache(maxsize=4096)
def native(activation: str) -> core.Activation:
    """A call's activation, or "none", as the kernels take it."""
    if activation == "none":
        return core.Activation()
    found, parameter = parse(activation)
    return core.Activation(core.ActivationKind.__members__[found.name], *parameter)
