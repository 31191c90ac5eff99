"""16-byte accesses. The compiler moves neighbours together where it can prove that they are
adjacent, aligned and masked alike: the host looks at sizes and strides, and the kernel repeats as
arithmetic what it found. (Triton itself only tells multiples of 16 from other numbers.)"""

import math

import triton
import triton.language as tl

_BYTES = 16


def channel_vector(tensor, channels):
    """The constexpr: how many channels, of a group of `channels`, may move at once."""
    if tensor.stride(1) != 1:
        return 1
    strides = (tensor.stride(axis) for axis in (0, 2, 3) if tensor.shape[axis] > 1)
    return math.gcd(_BYTES // tensor.dtype.itemsize, channels, *strides)


def rows_join(tensor):
    """Whether planes are one row."""
    return tensor.shape[2] == 1 or tensor.stride(2) == tensor.shape[3] * tensor.stride(3)


def pixel_vector(tensor):
    """The constexpr: how many pixels of a plane may move at once."""
    if tensor.stride(3) != 1 or not rows_join(tensor):
        return 1
    strides = (tensor.stride(axis) for axis in (0, 1) if tensor.shape[axis] > 1)
    return math.gcd(_BYTES // tensor.dtype.itemsize, tensor[0, 0].numel(), *strides)


@triton.jit
def multiple_of(number, VECTOR: tl.constexpr):
    """A number of which the host knows that VECTOR divides it, or that nothing depends on it."""
    return number // VECTOR * VECTOR


@triton.jit
def strides_multiple_of(
    stride_n, stride_c, stride_h, stride_w, PIXELS_INNER: tl.constexpr, VECTOR: tl.constexpr
):
    """Strides of a tensor of which VECTOR neighbours move at once: what is not the neighbours' own
    stride is a multiple of it."""
    stride_n = multiple_of(stride_n, VECTOR)
    if PIXELS_INNER:
        stride_c = multiple_of(stride_c, VECTOR)
    else:
        stride_h = multiple_of(stride_h, VECTOR)
        stride_w = multiple_of(stride_w, VECTOR)
    return stride_n, stride_c, stride_h, stride_w
