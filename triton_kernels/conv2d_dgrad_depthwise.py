"""Depthwise dgrad: one channel per group, K a multiple of C, any geometry; no matrix product.

    dx[n, c, h, w] = sum over the filters k of c and taps (r, s) of dy[n, k, p, q] * w[k, r, s]

Tiles, lanes and taps are those of conv2d_fprop_depthwise.py, with dx instead of y. Each phase of
(h, w) modulo the stride (gather_axis.py) has its own tiles, because only pixels of one phase have
the same taps. One launch runs them all. Phases are innermost in the grid, since they share dy and
the cache lines of dx.

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
from .device.gather_axis import axis_phases, axis_tap_steps, dgrad_axis
from .device.pixels import lanes_along_pixels, pixel_tiles, source_pixels, tile_pixels
from .epilogue import store_pixels
from .launch import MOST_REGISTERS, conv_geometry, launch, offset_type, pixels_inner

__all__ = ["CONFIGS", "launch_conv2d", "slices", "table_config"]
_GEOMETRY = (
    "images source_height source_width out_height out_width kernel_h kernel_w stride_h stride_w "
    "pad_h pad_w dilation_h dilation_w tap_step_h tap_step_w strips strip_width tiles_n "
    "phases_h phases_w"
).split()


@triton.jit(do_not_specialize=_GEOMETRY)
def conv2d_dgrad_depthwise(
    dy, w, dx,
    dy_n, dy_c, dy_h, dy_w, w_c, w_m, w_r, w_s, dx_n, dx_c, dx_h, dx_w,
    channels, multiplier,
    images, source_height, source_width, out_height, out_width, kernel_h, kernel_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, tap_step_h, tap_step_w,
    strips, strip_width, tiles_n, phases_h, phases_w,
    STRIDED: tl.constexpr, TAPS_W: tl.constexpr, OFFSETS: tl.constexpr,
    LANES_ALONG_PIXELS: tl.constexpr, DX_PIXELS_INNER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # w_c and w_m are the strides of w along channels and along the `multiplier` filters of one.
    index = tl.program_id(0)
    if STRIDED:
        phase_w = index % phases_w
        index //= phases_w
        phase_h = index % phases_h
        index //= phases_h
    else:
        phase_h = 0
        phase_w = 0
    axis_h = dgrad_axis(
        phase_h, out_height, kernel_h, stride_h, pad_h, dilation_h, tap_step_h, STRIDED
    )
    axis_w = dgrad_axis(
        phase_w, out_width, kernel_w, stride_w, pad_w, dilation_w, tap_step_w, STRIDED
    )
    w += tl.cast(axis_h.tap_first, OFFSETS) * w_r + tl.cast(axis_w.tap_first, OFFSETS) * w_s
    w_r *= axis_h.tap_step
    w_s *= axis_w.tap_step
    c = index % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n, p, q, valid = tile_pixels(
        index // tiles_n, strips, strip_width, images, axis_h.positions, axis_w.positions, BLOCK_M
    )
    h = p * axis_h.source_step + axis_h.source_first
    v = q * axis_w.source_step + axis_w.source_first
    h, rows = source_pixels(n, h, v, valid, dy_n, dy_h, dy_w, OFFSETS)
    channel = c.to(OFFSETS)
    columns = channel * multiplier * dy_c
    acc = zero_tile(dy, LANES_ALONG_PIXELS, BLOCK_M, BLOCK_N)
    for _ in range(multiplier):
        acc = add_taps(
            acc, dy, rows, columns, h, v,
            w, channel * w_c, c, channels, source_height, source_width,
            dy_h, dy_w, w_r, w_s, axis_h, axis_w,
            TAPS_W, LANES_ALONG_PIXELS, OFFSETS,
        )  # fmt: skip
        dy += dy_c
        w += w_m
    if LANES_ALONG_PIXELS:
        acc = tl.trans(acc)
    p = (p * axis_h.out_step + axis_h.out_first).to(OFFSETS)
    q = (q * axis_w.out_step + axis_w.out_first).to(OFFSETS)
    store_pixels(
        acc, dx, None, None,
        n.to(OFFSETS) * dx_n + p * dx_h + q * dx_w, channel * dx_c, None, None,
        c, valid, c < channels, False, False, "none", 0.0, DX_PIXELS_INNER,
    )  # fmt: skip


def launch_conv2d(op, problem, x, w, y, epilogue, config, math, splits):
    """Runs dgrad: y, w -> x."""
    along_pixels = lanes_along_pixels(y)
    # (channel, filter of the channel, r, s)
    filters = w.unflatten(0, (problem.C, problem.K // problem.C)).squeeze(2)
    if not along_pixels:
        filters = with_channels_adjacent(filters)
    tap_steps = axis_tap_steps(problem)
    phases_h, phases_w = axis_phases(op, problem)
    block_m, block_n = blocks(config, x.dtype, problem.C, along_pixels)
    # These are sizes of the first phase, which has the most positions.
    height, width = triton.cdiv(problem.H, phases_h), triton.cdiv(problem.W, phases_w)
    tiles_m, strips, strip_width = pixel_tiles(problem.N, height, width, block_m, along_pixels)
    tiles_n = triton.cdiv(problem.C, block_n)
    launch(
        conv2d_dgrad_depthwise,
        (tiles_m * tiles_n * phases_h * phases_w,),
        config,
        x,
        y, filters, x,
        *y.stride(), *filters.stride(), *x.stride(),
        problem.C, problem.K // problem.C,
        problem.N, *y.shape[2:], problem.H, problem.W, problem.R, problem.S,
        *conv_geometry(problem), *tap_steps, strips, strip_width, tiles_n, phases_h, phases_w,
        STRIDED=(problem.stride_h, problem.stride_w) != (1, 1),
        TAPS_W=triton.cdiv(problem.S, tap_steps[1]),
        OFFSETS=offset_type(y, filters, x),
        LANES_ALONG_PIXELS=along_pixels,
        DX_PIXELS_INNER=pixels_inner(x),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        maxnreg=MOST_REGISTERS,
    )  # fmt: skip
