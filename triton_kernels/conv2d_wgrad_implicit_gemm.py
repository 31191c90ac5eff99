"""wgrad as an implicit GEMM with a split gemm_k.

    dw (gemm_m x gemm_n) = dy (gemm_m x gemm_k) * gathered x (gemm_k x gemm_n)
    gemm_m: filters of a group, gemm_n: (tap, channel), gemm_k: output pixels (n, p, q)

A program owns block_m x block_n of dw and walks along a slice of gemm_k, block_k pixels at a step:

                            gemm_n
        pixels ->         +---------+    Columns are decoded once, pixels at each step. Lanes load
      +---+---+---+       | block_k |    along channels or along pixels, whichever are adjacent in
    m |dy0|dy1|dy2| ...   |x block_n|    x, and in dy. With more than one slice programs store
      +---+---+---+       +---------+    partial sums (split_k_reduce.py).
      block_m x block_k      x

Bound: tensor cores for many channels, else bytes of x and dy: dy is read once for each tile along
gemm_n, x once for each tap and each tile along gemm_m, mostly from L2.
Limits: gemm_m, gemm_n, gemm_k and padded planes' sides below 2^30.
"""

import torch
import triton
import triton.language as tl

from . import split_k_reduce
from .device.fast_divmod import divider, quotient
from .device.gather_axis import fprop_axis
from .device.language import dot, narrow, terms_apart
from .device.pixels import within
from .device.vectors import (
    channel_vector,
    multiple_of,
    pixel_vector,
    rows_join,
    strides_multiple_of,
)
from .epilogue import load_tile
from .launch import Config, block_k, conv_geometry, launch, offset_type, pixels_inner

# Strides too, except those that may be 1: the VECTORs already say what divides them.
_GEOMETRY = (
    "x_n x_h dy_n dy_h dw_n dw_h dw_w split_stride filters channels "
    "images image image_multiplier image_shift dy_width row_multiplier row_shift "
    "source_height source_width kernel_w taps stride_h stride_w pad_h pad_w dilation_h dilation_w "
    "tiles_m tiles_n steps_per_slice"
).split()


@triton.jit(do_not_specialize=_GEOMETRY)
def conv2d_wgrad_implicit_gemm(
    x, dy, dw,
    x_n, x_c, x_h, x_w, dy_n, dy_c, dy_h, dy_w, dw_n, dw_c, dw_h, dw_w, split_stride,
    filters, channels,
    images, image, image_multiplier, image_shift, dy_width, row_multiplier, row_shift,
    source_height, source_width, kernel_w, taps,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    tiles_m, tiles_n, steps_per_slice,
    MATH: tl.constexpr, OFFSETS: tl.constexpr, POINTWISE: tl.constexpr,
    X_PIXELS_INNER: tl.constexpr, X_VECTOR: tl.constexpr,
    DY_PIXELS_INNER: tl.constexpr, DY_VECTOR: tl.constexpr, DY_ROWS_JOIN: tl.constexpr,
    DW_VECTOR: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # image: P * Q. POINTWISE: a pixel reads x at its own position, and the rows of x join.
    x_n, x_c, x_h, x_w = strides_multiple_of(x_n, x_c, x_h, x_w, X_PIXELS_INNER, X_VECTOR)
    if X_PIXELS_INNER:
        image = multiple_of(image, X_VECTOR)
    else:
        channels = multiple_of(channels, X_VECTOR)
    channels = multiple_of(channels, DW_VECTOR)
    dy_n, dy_c, dy_h, dy_w = strides_multiple_of(dy_n, dy_c, dy_h, dy_w, DY_PIXELS_INNER, DY_VECTOR)
    if DY_PIXELS_INNER:
        image = multiple_of(image, DY_VECTOR)
    else:
        filters = multiple_of(filters, DY_VECTOR)

    # Neighbouring programs share rows of dy.
    index = tl.program_id(0)
    tile_n = index % tiles_n
    index //= tiles_n
    tile_m = index % tiles_m
    group = (index // tiles_m).to(OFFSETS)
    dy += group * filters * dy_c
    x += group * channels * x_c
    row = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    row_valid = row < filters
    dy_rows = row.to(OFFSETS) * dy_c
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    column_valid = column < taps * channels
    tap = column // channels
    channel = (column % channels).to(OFFSETS)
    r = tap // kernel_w
    s = tap % kernel_w
    axis_h = fprop_axis(stride_h, pad_h, dilation_h)
    axis_w = fprop_axis(stride_w, pad_w, dilation_w)
    dh = r * axis_h.tap_offset
    dv = s * axis_w.tap_offset
    x_columns = channel * x_c
    if not POINTWISE:
        x_columns += dh.to(OFFSETS) * x_h + dv.to(OFFSETS) * x_w

    gemm_k = images * image
    first_step = tl.program_id(1) * steps_per_slice
    last_step = tl.minimum(first_step + steps_per_slice, tl.cdiv(gemm_k, BLOCK_K))
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float64 if MATH == "float64" else tl.float32)
    for step in range(first_step, last_step):
        pixel = step * BLOCK_K + tl.arange(0, BLOCK_K)
        pixel_valid = pixel < gemm_k
        n = quotient(pixel, image_multiplier, image_shift)
        in_plane = pixel - n * image
        p = quotient(in_plane, row_multiplier, row_shift)
        q = in_plane - p * dy_width
        n = n.to(OFFSETS)

        if DY_ROWS_JOIN:
            dy_pixels = n * dy_n + in_plane.to(OFFSETS) * dy_w
        else:
            dy_pixels = n * dy_n + p.to(OFFSETS) * dy_h + q.to(OFFSETS) * dy_w
        if DY_PIXELS_INNER:
            dy_pixels = tl.max_contiguous(tl.multiple_of(dy_pixels, DY_VECTOR), DY_VECTOR)
        # Where filters are adjacent the compiler sees it, and lays the lanes along them.
        a_valid = row_valid[:, None] & pixel_valid[None, :]
        a = load_tile(dy, dy_rows, dy_pixels, a_valid, 0.0, False)

        if X_PIXELS_INNER:
            b_valid = column_valid[:, None] & pixel_valid[None, :]
        else:
            b_valid = pixel_valid[:, None] & column_valid[None, :]
        if POINTWISE:
            x_pixels = n * x_n + in_plane.to(OFFSETS) * x_w
        else:
            h = p * axis_h.source_step + axis_h.source_first
            v = q * axis_w.source_step + axis_w.source_first
            x_pixels = n * x_n + h.to(OFFSETS) * x_h + v.to(OFFSETS) * x_w
            if X_PIXELS_INNER:
                there_h = dh[:, None] + h[None, :]
                there_v = dv[:, None] + v[None, :]
            else:
                there_h = h[:, None] + dh[None, :]
                there_v = v[:, None] + dv[None, :]
            b_valid &= within(there_h, source_height) & within(there_v, source_width)
        if X_PIXELS_INNER:
            x_pixels = tl.max_contiguous(tl.multiple_of(x_pixels, X_VECTOR), X_VECTOR)
        b = load_tile(x, x_pixels, x_columns, b_valid, 0.0, X_PIXELS_INNER)
        a = terms_apart(a, MATH, not DY_PIXELS_INNER)
        b = terms_apart(b, MATH, not X_PIXELS_INNER)
        acc = dot(a, b, acc, MATH)

    dw_n = multiple_of(dw_n, DW_VECTOR)
    dw_h = multiple_of(dw_h, DW_VECTOR)
    dw_w = multiple_of(dw_w, DW_VECTOR)
    dw_rows = (group * filters + row) * dw_n
    dw_columns = r.to(OFFSETS) * dw_h + s.to(OFFSETS) * dw_w + channel * dw_c
    dw += tl.program_id(1).to(OFFSETS) * multiple_of(split_stride, DW_VECTOR)
    tl.store(
        dw + (dw_rows[:, None] + dw_columns[None, :]),
        narrow(acc, dw.dtype.element_ty),
        row_valid[:, None] & column_valid[None, :],
    )


# block_m, block_n: filters and pairs (tap, channel) of a tile. block_k: pixels of a step, for
# elements of 2 bytes. float64 takes the last: it sums in registers.
CONFIGS = (
    Config(128, 128, 64, 8, 3),
    Config(128, 64, 64, 8, 3),
    Config(64, 128, 64, 8, 3),
    Config(64, 64, 64, 4, 4),
    Config(32, 128, 64, 8, 3),
    Config(32, 32, 32, 4, 1),
)
# Columns of a program that has registers left to load whole steps of x element by element.
_MOST_COLUMNS = 64


def configs(dtype):
    """float32 has no registers for the largest."""
    if dtype == torch.float64:
        return CONFIGS[5:]
    return CONFIGS[1:5] if dtype == torch.float32 else CONFIGS[:5]


def table_config(op, problem, dtype, sm_count):
    """The tile that gemm_m and gemm_n fill: slices of gemm_k keep the multiprocessors busy,
    whatever the number of tiles."""
    if dtype == torch.float64:
        return CONFIGS[5]
    gemm_m, gemm_n, _ = problem.gemm_shape(op)
    if gemm_m <= 32:
        return CONFIGS[4]
    if gemm_m <= 64:
        return CONFIGS[3 if gemm_n <= 64 else 2]
    return CONFIGS[1] if gemm_n <= 64 else configs(dtype)[0]


def slices(op, problem, dtype, config, sm_count):
    """How many slices of gemm_k, which is long, give all multiprocessors two programs."""
    gemm_m, gemm_n, gemm_k = problem.gemm_shape(op)
    tiles = triton.cdiv(gemm_m, config.block_m) * triton.cdiv(gemm_n, config.block_n)
    return split_k_reduce.slices(
        triton.cdiv(tiles * problem.groups, 2),
        triton.cdiv(gemm_k, block_k(config, dtype)),
        gemm_m * gemm_n * problem.groups,
        sm_count,
    )


def launch_conv2d(op, problem, x, dw, dy, epilogue, config, math, splits):
    """Runs wgrad (x, dy -> dw). There is no epilogue.

    Args:
        math: of language.MATHS.
        splits: slices of gemm_k, each a program of its own.
    """
    filters, channels = problem.K // problem.groups, problem.C // problem.groups
    image, dy_width, taps = dy.shape[2] * dy.shape[3], dy.shape[3], problem.R * problem.S
    tiles_m = triton.cdiv(filters, config.block_m)
    tiles_n = triton.cdiv(taps * channels, config.block_n)
    target, split_stride = dw, 0
    if splits > 1:
        partial = split_k_reduce.partial_sums(splits, dw)
        target, split_stride = partial[0], partial.stride(0)
    # One tap, stride 1 and no padding: a pixel of dy meets the pixel of x at its own position.
    own_position = (taps, *conv_geometry(problem)[:4]) == (1, 1, 1, 0, 0)
    pointwise = own_position and rows_join(x)
    x_vector = channel_vector(x, channels)
    if pixels_inner(x):
        x_vector = pixel_vector(x) if pointwise else 1
    dy_vector = pixel_vector(dy) if pixels_inner(dy) else channel_vector(dy, filters)
    terms = block_k(config, x.dtype)
    if pixels_inner(x) and x_vector == 1 and (dy_vector == 1 or config.block_n > _MOST_COLUMNS):
        terms //= 2
    launch(
        conv2d_wgrad_implicit_gemm,
        (tiles_m * tiles_n * problem.groups, splits),
        config,
        x,
        x, dy, target,
        *x.stride(), *dy.stride(), *target.stride(), split_stride,
        filters, channels,
        problem.N, image, *divider(image), dy_width, *divider(dy_width),
        *x.shape[2:], problem.S, taps,
        *conv_geometry(problem),
        tiles_m, tiles_n, triton.cdiv(triton.cdiv(problem.N * image, terms), splits),
        MATH=math,
        OFFSETS=offset_type(x, dy, target),
        POINTWISE=pointwise,
        X_PIXELS_INNER=pixels_inner(x),
        X_VECTOR=x_vector,
        DY_PIXELS_INNER=pixels_inner(dy),
        DY_VECTOR=dy_vector,
        DY_ROWS_JOIN=rows_join(dy),
        DW_VECTOR=channel_vector(target, channels),
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=terms,
    )  # fmt: skip
    if splits > 1:
        split_k_reduce.launch_reduce(partial, dw)
