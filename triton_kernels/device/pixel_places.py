"""How the pixels of a tensor lie in memory, and which a GEMM's row is."""

import math

import triton
import triton.language as tl

from .fast_divmod import quotient
from .vectors import channel_vector, pixel_vector, rows_join

# From the best: all pixels at even steps; those of a plane at even steps; anyhow.
_PLACES = ("even", "planes", "apart")


def places(*tensors):
    """The constexpr of all of these tensors; None among them is passed over."""
    return max((_places(t) for t in tensors if t is not None), key=_PLACES.index)


def _places(tensor):
    if not rows_join(tensor):
        return "apart"
    plane = tensor.shape[2] * tensor.shape[3] * tensor.stride(3)
    return "even" if tensor.shape[0] == 1 or tensor.stride(0) == plane else "planes"


def common_vector(tensors, channels, along_pixels, places):
    """The constexpr: how many elements of each of these tensors may move at once, of a group's
    `channels` or of pixels, where lanes lie along those. None among them is passed over."""
    if not along_pixels:
        return math.gcd(*(channel_vector(t, channels) for t in tensors if t is not None))
    if places == "apart":
        return 1
    return math.gcd(*(pixel_vector(t) for t in tensors if t is not None))


@triton.jit
def decode_pixels(
    m, height, width, image_multiplier, image_shift, row_multiplier, row_shift, KNOWN: tl.constexpr
):
    """(n, position within the plane, h, w) of the pixels m, counted through; KNOWN: the multipliers
    and shifts are those of height * width and of width."""
    if KNOWN:
        n = quotient(m, image_multiplier, image_shift)
        within = m - n * (height * width)
        h = quotient(within, row_multiplier, row_shift)
    else:
        n = m // (height * width)
        within = m - n * (height * width)
        h = within // width
    return n, within, h, within - h * width


@triton.jit
def pixel_offsets(
    m, n, within, h, w, stride_n, stride_h, stride_w,
    PLACES: tl.constexpr, PIXELS_INNER: tl.constexpr, VECTOR: tl.constexpr, OFFSETS: tl.constexpr,
):  # fmt: skip
    """Of decoded pixels; where lanes lie along pixels, VECTOR of them are adjacent and aligned."""
    if PLACES == "even":
        offset = m.to(OFFSETS) * stride_w
    elif PLACES == "planes":
        offset = n.to(OFFSETS) * stride_n + within.to(OFFSETS) * stride_w
    else:
        offset = n.to(OFFSETS) * stride_n + h.to(OFFSETS) * stride_h + w.to(OFFSETS) * stride_w
    if PIXELS_INNER and VECTOR > 1:
        offset = tl.max_contiguous(tl.multiple_of(offset, VECTOR), VECTOR)
    return offset
