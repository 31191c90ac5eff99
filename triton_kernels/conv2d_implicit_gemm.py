"""fprop and dgrad as an implicit GEMM.

    out (gemm_m x gemm_n) = gathered (gemm_m x gemm_k) * filters (gemm_k x gemm_n)
    gemm_m: output pixels (n, p, q), gemm_n: output channels of a group, gemm_k: (tap, channel)
    fprop gathers x with the filter's taps; dgrad gathers dy, once for each residue class of the
    output position modulo the stride (taps.py), all in one launch.

A program owns block_m x block_n of out and walks along gemm_k: block_k channels of one tap at a
step, or, where channels are too few to fill that (FLAT), block_k pairs (tap, channel).

           gemm_k ->
         +---+---+---+     +---------+     Lanes load along channels or along pixels, whichever
    m    |A0 |A1 |A2 | ... | block_m |     are adjacent in the gathered tensor; the result is
         +---+---+---+     |x block_n|     stored likewise. With gemm_k split, programs store
                           +---------+     partial sums (split_k_reduce.py).

Bound: tensor cores for many channels; bytes of x and y for 1x1 and small K.
Limits: gemm_m, gemm_n and gemm_k below 2^31 less a tile.
"""

import torch
import triton
import triton.language as tl

from . import split_k_reduce
from .epilogue import load_tile, store_pixels
from .language import dot
from .launch import Config, block_k, launch, offset_type, pixels_inner, strides
from .taps import axis_taps, classes, tap_step

_GEOMETRY = (
    "images src_height src_width out_height out_width kernel_h kernel_w stride_h stride_w "
    "pad_h pad_w dilation_h dilation_w tap_step_h tap_step_w tiles_m tiles_n steps_per_split "
    "classes_w groups"
).split()


@triton.jit(do_not_specialize=_GEOMETRY)
def conv2d_implicit_gemm(
    src, w, out, bias, residual,
    src_n, src_c, src_h, src_w, w_n, w_c, w_r, w_s, out_n, out_c, out_h, out_w,
    residual_n, residual_c, residual_h, residual_w, split_stride,
    w_group, channels,
    images, src_height, src_width, out_height, out_width, gemm_n, kernel_h, kernel_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, tap_step_h, tap_step_w,
    tiles_m, tiles_n, steps_per_split, classes_w, groups,
    DGRAD: tl.constexpr, FLAT: tl.constexpr, MATH: tl.constexpr, OFFSETS: tl.constexpr,
    SRC_PIXELS_INNER: tl.constexpr, OUT_PIXELS_INNER: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # Strides of w: of a channel of out, of a gathered channel, of a tap; w_group from group to
    # group. Neighbouring programs share the gathered rows.
    index = tl.program_id(0)
    tile_n = index % tiles_n
    index //= tiles_n
    tile_m = index % tiles_m
    index //= tiles_m
    group = (index % groups).to(OFFSETS)
    residue_class = index // groups
    residue_h = residue_class // classes_w
    residue_w = residue_class % classes_w
    height, taps_h, tap_first_h, src_first_h, tap_offset_h = axis_taps(
        residue_h, out_height, kernel_h, stride_h, pad_h, dilation_h, tap_step_h, DGRAD
    )
    width, taps_w, tap_first_w, src_first_w, tap_offset_w = axis_taps(
        residue_w, out_width, kernel_w, stride_w, pad_w, dilation_w, tap_step_w, DGRAD
    )
    gemm_m = images * height * width
    if tile_m * BLOCK_M >= gemm_m:
        return  # the first class has the most positions, and all have as many programs

    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    m_valid = m < gemm_m
    n = (m // (height * width)).to(OFFSETS)
    pixel = m % (height * width)
    p = pixel // width
    q = pixel % width
    if DGRAD:
        h = p + src_first_h
        v = q + src_first_w
    else:
        h = p * stride_h + src_first_h
        v = q * stride_w + src_first_w
    src_rows = n * src_n + h.to(OFFSETS) * src_h + v.to(OFFSETS) * src_w
    src += group * channels * src_c
    w += group * w_group
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n_valid = column < gemm_n
    w_columns = column.to(OFFSETS) * w_n

    blocks = tl.cdiv(channels, BLOCK_K)
    if FLAT:
        steps = tl.cdiv(taps_h * taps_w * channels, BLOCK_K)
    else:
        steps = taps_h * taps_w * blocks
    first_step = tl.program_id(1) * steps_per_split
    last_step = tl.minimum(first_step + steps_per_split, steps)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float64 if MATH == "float64" else tl.float32)
    for step in range(first_step, last_step):
        if FLAT:
            k = step * BLOCK_K + tl.arange(0, BLOCK_K)
            tap = k // channels
            channel = k % channels
            k_valid = tap < taps_h * taps_w
        else:
            tap = step // blocks
            channel = (step % blocks) * BLOCK_K + tl.arange(0, BLOCK_K)
            k_valid = channel < channels
        tap_h = tap // taps_w
        tap_w = tap % taps_w
        dh = tap_h * tap_offset_h
        dv = tap_w * tap_offset_w
        src_k = dh.to(OFFSETS) * src_h + dv.to(OFFSETS) * src_w + channel.to(OFFSETS) * src_c
        r = tap_first_h + tap_h * tap_step_h
        s = tap_first_w + tap_w * tap_step_w
        w_rows = r.to(OFFSETS) * w_r + s.to(OFFSETS) * w_s + channel.to(OFFSETS) * w_c
        if FLAT:
            if SRC_PIXELS_INNER:
                there_h = dh[:, None] + h[None, :]
                there_v = dv[:, None] + v[None, :]
            else:
                there_h = h[:, None] + dh[None, :]
                there_v = v[:, None] + dv[None, :]
        elif SRC_PIXELS_INNER:
            there_h = (h + dh)[None, :]
            there_v = (v + dv)[None, :]
        else:
            there_h = (h + dh)[:, None]
            there_v = (v + dv)[:, None]
        inside = (there_h >= 0) & (there_h < src_height) & (there_v >= 0) & (there_v < src_width)
        if SRC_PIXELS_INNER:
            inside = inside & k_valid[:, None] & m_valid[None, :]
        else:
            inside = inside & m_valid[:, None] & k_valid[None, :]
        a = load_tile(src, src_rows, src_k, inside, 0.0, SRC_PIXELS_INNER)
        b = load_tile(w, w_rows, w_columns, k_valid[:, None] & n_valid[None, :], 0.0, False)
        acc = dot(a, b, acc, MATH)

    if DGRAD:
        p = p * stride_h + residue_h
        q = q * stride_w + residue_w
    p = p.to(OFFSETS)
    q = q.to(OFFSETS)
    channel = group * gemm_n + column
    store_pixels(
        acc, out + tl.program_id(1).to(OFFSETS) * split_stride, bias, residual,
        n * out_n + p * out_h + q * out_w, channel * out_c,
        n * residual_n + p * residual_h + q * residual_w, channel * residual_c,
        channel, m_valid, n_valid,
        HAS_BIAS, HAS_RESIDUAL, ACTIVATION, OUT_PIXELS_INNER,
    )  # fmt: skip


# Pixels, channels of out, gathered terms of 2 bytes. float64 takes the last: it sums in registers.
CONFIGS = (
    Config(128, 128, 64, 8, 3),
    Config(128, 64, 64, 4, 4),
    Config(64, 64, 64, 4, 4),
    Config(128, 32, 64, 4, 4),
    Config(64, 128, 64, 4, 4),
    Config(32, 32, 32, 4, 1),
)
# Of a step's terms in whole blocks of channels, the share that may be zeros.
_MAX_WASTE = 0.25


def configs(dtype):
    return CONFIGS[-1:] if dtype == torch.float64 else CONFIGS


def table_config(op, problem, dtype, sm_count):
    """The largest tile of which there are enough for all multiprocessors."""
    if dtype == torch.float64:
        return CONFIGS[-1]
    gemm_m, gemm_n, _ = problem.gemm_shape(op)
    if gemm_n <= CONFIGS[3].block_n:
        return CONFIGS[3]
    for config in CONFIGS[:2]:
        tiles = triton.cdiv(gemm_m, config.block_m) * triton.cdiv(gemm_n, config.block_n)
        if gemm_n > config.block_n // 2 and tiles * problem.groups >= sm_count:
            return config
    return CONFIGS[2]


def slices(op, problem, dtype, config, sm_count):
    """Of gemm_k, so that all multiprocessors have a program, if there is enough to slice."""
    gemm_m, gemm_n, gemm_k = problem.gemm_shape(op)
    tiles = triton.cdiv(gemm_m, config.block_m) * triton.cdiv(gemm_n, config.block_n)
    return split_k_reduce.slices(
        tiles * problem.groups,
        triton.cdiv(gemm_k, block_k(config, dtype)),
        gemm_m * gemm_n * problem.groups,
        sm_count,
    )


def launch_conv2d(op, problem, x, w, y, epilogue, config, math, splits):
    """Runs fprop (x, w -> y, with the epilogue) or dgrad (y, w -> x).

    Args:
        epilogue: (bias or None, residual or None, activation).
        math: of language.MATHS.
        splits: slices of gemm_k, each a program of its own.
    """
    o, dgrad = problem, op.name == "dgrad"
    src, out = (y, x) if dgrad else (x, y)
    bias, residual, activation = epilogue
    channels, gemm_n = o.C // o.groups, o.K // o.groups
    # Filters as rows of channels: a copy of the few bytes of w where they are not.
    w = w.contiguous(memory_format=torch.channels_last)
    w_n, w_c, w_r, w_s = w.stride()
    w_group = gemm_n * w_n
    if dgrad:
        channels, gemm_n, w_n, w_c = gemm_n, channels, w_c, w_n
    out_height, out_width = out.shape[2:]
    classes_h, classes_w = classes(op, out_height, o.stride_h), classes(op, out_width, o.stride_w)
    terms = block_k(config, x.dtype, channels)
    flat = triton.cdiv(channels, terms) * terms * (1 - _MAX_WASTE) > channels
    taps = o.R * o.S
    steps = triton.cdiv(taps * channels, terms) if flat else taps * triton.cdiv(channels, terms)
    # Of the first class, which has the most positions.
    gemm_m = o.N * triton.cdiv(out_height, classes_h) * triton.cdiv(out_width, classes_w)
    tiles_m, tiles_n = triton.cdiv(gemm_m, config.block_m), triton.cdiv(gemm_n, config.block_n)
    place, split_stride, extra = out, 0, (bias, residual, activation)
    if splits > 1:
        partial = split_k_reduce.partial_sums(splits, out)
        place, split_stride, extra = partial[0], partial.stride(0), (None, None, "none")
    launch(
        conv2d_implicit_gemm,
        (tiles_m * tiles_n * o.groups * classes_h * classes_w, splits),
        config,
        x,
        src, w, place, extra[0], extra[1],
        *src.stride(), w_n, w_c, w_r, w_s, *place.stride(), *strides(extra[1]), split_stride,
        w_group, channels,
        o.N, *src.shape[2:], out_height, out_width, gemm_n, o.R, o.S,
        o.stride_h, o.stride_w, o.pad_h, o.pad_w, o.dilation_h, o.dilation_w,
        tap_step(op, o.stride_h, o.dilation_h), tap_step(op, o.stride_w, o.dilation_w),
        tiles_m, tiles_n, triton.cdiv(steps, splits), classes_w, o.groups,
        DGRAD=dgrad,
        FLAT=flat,
        MATH=math,
        OFFSETS=offset_type(src, w, place, extra[1]),
        SRC_PIXELS_INNER=pixels_inner(src),
        OUT_PIXELS_INNER=pixels_inner(place),
        HAS_BIAS=extra[0] is not None,
        HAS_RESIDUAL=extra[1] is not None,
        ACTIVATION=extra[2],
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=terms,
    )  # fmt: skip
    if splits > 1:
        split_k_reduce.launch_reduce(partial, out, epilogue)
