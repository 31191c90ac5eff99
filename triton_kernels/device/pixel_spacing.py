"""How the pixels of a tensor lie in memory, and which pixel each row of a GEMM is."""

import math

import triton
import triton.language as tl

from .fast_divmod import quotient
from .vectors import channel_vector, pixel_vector, rows_join

# Whether the offset of a pixel is its number times one step: for all pixels, for those of a plane,
# or for those of a row only. The best comes first.
_SPACINGS = ("even", "planes", "apart")


def spacing(*tensors):
    """The constexpr SPACING that holds for all of these tensors; None among them is passed over."""
    return max((_spacing_of(t) for t in tensors if t is not None), key=_SPACINGS.index)


def _spacing_of(tensor):
    if not rows_join(tensor):
        return "apart"
    plane = tensor.shape[2] * tensor.shape[3] * tensor.stride(3)
    return "even" if tensor.shape[0] == 1 or tensor.stride(0) == plane else "planes"


def common_vector(tensors, channels, along_pixels, spacing):
    """The constexpr VECTOR: how many elements of each of these tensors may move in one access. They
    are channels, of a group of `channels`, or pixels where lanes lie along those. None among the
    tensors is passed over."""
    if not along_pixels:
        return math.gcd(*(channel_vector(t, channels) for t in tensors if t is not None))
    if spacing == "apart":
        return 1
    return math.gcd(*(pixel_vector(t) for t in tensors if t is not None))


@triton.jit
def decode_pixels(
    m, height, width, image_multiplier, image_shift, row_multiplier, row_shift, KNOWN: tl.constexpr
):
    """(n, number within the plane, h, w) of the pixels with the numbers m. KNOWN: the multipliers
    and shifts are those of height * width and of width."""
    if KNOWN:
        n = quotient(m, image_multiplier, image_shift)
        in_plane = m - n * (height * width)
        h = quotient(in_plane, row_multiplier, row_shift)
    else:
        n = m // (height * width)
        in_plane = m - n * (height * width)
        h = in_plane // width
    return n, in_plane, h, in_plane - h * width


@triton.jit
def pixel_offsets(
    m, n, in_plane, h, w, stride_n, stride_h, stride_w,
    SPACING: tl.constexpr, PIXELS_INNER: tl.constexpr, VECTOR: tl.constexpr, OFFSETS: tl.constexpr,
):  # fmt: skip
    """The offsets of pixels that decode_pixels() returned. Where lanes lie along pixels, VECTOR of
    them are adjacent and aligned."""
    if SPACING == "even":
        offset = m.to(OFFSETS) * stride_w
    elif SPACING == "planes":
        offset = n.to(OFFSETS) * stride_n + in_plane.to(OFFSETS) * stride_w
    else:
        offset = n.to(OFFSETS) * stride_n + h.to(OFFSETS) * stride_h + w.to(OFFSETS) * stride_w
    if PIXELS_INNER and VECTOR > 1:
        offset = tl.max_contiguous(tl.multiple_of(offset, VECTOR), VECTOR)
    return offset
