"""A BatchNorm that no longer learns becomes part of the convolution before it."""

import torch
import torch.nn as nn


def scale_and_shift(mean, var, weight, bias, eps):
    """The factors and summands, (scale, shift), of a BatchNorm with constant statistics; weight and
    bias may be None. Computed in float32 or wider: in float16 a small eps would be 0."""
    wide = torch.promote_types(var.dtype, torch.float32)
    scale = torch.rsqrt(var.to(wide) + eps)
    if weight is not None:
        scale = scale * weight
    shift = -mean * scale
    return scale, shift if bias is None else shift + bias


def scaled_filters(conv, scale):
    """The weight of a convolution with each of its K filters times a factor. A transposed one's lie
    along dimension 1, those of a group beside each other."""
    if not conv.transposed:
        return conv.weight * scale.view(-1, *[1] * (conv.weight.dim() - 1))
    groups = conv.weight.unflatten(0, (conv.groups, -1))
    factors = scale.view(conv.groups, 1, -1, *[1] * (conv.weight.dim() - 2))
    return (groups * factors).flatten(0, 1)


def fold_batch_norm(
    conv: nn.Conv1d | nn.Conv2d | nn.ConvTranspose1d | nn.ConvTranspose2d,
    norm: nn.BatchNorm1d | nn.BatchNorm2d,
) -> None:
    """Multiplies a BatchNorm with its running statistics into the convolution before it, in place.

        w[k] *= scale[k],  b[k] = b[k] * scale[k] + shift[k]

    with scale and shift as in fastconv.nn.FrozenBatchNorm2d (Ioffe and Szegedy 2015), computed in
    float64 and rounded once. It holds for batches: the channels of a BatchNorm1d are the second
    axis, which in an unbatched result, (K, Q), are the pixels.

    Args:
        conv: a convolution of torch.nn or fastconv along one axis or two with K filters; gets a
            bias where it has none.
        norm: a torch.nn.BatchNorm1d or BatchNorm2d of K channels with running statistics.

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
    fold_constants(conv, norm.running_mean, norm.running_var, norm.weight, norm.bias, norm.eps)


def fold_constants(conv, mean, var, weight, bias, eps):
    """fold_batch_norm for a BatchNorm given by its tensors of K elements; weight and bias may be
    None."""
    with torch.no_grad():
        scale, shift = scale_and_shift(mean.double(), var.double(), weight, bias, eps)
        if conv.bias is not None:
            shift = shift + conv.bias * scale
        filters = scaled_filters(conv, scale)
        like = conv.weight
        conv.weight = nn.Parameter(
            torch.empty_like(like).copy_(filters), requires_grad=like.requires_grad
        )
        conv.bias = nn.Parameter(shift.to(like.dtype), requires_grad=like.requires_grad)
