"""fprop and dgrad by fused multiply-adds in registers: for channels too few to fill tensor cores,
and for float64.

    out[n, k, h, w] = sum over taps (r, s) and channels c of source[n, c, ...] * w[k, c, r, s]

Which taps those are, and which position of the source each of them meets, is in gather_axis.py.

A program owns block_m pixels x block_n channels of out. A step takes block_k channels of one tap:
for each an outer product of a vector of pixels and a vector of filters. Where channels are adjacent
in memory and groups small (SPREAD) a tile spans groups, so that lanes lie along channels: each
element of it reads its own group's channel.

            channels of out              Bound: bytes of source and out, if the filters are few;
           +---------------+             otherwise the multiply-adds, 2 * R * S * C / groups FLOPs
    pixels | sums in regs  |             an element.
           +---------------+             Limits: gemm_m and gemm_n below 2^30.
"""

import torch
import triton
import triton.language as tl

from .device.gather_axis import axis_phases, axis_tap_steps, dgrad_axis, fprop_axis
from .device.language import widen
from .device.pixels import within
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

_GEOMETRY = (
    "images source_height source_width out_height out_width kernel_h kernel_w stride_h stride_w "
    "pad_h pad_w dilation_h dilation_w tap_step_h tap_step_w tiles_m tiles_n phases_w groups "
    "columns"
).split()


@triton.jit(do_not_specialize=_GEOMETRY)
def conv2d_gather_direct(
    source, w, out, bias, residual,
    source_n, source_c, source_h, source_w, w_n, w_c, w_r, w_s, out_n, out_c, out_h, out_w,
    residual_n, residual_c, residual_h, residual_w, w_group, channels, gemm_n,
    images, source_height, source_width, out_height, out_width, kernel_h, kernel_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, tap_step_h, tap_step_w,
    tiles_m, tiles_n, phases_w, groups, columns,
    DGRAD: tl.constexpr, SPREAD: tl.constexpr, OFFSETS: tl.constexpr,
    OUT_PIXELS_INNER: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # gemm_n is the number of channels of out in a group. columns is how many of them tiles_n tiles
    # cover: a group's or, where SPREAD, all. w_n is the stride of w along channels of out, w_c the
    # one along channels of the source, w_group leads from group to group.
    index = tl.program_id(0)
    tile_n = index % tiles_n
    index //= tiles_n
    group = index % groups
    index //= groups
    tile_m = index % tiles_m
    phase = index // tiles_m
    phase_h = phase // phases_w
    phase_w = phase % phases_w
    if DGRAD:
        axis_h = dgrad_axis(
            phase_h, out_height, kernel_h, stride_h, pad_h, dilation_h, tap_step_h, True
        )
        axis_w = dgrad_axis(
            phase_w, out_width, kernel_w, stride_w, pad_w, dilation_w, tap_step_w, True
        )
    else:
        axis_h = fprop_axis(stride_h, pad_h, dilation_h, out_height, kernel_h)
        axis_w = fprop_axis(stride_w, pad_w, dilation_w, out_width, kernel_w)
    height = axis_h.positions
    width = axis_w.positions
    gemm_m = images * height * width
    if tile_m * BLOCK_M >= gemm_m:
        return  # the first phase has the most positions, and all have as many programs

    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    m_valid = m < gemm_m
    n = (m // (height * width)).to(OFFSETS)
    p = m % (height * width) // width
    q = m % width
    h = p * axis_h.source_step + axis_h.source_first
    v = q * axis_w.source_step + axis_w.source_first
    source_rows = n * source_n + h.to(OFFSETS) * source_h + v.to(OFFSETS) * source_w
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n_valid = column < columns
    if SPREAD:
        own_group = column // gemm_n
        source_columns = (own_group * channels).to(OFFSETS) * source_c
        w_columns = own_group.to(OFFSETS) * w_group + (column % gemm_n).to(OFFSETS) * w_n
    else:
        source += (group * channels).to(OFFSETS) * source_c
        w_columns = group.to(OFFSETS) * w_group + column.to(OFFSETS) * w_n

    dtype: tl.constexpr = tl.float64 if source.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype)
    no_m = tl.zeros((BLOCK_M,), tl.int32)
    no_n = tl.zeros((BLOCK_N,), tl.int32)
    for i in range(axis_h.taps):
        for j in range(axis_w.taps):
            dh = i * axis_h.tap_offset
            dv = j * axis_w.tap_offset
            inside = within(h + dh, source_height) & within(v + dv, source_width) & m_valid
            # Offsets are summed first: each alone may wrap, and the pointer is wider.
            source_tap = dh.to(OFFSETS) * source_h + dv.to(OFFSETS) * source_w
            r = axis_h.tap_first + i * axis_h.tap_step
            s = axis_w.tap_first + j * axis_w.tap_step
            w_tap = w + (tl.cast(r, OFFSETS) * w_r + tl.cast(s, OFFSETS) * w_s)
            for first in range(0, channels, BLOCK_K):
                for k in tl.static_range(BLOCK_K):
                    channel = first + k
                    # Vectors, because the interpreter does not combine a mask with a scalar.
                    there_m = (no_m + channel) < channels
                    there_n = (no_n + channel) < channels
                    source_term = source_tap + channel.to(OFFSETS) * source_c
                    if SPREAD:
                        a = tl.load(
                            source
                            + (source_term + (source_rows[:, None] + source_columns[None, :])),
                            inside[:, None] & (n_valid & there_n)[None, :],
                            0.0,
                        )
                    else:
                        a = tl.load(source + (source_term + source_rows), inside & there_m, 0.0)
                        a = a[:, None]
                    b = tl.load(
                        w_tap + channel.to(OFFSETS) * w_c + w_columns, n_valid & there_n, 0.0
                    )
                    acc += widen(a, dtype) * widen(b, dtype)[None, :]

    p = (p * axis_h.out_step + axis_h.out_first).to(OFFSETS)
    q = (q * axis_w.out_step + axis_w.out_first).to(OFFSETS)
    channel = (group * gemm_n + column).to(OFFSETS)
    store_pixels(
        acc, out, bias, residual,
        n * out_n + p * out_h + q * out_w, channel * out_c,
        n * residual_n + p * residual_h + q * residual_w, channel * residual_c,
        channel, m_valid, n_valid,
        HAS_BIAS, HAS_RESIDUAL, ACTIVATION, PARAMETER, OUT_PIXELS_INNER,
    )  # fmt: skip


# block_m, block_n: pixels and channels of out in a tile. block_k: channels of the source in a step.
CONFIGS = (
    Config(128, 32, 4, 4),
    Config(64, 32, 4, 4),
    Config(128, 16, 4, 4),
    Config(256, 8, 4, 4),
)
_LEAST_PIXELS = 16


def _columns(op, problem, spread):
    """Channels of out that one group's tiles cover."""
    channels = problem.C if op.name == "dgrad" else problem.K
    return channels if spread else channels // problem.groups


def _block_m(config, dtype, offsets, spread):
    """Pixels of a tile: fewer where each element has an offset of its own in registers (spread),
    and where sums or offsets take two registers."""
    halvings = 2 * spread + (dtype == torch.float64) + (offsets == tl.int64)
    return max(config.block_m >> halvings, _LEAST_PIXELS)


def table_config(op, problem, dtype, sm_count):
    """A narrow tile where there is one group and its channels fit; else a wide tile, the smaller
    one if the larger would be too few for all multiprocessors."""
    gemm_m, gemm_n, _ = problem.gemm_shape(op)
    for config in CONFIGS[:1:-1]:
        if gemm_n <= config.block_n and problem.groups == 1:
            return config
    tiles = triton.cdiv(gemm_m, CONFIGS[0].block_m) * triton.cdiv(gemm_n, CONFIGS[0].block_n)
    return CONFIGS[int(tiles * problem.groups < sm_count)]


def slices(op, problem, dtype, config, sm_count):
    return 1


def launch_conv2d(op, problem, x, w, y, epilogue, config, math, splits):
    """Runs fprop (x, w -> y, with the epilogue) or dgrad (y, w -> x).

    Args:
        epilogue: (bias or None, residual or None, activation).
    """
    dgrad = op.name == "dgrad"
    source, out = (y, x) if dgrad else (x, y)
    bias, residual, activation = epilogue
    channels, gemm_n = problem.C // problem.groups, problem.K // problem.groups
    w_n, w_c, w_r, w_s = w.stride()
    w_group = gemm_n * w_n
    if dgrad:
        channels, gemm_n, w_n, w_c = gemm_n, channels, w_c, w_n
    spread = problem.groups > 1 and not pixels_inner(source)
    columns = _columns(op, problem, spread)
    groups = 1 if spread else problem.groups
    out_height, out_width = out.shape[2:]
    phases_h, phases_w = axis_phases(op, problem)
    # This is the first phase's, which has the most positions.
    gemm_m = problem.N * triton.cdiv(out_height, phases_h) * triton.cdiv(out_width, phases_w)
    offsets = offset_type(source, w, out, residual)
    block_m = _block_m(config, x.dtype, offsets, spread)
    block_n = min(config.block_n, triton.next_power_of_2(columns))
    tiles_m, tiles_n = triton.cdiv(gemm_m, block_m), triton.cdiv(columns, block_n)
    launch(
        conv2d_gather_direct,
        (tiles_m * tiles_n * groups * phases_h * phases_w,),
        config,
        x,
        source, w, out, bias, residual,
        *source.stride(), w_n, w_c, w_r, w_s, *out.stride(), *strides(residual),
        w_group, channels, gemm_n,
        problem.N, *source.shape[2:], out_height, out_width, problem.R, problem.S,
        *conv_geometry(problem), *axis_tap_steps(problem),
        tiles_m, tiles_n, phases_w, groups, columns,
        DGRAD=dgrad,
        SPREAD=spread,
        OFFSETS=offsets,
        OUT_PIXELS_INNER=pixels_inner(out),
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        **constants(activation),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=min(config.block_k, channels),
        maxnreg=MOST_REGISTERS,
    )  # fmt: skip
