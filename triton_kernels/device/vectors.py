"""Accesses of up to 16 bytes. The compiler joins the accesses of neighbouring elements only where
it can prove that they are adjacent, aligned and under one mask. About an argument's value Triton
tells it no more than whether 16 divides it. So the host finds what divides sizes and strides, and
passes that as the constexpr VECTOR; multiple_of() then tells the compiler."""

import math

import triton
import triton.language as tl

_BYTES = 16


def channel_vector(tensor, channels):
    """The constexpr VECTOR: how many channels, of a group of `channels`, may move in one access."""
    if tensor.stride(1) != 1:
        return 1
    strides = (tensor.stride(axis) for axis in (0, 2, 3) if tensor.shape[axis] > 1)
    return math.gcd(_BYTES // tensor.dtype.itemsize, channels, *strides)


def rows_join(tensor):
    """Whether a plane lies in memory like one long row."""
    return tensor.shape[2] == 1 or tensor.stride(2) == tensor.shape[3] * tensor.stride(3)


def pixel_vector(tensor):
    """The constexpr VECTOR: how many pixels of a plane may move in one access."""
    if tensor.stride(3) != 1 or not rows_join(tensor):
        return 1
    strides = (tensor.stride(axis) for axis in (0, 1) if tensor.shape[axis] > 1)
    return math.gcd(_BYTES // tensor.dtype.itemsize, tensor[0, 0].numel(), *strides)


@triton.jit
def multiple_of(number, VECTOR: tl.constexpr):
    """The number, which VECTOR divides, in a form that shows this to the compiler. The stride of an
    axis of one position may come out wrong: nothing depends on it."""
    return number // VECTOR * VECTOR


@triton.jit
def strides_multiple_of(
    stride_n, stride_c, stride_h, stride_w, PIXELS_INNER: tl.constexpr, VECTOR: tl.constexpr
):
    """multiple_of() for the strides of a tensor that lead from vector to vector. A vector is of
    pixels where PIXELS_INNER, else of channels."""
    stride_n = multiple_of(stride_n, VECTOR)
    if PIXELS_INNER:
        stride_c = multiple_of(stride_c, VECTOR)
    else:
        stride_h = multiple_of(stride_h, VECTOR)
        stride_w = multiple_of(stride_w, VECTOR)
    return stride_n, stride_c, stride_h, stride_w
