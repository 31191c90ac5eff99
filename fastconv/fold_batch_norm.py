"""A BatchNorm that no longer learns becomes part of the convolution before it."""

import torch
import torch.nn as nn


def fold_batch_norm(conv, norm):
    """Multiplies a BatchNorm with its running statistics into the convolution before it, in place.

        w[k] *= scale[k],  b[k] = b[k] * scale[k] + shift[k]

    with scale and shift as in fastconv.nn.FrozenBatchNorm2d (Ioffe and Szegedy 2015), computed in
    float64 and rounded once.

    Args:
        conv: a torch.nn.Conv2d with K filters; gets a bias where it has none.
        norm: a torch.nn.BatchNorm2d of K channels with running statistics.

    Raises:
        ValueError: the BatchNorm has no running statistics or another number of channels.
    """
    if norm.running_mean is None:
        raise ValueError("fold_batch_norm(): norm has no running statistics")
    if norm.num_features != conv.out_channels:
        raise ValueError(
            f"fold_batch_norm(): norm has {norm.num_features} channels, conv has "
            f"{conv.out_channels} filters"
        )
    with torch.no_grad():
        scale = torch.rsqrt(norm.running_var.double() + norm.eps)
        if norm.weight is not None:
            scale = scale * norm.weight
        shift = -norm.running_mean * scale
        if norm.bias is not None:
            shift = shift + norm.bias
        if conv.bias is not None:
            shift = shift + conv.bias * scale
        weight = conv.weight * scale.view(-1, 1, 1, 1)
        like = conv.weight
        conv.weight = nn.Parameter(
            torch.empty_like(like).copy_(weight), requires_grad=like.requires_grad
        )
        conv.bias = nn.Parameter(shift.to(like.dtype), requires_grad=like.requires_grad)
