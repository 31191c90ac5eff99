"""Depthwise fprop: one channel per group, K a multiple of C, any geometry; no matrix product.

    y[n, k, p, q] = sum over (r, s) of x[n, k // multiplier, h, w] * w[k, r, s]

A program owns a tile of y, pixels of one strip (device/pixels.py) x channels, and sums each element
in a register. Lanes lie along channels or along pixels, whichever are adjacent in x:

    lanes along channels: 16 bytes of a pixel's channels a load, a tap's filters from a copy of w
                          in which they are adjacent; block_n channels
    lanes along pixels:   block_k channels, the same filter value for all lanes

Taps are unrolled, so that many loads are under way together. x comes from the L1 cache for all but
the first tap that reads it.

Bound: bytes, x and y once, for 3x3; loads and multiply-adds of larger filters.
"""

import torch
import triton
import triton.language as tl

from .device.gather_axis import fprop_axis
from .device.language import widen
from .device.pixels import (
    lanes_along_pixels,
    on_axis,
    pixel_tiles,
    source_pixels,
    tile_pixels,
    within,
)
from .epilogue import constants, store_pixels
from .launch import (
    MOST_REGISTERS,
    Config,
    conv_geometry,
    launch,
    offset_type,
    pixels_inner,
    strides,
)

# How many taps of a row are unrolled, at most; longer rows are cut into equal pieces.
_PIECE = tl.constexpr(5)


@triton.jit
def zero_tile(x, LANES_ALONG_PIXELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    """A tile of zeros, in the dtype that products of what x points to are summed in."""
    dtype: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    if LANES_ALONG_PIXELS:
        acc = tl.zeros((BLOCK_N, BLOCK_M), dtype)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_N), dtype)
    return acc


@triton.jit
def add_taps(
    acc, source, rows, columns, h, v, w, w_columns, channel, channels, source_height, source_width,
    source_h, source_w, w_r, w_s, axis_h, axis_w,
    TAPS_W: tl.constexpr, LANES_ALONG_PIXELS: tl.constexpr, OFFSETS: tl.constexpr,
):  # fmt: skip
    """acc + the sum of source * w over the taps of axis_h and axis_w, at most TAPS_W in a row.

    rows and columns are the offsets of the tile's pixels and channels in the source, w_columns
    those of its channels in w. (h, v) is where a pixel's first tap reads. w_r and w_s lead from tap
    to tap in w."""
    PIECES: tl.constexpr = (TAPS_W + _PIECE - 1) // _PIECE
    PIECE: tl.constexpr = (TAPS_W + PIECES - 1) // PIECES
    offsets = on_axis(rows, LANES_ALONG_PIXELS) + on_axis(columns, not LANES_ALONG_PIXELS)
    w_offsets = on_axis(w_columns, not LANES_ALONG_PIXELS)
    channel = on_axis(channel, not LANES_ALONG_PIXELS)
    h = on_axis(h, LANES_ALONG_PIXELS)
    v = on_axis(v, LANES_ALONG_PIXELS)
    for tap_h in range(axis_h.taps):
        dh = tap_h * axis_h.tap_offset
        row_inside = within(h + dh, source_height)
        row_offset = dh.to(OFFSETS) * source_h
        w_row = w + tap_h * w_r
        for first in range(0, axis_w.taps, PIECE):
            for j in tl.static_range(PIECE):
                tap_w = first + j
                dv = tap_w * axis_w.tap_offset
                # A tap beyond the filter's last column counts as zero: no channel is there.
                there = channel < tl.where(tap_w < axis_w.taps, channels, 0)
                inside = row_inside & within(v + dv, source_width) & there
                # Offsets are summed first: each alone may wrap, and the pointer is wider.
                at = row_offset + dv.to(OFFSETS) * source_w
                a = tl.load(source + (at + offsets), inside, 0.0)
                b = tl.load(w_row + tap_w * w_s + w_offsets, there, 0.0)
                acc += widen(a, acc.dtype) * widen(b, acc.dtype)
    return acc


_GEOMETRY = (
    "images source_height source_width out_height out_width stride_h stride_w pad_h pad_w "
    "dilation_h dilation_w kernel_h strips strip_width tiles_n"
).split()


@triton.jit(do_not_specialize=_GEOMETRY)
def conv2d_fprop_depthwise(
    x, w, y, bias, residual,
    x_n, x_c, x_h, x_w, w_k, w_r, w_s, y_n, y_c, y_h, y_w,
    residual_n, residual_c, residual_h, residual_w,
    filters, multiplier,
    images, source_height, source_width, out_height, out_width, stride_h, stride_w, pad_h, pad_w,
    dilation_h, dilation_w, kernel_h, strips, strip_width, tiles_n,
    KERNEL_W: tl.constexpr, OFFSETS: tl.constexpr,
    LANES_ALONG_PIXELS: tl.constexpr, Y_PIXELS_INNER: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0)
    k = index % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    filter = k.to(OFFSETS)
    n, p, q, valid = tile_pixels(
        index // tiles_n, strips, strip_width, images, out_height, out_width, BLOCK_M
    )
    axis_h = fprop_axis(stride_h, pad_h, dilation_h, out_height, kernel_h)
    axis_w = fprop_axis(stride_w, pad_w, dilation_w, out_width, KERNEL_W)
    h = p * axis_h.source_step + axis_h.source_first
    v = q * axis_w.source_step + axis_w.source_first
    h, rows = source_pixels(n, h, v, valid, x_n, x_h, x_w, OFFSETS)
    columns = (k // multiplier).to(OFFSETS) * x_c
    acc = add_taps(
        zero_tile(x, LANES_ALONG_PIXELS, BLOCK_M, BLOCK_N), x, rows, columns, h, v,
        w, filter * w_k, k, filters, source_height, source_width,
        x_h, x_w, w_r, w_s, axis_h, axis_w,
        KERNEL_W, LANES_ALONG_PIXELS, OFFSETS,
    )  # fmt: skip
    if LANES_ALONG_PIXELS:
        acc = tl.trans(acc)
    p = p.to(OFFSETS)
    q = q.to(OFFSETS)
    n = n.to(OFFSETS)
    store_pixels(
        acc, y, bias, residual,
        n * y_n + p * y_h + q * y_w, filter * y_c,
        n * residual_n + p * residual_h + q * residual_w, filter * residual_c,
        k, valid, k < filters,
        HAS_BIAS, HAS_RESIDUAL, ACTIVATION, PARAMETER, Y_PIXELS_INNER,
    )  # fmt: skip


# block_m, block_n: elements of a tile and its channels where lanes lie along channels. block_k: its
# channels where lanes lie along pixels; such a tile has _ELEMENTS_OF_LANES.
CONFIGS = (
    Config(2048, 64, 4, 4),
    Config(2048, 32, 4, 4),
    Config(1024, 64, 4, 4),
    Config(1024, 32, 4, 4),
    Config(1024, 32, 16, 4),
)
_ELEMENTS_OF_LANES = 1024  # of a tile where lanes lie along pixels
_PROGRAMS_PER_SM = 8


def table_config(op, problem, dtype, sm_count):
    """A large tile if there are enough of them, with few lanes beyond the last channel."""
    pixels = problem.gemm_shape(op)[0]
    channels = problem.C if op.name == "dgrad" else problem.K
    if pixels < _ELEMENTS_OF_LANES // CONFIGS[0].block_k:
        return CONFIGS[4]
    narrow = triton.cdiv(channels, 32) % 2  # 32 channels fill lanes better than 64
    enough = pixels * channels >= _PROGRAMS_PER_SM * sm_count * CONFIGS[0].block_m
    return CONFIGS[narrow if enough else 2 + narrow]


def slices(op, problem, dtype, config, sm_count):
    return 1


def blocks(config, dtype, channels, along_pixels):
    """(BLOCK_M, BLOCK_N): pixels and channels of a tile."""
    elements = _ELEMENTS_OF_LANES if along_pixels else config.block_m
    if dtype == torch.float64:
        elements //= 2  # whose sums take two registers
    most = config.block_k if along_pixels else config.block_n
    block_n = min(most, triton.next_power_of_2(channels))
    return elements // block_n, block_n


def with_channels_adjacent(w):
    """w, or a copy of its few bytes, with its first dimension innermost in memory."""
    return w.permute(1, 2, 3, 0).contiguous().permute(3, 0, 1, 2)


def launch_conv2d(op, problem, x, w, y, epilogue, config, math, splits):
    """Runs fprop: x, w -> y, with the epilogue (bias or None, residual or None, activation)."""
    bias, residual, activation = epilogue
    along_pixels = lanes_along_pixels(x)
    if not along_pixels:
        w = with_channels_adjacent(w)
    out_height, out_width = y.shape[2:]
    block_m, block_n = blocks(config, x.dtype, problem.K, along_pixels)
    tiles_m, strip_count, strip_width = pixel_tiles(
        problem.N, out_height, out_width, block_m, along_pixels
    )
    tiles_n = triton.cdiv(problem.K, block_n)
    launch(
        conv2d_fprop_depthwise,
        (tiles_m * tiles_n,),
        config,
        x,
        x, w, y, bias, residual,
        *x.stride(), w.stride(0), *w.stride()[2:], *y.stride(), *strides(residual),
        problem.K, problem.K // problem.C,
        problem.N, problem.H, problem.W, out_height, out_width, *conv_geometry(problem),
        problem.R, strip_count, strip_width, tiles_n,
        KERNEL_W=problem.S,
        OFFSETS=offset_type(x, w, y, residual),
        LANES_ALONG_PIXELS=along_pixels,
        Y_PIXELS_INNER=pixels_inner(y),
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        **constants(activation),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        maxnreg=MOST_REGISTERS,
    )  # fmt: skip
