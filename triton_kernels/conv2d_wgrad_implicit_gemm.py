"""wgrad as an implicit GEMM with a split gemm_k.

    dw (gemm_m x gemm_n) = dy (gemm_m x gemm_k) * gathered x (gemm_k x gemm_n)
    gemm_m: filters of a group, gemm_n: (tap, channel), gemm_k: output pixels (n, p, q)

A program owns block_m x block_n of dw and walks along a slice of gemm_k, block_k pixels at a step:

                gemm_n
              +---------+     Columns are decoded once, pixels at each step. Lanes load along
        x     | block_k |     channels or along pixels, whichever are adjacent in x, and in dy.
      pixels  |x block_n|     With more than one slice, programs store partial sums, which
              +---------+     split_k_reduce.py adds in order.
       dy     | block_m |
     pixels   |x block_n|
              +---------+

Bound: tensor cores for many channels, else bytes of x and dy: dy is read once for each tile along
gemm_n, x once for each tap and each tile along gemm_m, mostly from L2.
Limits: gemm_m, gemm_n and gemm_k at most 2^30.
"""

import torch
import triton
import triton.language as tl

from . import split_k_reduce
from .epilogue import load_tile
from .fast_divmod import divider, quotient
from .language import dot, narrow
from .launch import Config, block_k, launch, offset_type, pixels_inner

_GEOMETRY = (
    "gemm_k image_multiplier image_shift width out_width row_multiplier row_shift height "
    "kernel_w taps stride_h stride_w pad_h pad_w dilation_h dilation_w "
    "tiles_m tiles_n steps_per_split"
).split()


@triton.jit(do_not_specialize=_GEOMETRY)
def conv2d_wgrad_implicit_gemm(
    x, dy, dw,
    x_n, x_c, x_h, x_w, dy_n, dy_c, dy_h, dy_w, dw_n, dw_c, dw_h, dw_w, split_stride,
    filters, channels, image,
    gemm_k, image_multiplier, image_shift, out_width, row_multiplier, row_shift, height, width,
    kernel_w, taps, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    tiles_m, tiles_n, steps_per_split,
    MATH: tl.constexpr, OFFSETS: tl.constexpr,
    X_PIXELS_INNER: tl.constexpr, DY_PIXELS_INNER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # image: P * Q. Neighbouring programs share rows of dy.
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
    dh = r * dilation_h
    dv = s * dilation_w
    x_columns = dh.to(OFFSETS) * x_h + dv.to(OFFSETS) * x_w + channel * x_c

    steps = tl.cdiv(gemm_k, BLOCK_K)
    first_step = tl.program_id(1) * steps_per_split
    last_step = tl.minimum(first_step + steps_per_split, steps)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float64 if MATH == "float64" else tl.float32)
    for step in range(first_step, last_step):
        pixel = step * BLOCK_K + tl.arange(0, BLOCK_K)
        pixel_valid = pixel < gemm_k
        n = quotient(pixel, image_multiplier, image_shift)
        within = pixel - n * image
        p = quotient(within, row_multiplier, row_shift)
        q = within - p * out_width
        h = p * stride_h - pad_h
        v = q * stride_w - pad_w
        n = n.to(OFFSETS)
        dy_pixels = n * dy_n + p.to(OFFSETS) * dy_h + q.to(OFFSETS) * dy_w
        x_pixels = n * x_n + h.to(OFFSETS) * x_h + v.to(OFFSETS) * x_w
        a_valid = row_valid[:, None] & pixel_valid[None, :]
        if X_PIXELS_INNER:
            there_h = dh[:, None] + h[None, :]
            there_v = dv[:, None] + v[None, :]
            b_valid = column_valid[:, None] & pixel_valid[None, :]
        else:
            there_h = h[:, None] + dh[None, :]
            there_v = v[:, None] + dv[None, :]
            b_valid = pixel_valid[:, None] & column_valid[None, :]
        b_valid &= there_h.to(tl.uint32, bitcast=True) < height.to(tl.uint32, bitcast=True)
        b_valid &= there_v.to(tl.uint32, bitcast=True) < width.to(tl.uint32, bitcast=True)
        a = load_tile(dy, dy_rows, dy_pixels, a_valid, 0.0, False)
        b = load_tile(x, x_pixels, x_columns, b_valid, 0.0, X_PIXELS_INNER)
        acc = dot(a, b, acc, MATH)

    dw_rows = (group * filters + row) * dw_n
    dw_columns = r.to(OFFSETS) * dw_h + s.to(OFFSETS) * dw_w + channel * dw_c
    dw += tl.program_id(1).to(OFFSETS) * split_stride
    tl.store(
        dw + (dw_rows[:, None] + dw_columns[None, :]),
        narrow(acc, dw.dtype.element_ty),
        row_valid[:, None] & column_valid[None, :],
    )


# Filters, (tap, channel)s, pixels of 2 bytes. float64 takes the last: it sums in registers.
CONFIGS = (
    Config(128, 256, 32, 8, 4),
    Config(128, 128, 64, 8, 3),
    Config(64, 128, 64, 4, 4),
    Config(64, 64, 64, 4, 4),
    Config(32, 128, 64, 4, 4),
    Config(32, 32, 32, 4, 1),
)


def configs(dtype):
    return CONFIGS[-1:] if dtype == torch.float64 else CONFIGS


def table_config(op, problem, dtype, sm_count):
    """The smallest tile that holds gemm_m or gemm_n, else the largest: slices of gemm_k fill the
    multiprocessors, whatever the number of tiles."""
    if dtype == torch.float64:
        return CONFIGS[-1]
    gemm_m, gemm_n, _ = problem.gemm_shape(op)
    if gemm_m <= CONFIGS[4].block_m:
        return CONFIGS[4]
    if gemm_n <= CONFIGS[3].block_n:
        return CONFIGS[3]
    if gemm_m <= CONFIGS[2].block_m:
        return CONFIGS[2]
    return CONFIGS[1]


def slices(op, problem, dtype, config, sm_count):
    """Of gemm_k, which is long, so that all multiprocessors have two programs."""
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
    o = problem
    filters, channels = o.K // o.groups, o.C // o.groups
    out_height, out_width = dy.shape[2:]
    image, terms = out_height * out_width, block_k(config, x.dtype)
    tiles_m = triton.cdiv(filters, config.block_m)
    tiles_n = triton.cdiv(o.R * o.S * channels, config.block_n)
    place, split_stride = dw, 0
    if splits > 1:
        partial = split_k_reduce.partial_sums(splits, dw)
        place, split_stride = partial[0], partial.stride(0)
    launch(
        conv2d_wgrad_implicit_gemm,
        (tiles_m * tiles_n * o.groups, splits),
        config,
        x,
        x, dy, place,
        *x.stride(), *dy.stride(), *place.stride(), split_stride,
        filters, channels, image,
        o.N * image, *divider(image), out_width, *divider(out_width), *x.shape[2:],
        o.S, o.R * o.S, o.stride_h, o.stride_w, o.pad_h, o.pad_w, o.dilation_h, o.dilation_w,
        tiles_m, tiles_n, triton.cdiv(triton.cdiv(o.N * image, terms), splits),
        MATH=math,
        OFFSETS=offset_type(x, dy, place),
        X_PIXELS_INNER=pixels_inner(x),
        DY_PIXELS_INNER=pixels_inner(dy),
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=terms,
    )  # fmt: skip
    if splits > 1:
        split_k_reduce.launch_reduce(partial, dw)
