"""Tiles of pixels for the kernels that read neighbours again and again: a tensor's columns are cut
into strips of equal width, and tiles follow each other down a strip and into the next image. So
the pixels of a tile lie close together, which suits the L1 cache, and few are outside the tensor.

      strip 0   strip 1
    +---------+---------+
    | 0  1  2 |         |     strip_width 3, BLOCK_M 8: the first tile of strip 0
    | 3  4  5 |         |
    | 6  7    |         |
"""

import triton
import triton.language as tl

from ..launch import pixels_inner

# The widest strips. Lanes along pixels want long rows, lanes along channels a square of few pixels.
_COLUMNS_OF_LANES, _COLUMNS = 128, 8
_FAR_OUTSIDE = tl.constexpr(-(2**30))


def lanes_along_pixels(tensor, fewest_channels=1):
    """Where lanes lie as they load a tensor: along pixels if those are adjacent in memory, or if it
    has fewer channels than that."""
    return pixels_inner(tensor) or tensor.shape[1] < fewest_channels


def pixel_tiles(images, height, width, block_m, along_pixels):
    """(tiles of all strips, strips, strip_width)."""
    strips = triton.cdiv(width, _COLUMNS_OF_LANES if along_pixels else _COLUMNS)
    strip_width = triton.cdiv(width, strips)
    return triton.cdiv(images * height * strip_width, block_m) * strips, strips, strip_width


@triton.jit
def tile_pixels(tile, strips, strip_width, images, height, width, BLOCK_M: tl.constexpr):
    """(n, h, w, valid) of a tile's pixels."""
    m = tile // strips * BLOCK_M + tl.arange(0, BLOCK_M)
    row = m // strip_width
    column = tile % strips * strip_width + m % strip_width
    return row // height, row % height, column, (row < images * height) & (column < width)


@triton.jit
def source_pixels(n, h, w, valid, source_n, source_h, source_w, OFFSETS: tl.constexpr):
    """(h, offset in the source) of pixels. Those that are not valid get an h from which every tap
    is outside the source."""
    offset = n.to(OFFSETS) * source_n + h.to(OFFSETS) * source_h + w.to(OFFSETS) * source_w
    return tl.where(valid, h, _FAR_OUTSIDE), offset


def pixel_step(count, height, width):
    """(images, rows, columns) that lead `count` pixels on: the steps that next_pixels() takes."""
    rows, columns = divmod(count, width)
    return *divmod(rows, height), columns


@triton.jit
def next_pixels(n, h, w, step_n, step_h, step_w, height, width):
    """The pixels step_n images, step_h < height rows and step_w < width columns on."""
    w += step_w
    carry = w >= width
    w = tl.where(carry, w - width, w)
    h += step_h + carry.to(tl.int32)
    carry = h >= height
    h = tl.where(carry, h - height, h)
    return n + step_n + carry.to(tl.int32), h, w


@triton.jit
def within(v, size):
    """0 <= v < size, in one comparison."""
    return v.to(tl.uint32) < size.to(tl.uint32)


@triton.jit
def on_axis(v, LAST: tl.constexpr):
    """A vector as a row, or as a column."""
    if LAST:
        v = v[None, :]
    else:
        v = v[:, None]
    return v
