"""What all convolutions share, transposed ones too: that their arguments are tensors, autocast, the
choice of a backend, which activations are part of the call, and what ATen makes of it."""

import torch

from .. import activations
from ..autograd.epilogue import activation_forward
from ..dispatch import is_inference, select
from . import checks


def by_aten(convolve):
    """What `convolve`, torch's function of a convolution, makes of our function's arguments, which
    it checks."""

    def call(*args, activation=None, residual=None, **kwargs):
        _check_activation(activation)
        y = convolve(*args, **kwargs)
        y = y if residual is None else y + residual
        return y if activation is None else activations.by_torch(activation, y)

    return call


def check_kinds(function, input, weight, bias, residual, activation):
    """TypeError unless the tensors are some, ValueError for an unknown activation."""
    checks.image(input, function)
    checks.tensor("weight", weight, function)
    for name, tensor in (("bias", bias), ("residual", residual)):
        if tensor is not None:
            checks.tensor(name, tensor, function)
    _check_activation(activation)


def _check_activation(activation):
    if activation is not None:
        activations.parse(activation)


def autocast(*tensors):
    """Under autocast convolutions run in its dtype; float64 and integers are left alone.

    On devices without kernels of ours ATen sees the call, and its own autocast."""
    device = tensors[0].device.type
    if device not in ("cpu", "cuda") or not torch.is_autocast_enabled(device):
        return tensors
    dtype = torch.get_autocast_dtype(device)
    return tuple(
        t.to(dtype) if t is not None and t.is_floating_point() and t.dtype != torch.float64 else t
        for t in tensors
    )


def check_residual(residual, size, x, function):
    if residual is None or (tuple(residual.shape) == size and residual.dtype == x.dtype):
        return
    raise RuntimeError(
        f"{function}(): expected residual of size {list(size)} and type {x.dtype}, but got size "
        f"{list(residual.shape)} and type {residual.dtype}"
    )


def batched(tensor):
    """An image, or an image without a batch, as a batch; None for None."""
    return tensor if tensor is None or tensor.dim() == 4 else tensor.unsqueeze(0)


def convolve(operator, product, x, w, b, residual, geometry, call, activation, backend):
    """(y, the backend that computed it, whether that was one call), or None where ATen is to.

    Args:
        operator, call, backend: as in dispatch.select.
        product: of autograd/conv2d.py: (x, w, b, residual, geometry, activation, backend) -> y.
        x, residual: with a batch.
    """
    chosen = select(operator, (x, w, b, residual), call, backend)
    if chosen is None:
        return None
    # Where backward needs the activation's input, it is fused only where nobody differentiates.
    fused = (
        activation is None
        or activations.saves_result(activation)
        or is_inference(x, w, b, residual)
    )
    epilogue = activation if activation is not None and fused else "none"
    y = product(x, w, b, residual, geometry, epilogue, chosen)
    if not fused:
        y = activation_forward(y, activation, chosen)
    return y, chosen, fused
