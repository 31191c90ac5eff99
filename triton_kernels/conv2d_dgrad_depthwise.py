"""Depthwise dgrad: one channel per group, K a multiple of C, any geometry; no matrix product.

    dx[n, c, h, w] = sum over the filters k of c and taps (r, s) of dy[n, k, p, q] * w[k, r, s]

Tiles, lanes and taps as in conv2d_fprop_depthwise.py, with dx in the place of y. There are as many
sets of tiles as residue classes of (h, w) modulo the stride (taps.py), all in one launch: pixels of
a class have the same taps. Classes are innermost in the grid, since they share dy and the cache
lines of dx.

Bound: bytes, dy and dx once, for 3x3; loads and multiply-adds of larger filters.
"""

import triton
import triton.language as tl

from .conv2d_fprop_depthwise import (
    CONFIGS,
    add_taps,
    blocks,
    slices,
    table_config,
    with_channels_adjacent,
    zero_tile,
)
from .device.pixels import lanes_along_pixels, pixel_tiles, source_pixels, tile_pixels
from .device.taps import axis_taps, classes, tap_step
from .epilogue import store_pixels
from .launch import MOST_REGISTERS, launch, offset_type, pixels_inner

__all__ = ["CONFIGS", "launch_conv2d", "slices", "table_config"]
_GEOMETRY = (
    "images src_height src_width out_height out_width kernel_h kernel_w stride_h stride_w "
    "pad_h pad_w dilation_h dilation_w tap_step_h tap_step_w strips strip_width tiles_n "
    "classes_h classes_w"
).split()


@triton.jit(do_not_specialize=_GEOMETRY)
def conv2d_dgrad_depthwise(
    dy, w, dx,
    dy_n, dy_c, dy_h, dy_w, w_c, w_m, w_r, w_s, dx_n, dx_c, dx_h, dx_w,
    channels, multiplier,
    images, src_height, src_width, out_height, out_width, kernel_h, kernel_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, tap_step_h, tap_step_w,
    strips, strip_width, tiles_n, classes_h, classes_w,
    STRIDED: tl.constexpr, TAPS_W: tl.constexpr, OFFSETS: tl.constexpr,
    LANES_ALONG_PIXELS: tl.constexpr, DX_PIXELS_INNER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0)
    if STRIDED:
        residue_w = index % classes_w
        index //= classes_w
        residue_h = index % classes_h
        index //= classes_h
        height, taps_h, tap_first_h, src_first_h, tap_offset_h = axis_taps(
            residue_h, out_height, kernel_h, stride_h, pad_h, dilation_h, tap_step_h, True
        )
        width, taps_w, tap_first_w, src_first_w, tap_offset_w = axis_taps(
            residue_w, out_width, kernel_w, stride_w, pad_w, dilation_w, tap_step_w, True
        )
        w += tap_first_h.to(OFFSETS) * w_r + tap_first_w.to(OFFSETS) * w_s
        w_r *= tap_step_h
        w_s *= tap_step_w
    else:
        height, taps_h, src_first_h, tap_offset_h = out_height, kernel_h, pad_h, -dilation_h
        width, taps_w, src_first_w, tap_offset_w = out_width, kernel_w, pad_w, -dilation_w
    c = index % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p, q, valid = tile_pixels(
        index // tiles_n, strips, strip_width, images, height, width, BLOCK_M
    )
    v = q + src_first_w
    h, rows = source_pixels(n, p + src_first_h, v, valid, dy_n, dy_h, dy_w, OFFSETS)
    place = c.to(OFFSETS)
    columns = place * multiplier * dy_c
    acc = zero_tile(dy, LANES_ALONG_PIXELS, BLOCK_M, BLOCK_N)
    for _ in range(multiplier):
        acc = add_taps(
            acc, dy, rows, columns, h, v,
            w, place * w_c, c, channels, src_height, src_width,
            dy_h, dy_w, w_r, w_s, tap_offset_h, tap_offset_w, taps_h, taps_w,
            TAPS_W, LANES_ALONG_PIXELS, OFFSETS,
        )  # fmt: skip
        dy += dy_c
        w += w_m
    if LANES_ALONG_PIXELS:
        acc = tl.trans(acc)
    if STRIDED:
        p = p * stride_h + residue_h
        q = q * stride_w + residue_w
    p = p.to(OFFSETS)
    q = q.to(OFFSETS)
    store_pixels(
        acc, dx, None, None,
        n.to(OFFSETS) * dx_n + p * dx_h + q * dx_w, place * dx_c, None, None,
        c, valid, c < channels, False, False, "none", DX_PIXELS_INNER,
    )  # fmt: skip


def launch_conv2d(op, problem, x, w, y, epilogue, config, math, splits):
    """Runs dgrad: y, w -> x."""
    o = problem
    along_pixels = lanes_along_pixels(y)
    filters = w.unflatten(0, (o.C, o.K // o.C)).squeeze(2)  # (channel, filter of it, r, s)
    if not along_pixels:
        filters = with_channels_adjacent(filters)
    steps = tap_step(op, o.stride_h, o.dilation_h), tap_step(op, o.stride_w, o.dilation_w)
    classes_h, classes_w = classes(op, o.H, o.stride_h), classes(op, o.W, o.stride_w)
    block_m, block_n = blocks(config, x.dtype, o.C, along_pixels)
    # Of the first class, which has the most positions.
    height, width = triton.cdiv(o.H, classes_h), triton.cdiv(o.W, classes_w)
    tiles_m, strips, strip_width = pixel_tiles(o.N, height, width, block_m, along_pixels)
    tiles_n = triton.cdiv(o.C, block_n)
    launch(
        conv2d_dgrad_depthwise,
        (tiles_m * tiles_n * classes_h * classes_w,),
        config,
        x,
        y, filters, x,
        *y.stride(), *filters.stride(), *x.stride(),
        o.C, o.K // o.C,
        o.N, *y.shape[2:], o.H, o.W, o.R, o.S, o.stride_h, o.stride_w, o.pad_h, o.pad_w,
        o.dilation_h, o.dilation_w, *steps, strips, strip_width, tiles_n, classes_h, classes_w,
        STRIDED=(o.stride_h, o.stride_w) != (1, 1),
        TAPS_W=triton.cdiv(o.S, steps[1]),
        OFFSETS=offset_type(y, filters, x),
        LANES_ALONG_PIXELS=along_pixels,
        DX_PIXELS_INNER=pixels_inner(x),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        maxnreg=MOST_REGISTERS,
    )  # fmt: skip
