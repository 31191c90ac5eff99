"""Depthwise wgrad: one channel per group, K a multiple of C, any geometry; no matrix product.

    dw[k, r, s] = sum over pixels (n, p, q) of dy[n, k, p, q] * x[n, k // multiplier, h, w]

A program owns some filters and one piece of their taps (pieces(); all taps of a 3x3 filter), and
walks along a slice of the pixels. It loads a tile of dy, pixels x filters, once for all its taps,
and holds one tile of sums for each tap, which it adds up along the pixels at the end:

    lanes along channels: 16 bytes of a pixel's channels a load; block_n channels
    lanes along pixels:   block_k channels

Where there is more than one slice, split_k_reduce.py adds them up. Programs with the same pixels
and filters but other taps are neighbours in the grid, since they read the same of x and dy.

Bound: bytes, x and dy once, for 3x3; loads and multiply-adds of larger filters.
"""

import torch
import triton
import triton.language as tl

from . import split_k_reduce
from .conv2d_fprop_depthwise import zero_tile
from .device.gather_axis import fprop_axis
from .device.language import narrow, widen
from .device.pixels import (
    lanes_along_pixels,
    next_pixels,
    on_axis,
    pixel_step,
    source_pixels,
    within,
)
from .launch import MOST_REGISTERS, Config, conv_geometry, launch, offset_type

_GEOMETRY = (
    "images source_height source_width dy_height dy_width kernel_h kernel_w stride_h stride_w "
    "pad_h pad_w dilation_h dilation_w step_n step_p step_q steps_per_slice pieces_w pieces_hw"
).split()


@triton.jit(do_not_specialize=_GEOMETRY)
def conv2d_wgrad_depthwise(
    x, dy, dw,
    x_n, x_c, x_h, x_w, dy_n, dy_c, dy_h, dy_w, dw_k, dw_r, dw_s, split_stride,
    filters, multiplier,
    images, source_height, source_width, dy_height, dy_width, kernel_h, kernel_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    step_n, step_p, step_q, steps_per_slice, pieces_w, pieces_hw,
    TAPS_H: tl.constexpr, TAPS_W: tl.constexpr, OFFSETS: tl.constexpr,
    LANES_ALONG_PIXELS: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    piece = tl.program_id(0) % pieces_hw
    first_r = piece // pieces_w * TAPS_H
    first_s = piece % pieces_w * TAPS_W
    k = tl.program_id(0) // pieces_hw * BLOCK_N + tl.arange(0, BLOCK_N)
    k_there = on_axis(k < filters, not LANES_ALONG_PIXELS)
    columns = on_axis((k // multiplier).to(OFFSETS) * x_c, not LANES_ALONG_PIXELS)
    dy_columns = on_axis(k.to(OFFSETS) * dy_c, not LANES_ALONG_PIXELS)

    first_step = tl.program_id(1) * steps_per_slice
    last_step = tl.minimum(
        first_step + steps_per_slice, tl.cdiv(images * dy_height * dy_width, BLOCK_M)
    )
    m = first_step * BLOCK_M + tl.arange(0, BLOCK_M)
    q = on_axis(m % dy_width, LANES_ALONG_PIXELS)
    row = on_axis(m // dy_width, LANES_ALONG_PIXELS)
    p = row % dy_height
    n = row // dy_height
    axis_h = fprop_axis(stride_h, pad_h, dilation_h)
    axis_w = fprop_axis(stride_w, pad_w, dilation_w)
    sums = ()
    for _ in tl.static_range(TAPS_H * TAPS_W):
        sums += (zero_tile(x, LANES_ALONG_PIXELS, BLOCK_M, BLOCK_N),)
    for _ in range(first_step, last_step):
        valid = n < images
        dy_rows = source_pixels(n, p, q, valid, dy_n, dy_h, dy_w, OFFSETS)[1]
        b = widen(tl.load(dy + dy_rows + dy_columns, valid & k_there, 0.0), sums[0].dtype)
        h = p * axis_h.source_step + axis_h.source_first
        v = q * axis_w.source_step + axis_w.source_first
        h, rows = source_pixels(n, h, v, valid, x_n, x_h, x_w, OFFSETS)
        added = ()
        for tap in tl.static_range(TAPS_H * TAPS_W):
            dh = (first_r + tap // TAPS_W) * axis_h.tap_offset
            dv = (first_s + tap % TAPS_W) * axis_w.tap_offset
            inside = within(h + dh, source_height) & within(v + dv, source_width)
            at = dh.to(OFFSETS) * x_h + dv.to(OFFSETS) * x_w
            a = tl.load(x + (at + (rows + columns)), inside & k_there, 0.0)
            added += (sums[tap] + widen(a, sums[tap].dtype) * b,)
        sums = added
        n, p, q = next_pixels(n, p, q, step_n, step_p, step_q, dy_height, dy_width)

    dw += tl.program_id(1).to(OFFSETS) * split_stride
    for tap in tl.static_range(TAPS_H * TAPS_W):
        r = first_r + tap // TAPS_W
        s = first_s + tap % TAPS_W
        if LANES_ALONG_PIXELS:
            z = tl.sum(sums[tap], 1)
        else:
            z = tl.sum(sums[tap], 0)
        # A tap beyond the filter has no channels.
        there = k < tl.where((r < kernel_h) & (s < kernel_w), filters, 0)
        offsets = k.to(OFFSETS) * dw_k + (r.to(OFFSETS) * dw_r + s.to(OFFSETS) * dw_s)
        tl.store(dw + offsets, narrow(z, dw.dtype.element_ty), there)


# block_m, block_n: elements of a tile and its channels where lanes lie along channels. block_k: its
# channels where lanes lie along pixels, of which each thread has one.
CONFIGS = (
    Config(1024, 64, 4, 4),
    Config(1024, 32, 4, 4),
    Config(512, 64, 4, 4),
    Config(512, 32, 4, 4),
)
_SUMS = 72  # registers of a thread that hold sums
_PROGRAMS_PER_SM = 3
_MIN_STEPS = 16  # of a slice, at whose end the sums of all taps are added up


def pieces(kernel_h, kernel_w, most):
    """(rows, columns) of the equal pieces that a filter is cut into, of at most so many taps: whole
    rows if one fits."""
    columns = triton.cdiv(kernel_w, triton.cdiv(kernel_w, most))
    rows = min(kernel_h, most // columns) if columns == kernel_w else 1
    return triton.cdiv(kernel_h, triton.cdiv(kernel_h, rows)), columns


def most_taps(config):
    """Taps of a program, whose sums fit in registers."""
    return _SUMS * 32 * config.num_warps // config.block_m


def table_config(op, problem, dtype, sm_count):
    """Few lanes beyond the last channel; for large filters more taps of fewer elements."""
    narrow = triton.cdiv(problem.K, 32) % 2  # 32 channels fill lanes better than 64
    large = problem.R * problem.S > most_taps(CONFIGS[0])
    return CONFIGS[2 * large + narrow]


def blocks(config, dtype, channels, along_pixels):
    """(BLOCK_M, BLOCK_N): pixels and channels of a tile."""
    doubled = 2 if dtype == torch.float64 else 1  # registers of a sum
    most = config.block_k // doubled if along_pixels else config.block_n
    block_n = min(most, triton.next_power_of_2(channels))
    if along_pixels:
        return 32 * config.num_warps, block_n
    return config.block_m // doubled // block_n, block_n


def slices(op, problem, dtype, config, sm_count):
    """How many slices of the pixels give all multiprocessors several programs."""
    block_m, block_n = blocks(config, dtype, problem.K, False)
    taps_h, taps_w = pieces(problem.R, problem.S, most_taps(config))
    pieces_h, pieces_w = triton.cdiv(problem.R, taps_h), triton.cdiv(problem.S, taps_w)
    return split_k_reduce.slices(
        triton.cdiv(problem.K, block_n) * pieces_h * pieces_w,
        triton.cdiv(problem.gemm_shape(op)[2], block_m * _MIN_STEPS // 4),
        problem.K * problem.R * problem.S,
        _PROGRAMS_PER_SM * sm_count,
    )


def launch_conv2d(op, problem, x, w, y, epilogue, config, math, splits):
    """Runs wgrad: x, y -> w. Slices are fewer than `splits` where lanes along pixels make tiles of
    more pixels."""
    along_pixels = lanes_along_pixels(y)
    dy_height, dy_width = y.shape[2:]
    block_m, block_n = blocks(config, x.dtype, problem.K, along_pixels)
    steps = triton.cdiv(problem.N * dy_height * dy_width, block_m)
    steps_per_slice = triton.cdiv(steps, splits)
    if splits > 1:
        steps_per_slice = max(steps_per_slice, 4)
        splits = triton.cdiv(steps, steps_per_slice)
    taps_h, taps_w = pieces(problem.R, problem.S, most_taps(config))
    pieces_h, pieces_w = triton.cdiv(problem.R, taps_h), triton.cdiv(problem.S, taps_w)
    dw, split_stride = w, 0
    if splits > 1:
        partial = split_k_reduce.partial_sums(splits, w)
        dw, split_stride = partial[0], partial.stride(0)
    launch(
        conv2d_wgrad_depthwise,
        (triton.cdiv(problem.K, block_n) * pieces_h * pieces_w, splits),
        config,
        x,
        x, y, dw,
        *x.stride(), *y.stride(), dw.stride(0), *dw.stride()[2:], split_stride,
        problem.K, problem.K // problem.C,
        problem.N, problem.H, problem.W, dy_height, dy_width, problem.R, problem.S,
        *conv_geometry(problem), *pixel_step(block_m, dy_height, dy_width), steps_per_slice,
        pieces_w, pieces_h * pieces_w,
        TAPS_H=taps_h,
        TAPS_W=taps_w,
        OFFSETS=offset_type(x, y, dw),
        LANES_ALONG_PIXELS=along_pixels,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        maxnreg=MOST_REGISTERS,
    )  # fmt: skip
    if splits > 1:
        split_k_reduce.launch_reduce(partial, w)
