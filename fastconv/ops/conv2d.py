"""The convolution operators: fprop (with its epilogue), dgrad, wgrad, the transposed convolution,
which is dgrad with an epilogue, and the epilogue's backward.

Sizes: x (N,C,H,W), w (K,C/groups,R,S), b (K), y and residual (N,K,P,Q), gradients like what they
are gradients of. Ops are functional: they return new tensors and change none.
"""

import torch
from torch import Tensor
from torch.utils.flop_counter import register_flop_formula

from ..backends import BACKENDS
from ..geometry import Conv2dGeometry, ConvTranspose2dGeometry
from ..problem import memory_format, suggests_channels_last
from .library import define_op

_GEOMETRY = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups"


def _run_fprop(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    residual: Tensor | None,
    geometry: Conv2dGeometry,
    activation: str,
    backend: str,
) -> Tensor:
    return BACKENDS[backend].conv2d_fprop(x, w, b, residual, geometry, activation)


def _fake_fprop(x, w, b, residual, geometry, activation, backend):
    channels_last = suggests_channels_last(x) or suggests_channels_last(w)
    return torch.empty(
        (x.shape[0], w.shape[0], *geometry.out_plane(x.shape, w.shape)),
        dtype=x.dtype,
        device=x.device,
        memory_format=memory_format(channels_last),
    )


def _run_dgrad(
    dy: Tensor,
    w: Tensor,
    x_size: tuple[int, ...],
    channels_last: bool,
    geometry: Conv2dGeometry,
    backend: str,
) -> Tensor:
    return BACKENDS[backend].conv2d_dgrad(dy, w, x_size, channels_last, geometry)


def _run_wgrad(
    dy: Tensor,
    x: Tensor,
    w_size: tuple[int, ...],
    channels_last: bool,
    geometry: Conv2dGeometry,
    backend: str,
) -> Tensor:
    return BACKENDS[backend].conv2d_wgrad(dy, x, w_size, channels_last, geometry)


def _fake_gradient(dy, other, size, channels_last, geometry, backend):
    return torch.empty(
        size, dtype=dy.dtype, device=dy.device, memory_format=memory_format(channels_last)
    )


def _run_conv_transpose2d(
    x: Tensor,
    w: Tensor,
    b: Tensor | None,
    residual: Tensor | None,
    geometry: ConvTranspose2dGeometry,
    activation: str,
    backend: str,
) -> Tensor:
    return BACKENDS[backend].conv_transpose2d(x, w, b, residual, geometry, activation)


def _fake_conv_transpose2d(x, w, b, residual, geometry, activation, backend):
    channels_last = suggests_channels_last(x) or suggests_channels_last(w)
    return torch.empty(
        geometry.out_size(x.shape, w.shape),
        dtype=x.dtype,
        device=x.device,
        memory_format=memory_format(channels_last),
    )


def _run_epilogue_backward(
    dy: Tensor, saved: Tensor, activation: str, backend: str
) -> tuple[Tensor, Tensor]:
    return BACKENDS[backend].epilogue_backward(dy, saved, activation)


def _run_bias_grad(dy: Tensor, backend: str) -> Tensor:
    return BACKENDS[backend].bias_grad(dy)


def _run_activation_forward(z: Tensor, activation: str, backend: str) -> Tensor:
    return BACKENDS[backend].activation_forward(z, activation)


def _like(tensor):
    return torch.empty(
        tensor.shape,
        dtype=tensor.dtype,
        device=tensor.device,
        memory_format=memory_format(suggests_channels_last(tensor)),
    )


conv2d_fprop = define_op(
    f"conv2d_fprop(Tensor x, Tensor w, Tensor? b, Tensor? residual, {_GEOMETRY}, str activation, "
    "str backend) -> Tensor",
    _run_fprop,
    _fake_fprop,
    Conv2dGeometry,
)
conv2d_dgrad = define_op(
    f"conv2d_dgrad(Tensor dy, Tensor w, SymInt[] x_size, bool channels_last, {_GEOMETRY}, "
    "str backend) -> Tensor",
    _run_dgrad,
    _fake_gradient,
    Conv2dGeometry,
)
conv2d_wgrad = define_op(
    f"conv2d_wgrad(Tensor dy, Tensor x, SymInt[] w_size, bool channels_last, {_GEOMETRY}, "
    "str backend) -> Tensor",
    _run_wgrad,
    _fake_gradient,
    Conv2dGeometry,
)
conv_transpose2d = define_op(
    f"conv_transpose2d(Tensor x, Tensor w, Tensor? b, Tensor? residual, {_GEOMETRY}, "
    "SymInt[] output_padding, str activation, str backend) -> Tensor",
    _run_conv_transpose2d,
    _fake_conv_transpose2d,
    ConvTranspose2dGeometry,
)
epilogue_backward = define_op(
    "epilogue_backward(Tensor dy, Tensor saved, str activation, str backend) -> (Tensor, Tensor)",
    _run_epilogue_backward,
    lambda dy, saved, activation, backend: (_like(saved), dy.new_empty(dy.shape[1])),
)
bias_grad = define_op(
    "bias_grad(Tensor dy, str backend) -> Tensor",
    _run_bias_grad,
    lambda dy, backend: dy.new_empty(dy.shape[1]),
)
activation_forward = define_op(
    "activation_forward(Tensor z, str activation, str backend) -> Tensor",
    _run_activation_forward,
    lambda z, activation, backend: _like(z),
)


def _flops(y_size, w_size):
    N, K, P, Q = y_size
    return 2 * N * K * P * Q * w_size[1] * w_size[2] * w_size[3]


@register_flop_formula(conv2d_fprop.overload.overloadpacket)
def _flops_fprop(x_size, w_size, *args, out_shape=None, **kwargs):
    return _flops(out_shape, w_size)


@register_flop_formula(conv2d_dgrad.overload.overloadpacket)
def _flops_dgrad(dy_size, w_size, *args, out_shape=None, **kwargs):
    return _flops(dy_size, w_size)


@register_flop_formula(conv_transpose2d.overload.overloadpacket)
def _flops_conv_transpose2d(x_size, w_size, *args, out_shape=None, **kwargs):
    return _flops(x_size, w_size)


@register_flop_formula(conv2d_wgrad.overload.overloadpacket)
def _flops_wgrad(dy_size, x_size, *args, out_shape=None, **kwargs):
    return _flops(dy_size, out_shape)
