"""What every part of fastconv knows about a problem: sizes, layouts, dtypes, TF32.

ConvProblem and PoolProblem are the native core's. The output-size formulas have a twin here because
symbolic sizes (torch.compile, export) cannot be handed to C++; tests/test_problem.py holds the
twins equal.
"""

import torch

from ._native import core

ConvProblem = core.ConvProblem
PoolProblem = core.PoolProblem
AdaptivePoolProblem = core.AdaptivePoolProblem
ConvOp = core.ConvOp

# The dtypes that there are kernels for.
DTYPES = {
    torch.float64: core.DType.float64,
    torch.float32: core.DType.float32,
    torch.float16: core.DType.float16,
    torch.bfloat16: core.DType.bfloat16,
}


def conv_out_size(size, kernel, stride, pad, dilation):
    """Output positions along one axis, as in torch.nn.Conv2d; not clamped at 0."""
    return (size + 2 * pad - dilation * (kernel - 1) - 1) // stride + 1


def conv_transpose_out_size(size, kernel, stride, pad, dilation, output_padding):
    """Output positions along one axis, as in torch.nn.ConvTranspose2d; not clamped at 0."""
    return (size - 1) * stride - 2 * pad + dilation * (kernel - 1) + output_padding + 1


def pool_out_size(size, kernel, stride, pad, dilation, ceil_mode):
    """Output positions along one axis, as in torch.nn.MaxPool2d; not clamped at 0."""
    slack = size + 2 * pad - dilation * (kernel - 1) - 1
    if not ceil_mode:
        return slack // stride + 1
    out = (slack + stride - 1) // stride + 1
    # A window that would start in the padding on the far side is dropped.
    return out - 1 if (out - 1) * stride >= size + pad else out


def suggests_channels_last(tensor):
    """Whether a 4-D tensor's strides are those of channels_last, or a 5-D one's those of
    channels_last_3d, as torch decides it.

    Strides must not decrease in the order C, W, H, N, with D before N. Where one size of 1 makes
    both readings possible the answer is no. The rule of c10::is_channels_last_strides_2d and _3d,
    over symbolic sizes.
    """
    sizes, strides = tensor.shape, tensor.stride()
    if strides[1] == 0:
        return False
    least = 0
    for axis in (1, *range(len(sizes) - 1, 1, -1), 0):
        if sizes[axis] == 0 or strides[axis] < least:
            return False
        if axis == 0 and least == strides[1]:
            return False
        least = strides[axis] * (sizes[axis] if sizes[axis] > 1 else 1)
    return True


def memory_format(channels_last):
    return torch.channels_last if channels_last else torch.contiguous_format


def allows_tf32():
    """Whether convolutions of float32 may round their inputs to TF32: cuDNN's setting in torch."""
    getter = getattr(torch._C, "_get_fp32_precision_getter", None)
    if getter is None:  # torch < 2.9
        return torch.backends.cudnn.allow_tf32
    return getter("cuda", "conv") == "tf32"
