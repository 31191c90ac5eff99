"""wgrad by fused multiply-adds in registers: for channels too few to fill tensor cores, and for
float64.

    dw[k, c, r, s] = sum over pixels (n, p, q) of dy[n, k, p, q] * x[n, c, h, w]
                     with h = p*stride_h - pad_h + r*dilation_h, w alike

A program owns block_m filters x block_n columns (r, s, c) of one group's dw, and a slice of the
pixels, of which it takes block_k at a step: a tile of block_m x block_k x block_n sums, whose
pixels are added up at the end. An element of x that is loaded serves block_m filters, one of dy
block_n columns. With more than one slice programs store partial sums (split_k_reduce.py). Lanes lie
along channels or along pixels, whichever are adjacent in x.

Bound: loads through L2 and multiply-adds, 2 * N * P * Q FLOPs an element of dw.
Limits: gemm_m, gemm_n and gemm_k below 2^30.
"""

import torch
import triton
import triton.language as tl

from . import split_k_reduce
from .device.gather_axis import fprop_axis
from .device.language import narrow, widen
from .launch import Config, conv_geometry, launch, offset_type, pixels_inner

_GEOMETRY = (
    "pixels dy_height dy_width source_height source_width kernel_w filters columns "
    "stride_h stride_w pad_h pad_w dilation_h dilation_w tiles_m tiles_n steps_per_slice"
).split()


@triton.jit
def on_axes(v, PIXELS: tl.constexpr, PIXELS_INNER: tl.constexpr):
    """A vector of pixels, or else of columns, as a (filters, pixels, columns) tile; where
    PIXELS_INNER the last two are exchanged."""
    if PIXELS == PIXELS_INNER:
        v = v[None, None, :]
    else:
        v = v[None, :, None]
    return v


@triton.jit(do_not_specialize=_GEOMETRY)
def conv2d_wgrad_direct(
    x, dy, dw,
    x_n, x_c, x_h, x_w, dy_n, dy_k, dy_h, dy_w, dw_k, dw_c, dw_r, dw_s, split_stride, channels,
    pixels, dy_height, dy_width, source_height, source_width, kernel_w, filters, columns,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, tiles_m, tiles_n, steps_per_slice,
    PIXELS_INNER: tl.constexpr, OFFSETS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0)
    tile_n = index % tiles_n
    index //= tiles_n
    tile_m = index % tiles_m
    group = (index // tiles_m).to(OFFSETS)
    filter = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = (column % channels).to(OFFSETS)
    tap = column // channels
    r = tap // kernel_w
    s = tap % kernel_w
    axis_h = fprop_axis(stride_h, pad_h, dilation_h)
    axis_w = fprop_axis(stride_w, pad_w, dilation_w)
    # What a column's tap adds to a pixel's position.
    dh = r * axis_h.tap_offset + axis_h.source_first
    dv = s * axis_w.tap_offset + axis_w.source_first
    x += group * channels * x_c
    x_columns = channel * x_c + dh.to(OFFSETS) * x_h + dv.to(OFFSETS) * x_w
    dy_rows = (group * filters + filter) * dy_k
    filter_valid = filter < filters
    column_valid = column < columns

    dtype: tl.constexpr = tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32
    if PIXELS_INNER:
        acc = tl.zeros((BLOCK_M, BLOCK_N, BLOCK_K), dtype)
    else:
        acc = tl.zeros((BLOCK_M, BLOCK_K, BLOCK_N), dtype)
    first = tl.program_id(1) * steps_per_slice
    last = tl.minimum(first + steps_per_slice, tl.cdiv(pixels, BLOCK_K))
    for step in range(first, last):
        pixel = step * BLOCK_K + tl.arange(0, BLOCK_K)
        pixel_valid = pixel < pixels
        n = (pixel // (dy_height * dy_width)).to(OFFSETS)
        p = pixel % (dy_height * dy_width) // dy_width
        q = pixel % dy_width
        dy_pixels = n * dy_n + p.to(OFFSETS) * dy_h + q.to(OFFSETS) * dy_w
        a = tl.load(
            dy + (dy_rows[:, None, None] + on_axes(dy_pixels, True, PIXELS_INNER)),
            filter_valid[:, None, None] & on_axes(pixel_valid, True, PIXELS_INNER),
            0.0,
        )
        h = p * axis_h.source_step
        v = q * axis_w.source_step
        x_pixels = n * x_n + h.to(OFFSETS) * x_h + v.to(OFFSETS) * x_w
        there_h = on_axes(h, True, PIXELS_INNER) + on_axes(dh, False, PIXELS_INNER)
        there_v = on_axes(v, True, PIXELS_INNER) + on_axes(dv, False, PIXELS_INNER)
        inside = (there_h >= 0) & (there_h < source_height)
        inside = inside & (there_v >= 0) & (there_v < source_width)
        inside = inside & on_axes(pixel_valid, True, PIXELS_INNER)
        inside = inside & on_axes(column_valid, False, PIXELS_INNER)
        x_tile = on_axes(x_pixels, True, PIXELS_INNER) + on_axes(x_columns, False, PIXELS_INNER)
        b = tl.load(x + x_tile, inside, 0.0)
        acc += widen(a, dtype) * widen(b, dtype)
    total = tl.sum(acc, 2 if PIXELS_INNER else 1)
    dw += tl.program_id(1).to(OFFSETS) * split_stride
    dw_columns = channel * dw_c + r.to(OFFSETS) * dw_r + s.to(OFFSETS) * dw_s
    tl.store(
        dw + ((group * filters + filter) * dw_k)[:, None] + dw_columns[None, :],
        narrow(total, dw.dtype.element_ty),
        filter_valid[:, None] & column_valid[None, :],
    )


# block_m, block_n: filters and columns of a tile. block_k: pixels of a step.
CONFIGS = (
    Config(8, 16, 32, 4),
    Config(4, 16, 64, 4),
    Config(4, 32, 32, 4),
    Config(1, 32, 128, 4),
)
_PROGRAMS_PER_SM = 4


def table_config(op, problem, dtype, sm_count):
    filters, columns, _ = problem.gemm_shape(op)
    if filters < CONFIGS[1].block_m:
        return CONFIGS[3]
    if filters < CONFIGS[0].block_m:
        return CONFIGS[1 if columns <= CONFIGS[1].block_n else 2]
    return CONFIGS[0]


def _tiles(problem, config):
    """(along filters, along columns) of a group."""
    filters, columns = problem.K // problem.groups, problem.C // problem.groups
    columns *= problem.R * problem.S
    return triton.cdiv(filters, config.block_m), triton.cdiv(columns, config.block_n)


def slices(op, problem, dtype, config, sm_count):
    tiles_m, tiles_n = _tiles(problem, config)
    filters, columns, pixels = problem.gemm_shape(op)
    return split_k_reduce.slices(
        tiles_m * tiles_n * problem.groups,
        triton.cdiv(pixels, config.block_k),
        filters * columns * problem.groups,
        _PROGRAMS_PER_SM * sm_count,
    )


def launch_conv2d(op, problem, x, w, y, epilogue, config, math, splits):
    """Runs wgrad: x and y, which is dy, -> w, which is dw."""
    filters, columns, pixels = problem.gemm_shape(op)
    tiles_m, tiles_n = _tiles(problem, config)
    dw, split_stride = w, 0
    if splits > 1:
        partial = split_k_reduce.partial_sums(splits, w)
        dw, split_stride = partial[0], partial.stride(0)
    offsets = offset_type(x, y, dw)
    # Sums in float64 and offsets of 64 bits take two registers each.
    wide = (x.dtype == torch.float64) + (offsets == tl.int64)
    terms = config.block_k >> wide
    launch(
        conv2d_wgrad_direct,
        (tiles_m * tiles_n * problem.groups, splits),
        config,
        x,
        x, y, dw,
        *x.stride(), *y.stride(), *dw.stride(), split_stride, problem.C // problem.groups,
        pixels, *y.shape[2:], problem.H, problem.W, problem.S, filters, columns,
        *conv_geometry(problem),
        tiles_m, tiles_n, triton.cdiv(triton.cdiv(pixels, terms), splits),
        PIXELS_INNER=pixels_inner(x),
        OFFSETS=offsets,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=terms,
    )  # fmt: skip
    if splits > 1:
        split_k_reduce.launch_reduce(partial, w)
