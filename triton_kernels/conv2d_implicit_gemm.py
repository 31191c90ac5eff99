"""fprop and dgrad as an implicit GEMM.

    out (gemm_m x gemm_n) = gathered source (gemm_m x gemm_k) * filters (gemm_k x gemm_n)
    gemm_m: pixels of out, gemm_n: channels of out in a group, gemm_k: (tap, channel of the source)

The source is x in fprop and dy in dgrad. dgrad is one such product for each phase of dx
(gather_axis.py); one launch runs them all.

A program owns block_m x block_n of out and walks along gemm_k: block_k channels of one tap at a
step, or, where channels are too few to fill that (FLAT), block_k pairs (tap, channel).

           gemm_k ->
         +---+---+---+     +---------+     Lanes load along channels or along pixels, whichever
    m    |A0 |A1 |A2 | ... | block_m |     are adjacent in the source; the result is stored
         +---+---+---+     |x block_n|     likewise. With gemm_k split, programs store
                           +---------+     partial sums (split_k_reduce.py).

Bound: tensor cores for many channels; bytes of x and y for 1x1 and small K.
Limits: gemm_m, gemm_n and gemm_k below 2^30.
"""

import torch
import triton
import triton.language as tl

from . import split_k_reduce
from .device.fast_divmod import divider
from .device.gather_axis import axis_phases, axis_tap_steps, dgrad_axis, fprop_axis
from .device.language import dot, terms_apart
from .device.pixel_spacing import common_vector, decode_pixels, pixel_offsets, spacing
from .device.pixels import on_axis, within
from .device.vectors import channel_vector, multiple_of, strides_multiple_of
from .epilogue import constants, load_tile, store_pixels
from .launch import Config, block_k, conv_geometry, launch, offset_type, pixels_inner, strides

# Strides too, except those that may be 1: the VECTORs already say what divides them.
_GEOMETRY = (
    "source_n source_h out_n out_h residual_n residual_h split_stride channels gemm_n images "
    "source_height source_width out_height out_width image_multiplier image_shift row_multiplier "
    "row_shift kernel_h kernel_w stride_h stride_w pad_h pad_w dilation_h dilation_w tap_step_h "
    "tap_step_w tiles_m tiles_n steps_per_slice phases_w groups"
).split()
_OUTSIDE = tl.constexpr(-(2**30))


@triton.jit(do_not_specialize=_GEOMETRY)
def conv2d_implicit_gemm(
    source, w, out, bias, residual,
    source_n, source_c, source_h, source_w, out_n, out_c, out_h, out_w,
    residual_n, residual_c, residual_h, residual_w, split_stride, channels, gemm_n,
    images, source_height, source_width, out_height, out_width,
    image_multiplier, image_shift, row_multiplier, row_shift,
    kernel_h, kernel_w, stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    tap_step_h, tap_step_w, tiles_m, tiles_n, steps_per_slice, phases_w, groups,
    DGRAD: tl.constexpr, STRIDED: tl.constexpr,
    FLAT_CHANNELS: tl.constexpr, FLAT_ROW: tl.constexpr,
    MATH: tl.constexpr, OFFSETS: tl.constexpr, W_VECTOR: tl.constexpr,
    SOURCE_SPACING: tl.constexpr, SOURCE_PIXELS_INNER: tl.constexpr, SOURCE_VECTOR: tl.constexpr,
    OUT_SPACING: tl.constexpr, OUT_PIXELS_INNER: tl.constexpr, OUT_VECTOR: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # STRIDED: dgrad with a stride, which has phases. FLAT_CHANNELS and FLAT_ROW: terms of a tap and
    # of a row of taps, 0 if not FLAT. SOURCE_SPACING is not "apart" where there is one tap and each
    # pixel reads the source at its own position. w is dense (k, r, s, c).
    POINTWISE: tl.constexpr = SOURCE_SPACING != "apart"
    source_n, source_c, source_h, source_w = strides_multiple_of(
        source_n, source_c, source_h, source_w, SOURCE_PIXELS_INNER, SOURCE_VECTOR
    )
    out_n, out_c, out_h, out_w = strides_multiple_of(
        out_n, out_c, out_h, out_w, OUT_PIXELS_INNER, OUT_VECTOR
    )
    residual_n, residual_c, residual_h, residual_w = strides_multiple_of(
        residual_n, residual_c, residual_h, residual_w, OUT_PIXELS_INNER, OUT_VECTOR
    )
    split_stride = multiple_of(split_stride, OUT_VECTOR)
    if not SOURCE_PIXELS_INNER:
        channels = multiple_of(channels, SOURCE_VECTOR)
    if not OUT_PIXELS_INNER:
        gemm_n = multiple_of(gemm_n, OUT_VECTOR)
    if DGRAD:
        gemm_n = multiple_of(gemm_n, W_VECTOR)
        w_tap = gemm_n
        w_n = 1
        w_c = kernel_h * kernel_w * gemm_n
    else:
        channels = multiple_of(channels, W_VECTOR)
        w_tap = channels
        w_n = kernel_h * kernel_w * channels
        w_c = 1

    # Neighbouring programs share rows of the gathered source.
    index = tl.program_id(0)
    tile_n = index % tiles_n
    index //= tiles_n
    tile_m = index % tiles_m
    index //= tiles_m
    group = (index % groups).to(OFFSETS)
    phase = index // groups
    phase_h = phase // phases_w
    phase_w = phase % phases_w
    if DGRAD:
        axis_h = dgrad_axis(
            phase_h, out_height, kernel_h, stride_h, pad_h, dilation_h, tap_step_h, STRIDED
        )
        axis_w = dgrad_axis(
            phase_w, out_width, kernel_w, stride_w, pad_w, dilation_w, tap_step_w, STRIDED
        )
    else:
        axis_h = fprop_axis(stride_h, pad_h, dilation_h, out_height, kernel_h)
        axis_w = fprop_axis(stride_w, pad_w, dilation_w, out_width, kernel_w)
    height = axis_h.positions
    width = axis_w.positions
    image = height * width
    if SOURCE_PIXELS_INNER:
        image = multiple_of(image, SOURCE_VECTOR)
    if OUT_PIXELS_INNER:
        image = multiple_of(image, OUT_VECTOR)
    gemm_m = images * image
    if STRIDED:
        if tile_m * BLOCK_M >= gemm_m:
            return  # the first phase has the most positions, and all have as many programs

    m = tile_m * BLOCK_M + tl.arange(0, BLOCK_M)
    n, in_plane, p, q = decode_pixels(
        m, height, width, image_multiplier, image_shift, row_multiplier, row_shift, not STRIDED
    )
    h = p * axis_h.source_step + axis_h.source_first
    v = q * axis_w.source_step + axis_w.source_first
    source_rows = pixel_offsets(
        m, n, in_plane, h, v, source_n, source_h, source_w,
        SOURCE_SPACING, SOURCE_PIXELS_INNER, SOURCE_VECTOR, OFFSETS,
    )  # fmt: skip
    m_valid = m < gemm_m
    h = tl.where(m_valid, h, _OUTSIDE)
    source += group * channels * source_c
    w += group * gemm_n * channels * (kernel_h * kernel_w)
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n_valid = column < gemm_n
    w_columns = column.to(OFFSETS) * w_n

    blocks = tl.cdiv(channels, BLOCK_K)
    if FLAT_CHANNELS:
        steps = tl.cdiv(axis_h.taps * FLAT_ROW, BLOCK_K)
    else:
        steps = axis_h.taps * axis_w.taps * blocks
    block = tl.program_id(1) * steps_per_slice
    first_step = block
    last_step = tl.minimum(first_step + steps_per_slice, steps)
    if not FLAT_CHANNELS:
        # Division is dear: the tap and block of a step are counted on from the first.
        block = first_step % blocks
        tap_h = first_step // blocks // tl.maximum(axis_w.taps, 1)
        tap_w = first_step // blocks % tl.maximum(axis_w.taps, 1)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float64 if MATH == "float64" else tl.float32)
    for _ in range(first_step, last_step):
        k = block * BLOCK_K + tl.arange(0, BLOCK_K)
        if FLAT_CHANNELS:
            channel = k % FLAT_CHANNELS
            tap_h = k // FLAT_ROW
            tap_w = k % FLAT_ROW // FLAT_CHANNELS
            k_valid = tap_h < axis_h.taps
        else:
            channel = k
            k_valid = k < channels
        dh = tap_h * axis_h.tap_offset
        dv = tap_w * axis_w.tap_offset
        source_k = channel.to(OFFSETS) * source_c
        if not POINTWISE:
            source_k += dh.to(OFFSETS) * source_h + dv.to(OFFSETS) * source_w
        r = axis_h.tap_first + tap_h * axis_h.tap_step
        s = axis_w.tap_first + tap_w * axis_w.tap_step
        w_rows = (r * kernel_w + s).to(OFFSETS) * w_tap + channel.to(OFFSETS) * w_c
        inside = on_axis(k_valid, not SOURCE_PIXELS_INNER)
        if POINTWISE:
            inside &= on_axis(m_valid, SOURCE_PIXELS_INNER)
        elif FLAT_CHANNELS:
            there_h = on_axis(h, SOURCE_PIXELS_INNER) + on_axis(dh, not SOURCE_PIXELS_INNER)
            there_v = on_axis(v, SOURCE_PIXELS_INNER) + on_axis(dv, not SOURCE_PIXELS_INNER)
            inside &= within(there_h, source_height) & within(there_v, source_width)
        else:
            there = within(h + dh, source_height) & within(v + dv, source_width)
            inside &= on_axis(there, SOURCE_PIXELS_INNER)
        a = load_tile(source, source_rows, source_k, inside, 0.0, SOURCE_PIXELS_INNER)
        b = load_tile(w, w_rows, w_columns, k_valid[:, None] & n_valid[None, :], 0.0, False)
        b = terms_apart(b, MATH, DGRAD)
        acc = dot(a, b, acc, MATH)
        block += 1
        if not FLAT_CHANNELS:
            wraps = block == blocks
            block = tl.where(wraps, 0, block)
            tap_w = tl.where(wraps, tap_w + 1, tap_w)
            wraps = tap_w == axis_w.taps
            tap_w = tl.where(wraps, 0, tap_w)
            tap_h = tl.where(wraps, tap_h + 1, tap_h)

    # This is 0, but the compiler cannot know it. So it computes what the store needs here, and does
    # not keep it in registers during the main loop.
    late = tl.minimum(block, 0)
    m = (tile_m + late) * BLOCK_M + tl.arange(0, BLOCK_M)
    n, in_plane, p, q = decode_pixels(
        m, height, width, image_multiplier, image_shift, row_multiplier, row_shift, not STRIDED
    )
    p = p * axis_h.out_step + axis_h.out_first
    q = q * axis_w.out_step + axis_w.out_first
    column = (tile_n + late) * BLOCK_N + tl.arange(0, BLOCK_N)
    channel = group * gemm_n + column
    store_pixels(
        acc, out + tl.program_id(1).to(OFFSETS) * split_stride, bias, residual,
        pixel_offsets(m, n, in_plane, p, q, out_n, out_h, out_w,
                      OUT_SPACING, OUT_PIXELS_INNER, OUT_VECTOR, OFFSETS),
        channel * out_c,
        pixel_offsets(m, n, in_plane, p, q, residual_n, residual_h, residual_w,
                      OUT_SPACING, OUT_PIXELS_INNER, OUT_VECTOR, OFFSETS),
        channel * residual_c,
        channel, m < gemm_m, column < gemm_n,
        HAS_BIAS, HAS_RESIDUAL, ACTIVATION, PARAMETER, OUT_PIXELS_INNER,
    )  # fmt: skip


# block_m, block_n: pixels and channels of out in a tile. block_k: terms of a step, for elements of
# 2 bytes. float64 takes the last: it sums in registers.
CONFIGS = (
    Config(128, 128, 64, 8, 3),
    Config(128, 64, 64, 8, 3),
    Config(64, 64, 64, 4, 4),
    Config(128, 32, 64, 4, 3),
    Config(64, 128, 64, 8, 3),
    Config(32, 32, 32, 4, 1),
)
# The share of a step's terms that may lie beyond the last channel.
_MAX_WASTE = 0.25


def configs(dtype):
    """float32 has no registers for the largest: "tf32x3" keeps two sums for every result."""
    if dtype == torch.float64:
        return CONFIGS[5:]
    return CONFIGS[1:5] if dtype == torch.float32 else CONFIGS[:5]


def table_config(op, problem, dtype, sm_count):
    """The largest tile of which there are enough for all multiprocessors."""
    if dtype == torch.float64:
        return CONFIGS[5]
    gemm_m, gemm_n, _ = problem.gemm_shape(op)
    if gemm_n <= CONFIGS[3].block_n:
        return CONFIGS[3]
    for config in CONFIGS[1:2] if dtype == torch.float32 else CONFIGS[:2]:
        tiles = triton.cdiv(gemm_m, config.block_m) * triton.cdiv(gemm_n, config.block_n)
        if gemm_n > config.block_n // 2 and tiles * problem.groups >= sm_count:
            return config
    return CONFIGS[2]


def slices(op, problem, dtype, config, sm_count):
    """How many slices of gemm_k give all multiprocessors a program, if it is long enough."""
    gemm_m, gemm_n, gemm_k = problem.gemm_shape(op)
    tiles = triton.cdiv(gemm_m, config.block_m) * triton.cdiv(gemm_n, config.block_n)
    return split_k_reduce.slices(
        tiles * problem.groups,
        triton.cdiv(gemm_k, block_k(config, dtype)),
        gemm_m * gemm_n * problem.groups,
        sm_count,
    )


def _step(config, dtype, channels, taps, strided):
    """(BLOCK_K, whether a step takes pairs (tap, channel) instead of channels of one tap)."""
    most = block_k(config, dtype, channels)
    least = min(most, 16)  # what tl.dot takes
    for terms in (most, max(most // 2, least)):
        if channels >= (1 - _MAX_WASTE) * triton.cdiv(channels, terms) * terms:
            return terms, False
    flat = taps > 1 and not strided
    # Elements that are loaded one by one take registers.
    by_ones = channels * dtype.itemsize % 16 != 0
    return max(most // (2 if flat and not by_ones else 4), least), flat


def launch_conv2d(op, problem, x, w, y, epilogue, config, math, splits):
    """Runs fprop (x, w -> y, with the epilogue) or dgrad (y, w -> x).

    Args:
        epilogue: (bias or None, residual or None, activation).
        math: of language.MATHS.
        splits: slices of gemm_k, each a program of its own.
    """
    dgrad = op.name == "dgrad"
    source, out = (y, x) if dgrad else (x, y)
    bias, residual, activation = epilogue
    channels, gemm_n = problem.C // problem.groups, problem.K // problem.groups
    # The kernel wants channels adjacent. Where they are not, w is copied, which is few bytes.
    w = w.contiguous(memory_format=torch.channels_last)
    w_vector = channel_vector(w, channels)
    if dgrad:
        channels, gemm_n = gemm_n, channels
    # One tap, stride 1 and no padding: a pixel of out reads the source at its own position.
    own_position = (problem.R, problem.S, *conv_geometry(problem)[:4]) == (1, 1, 1, 1, 0, 0)
    strided = dgrad and (problem.stride_h, problem.stride_w) != (1, 1)
    taps = problem.R * problem.S
    terms, flat = _step(config, x.dtype, channels, taps, strided)
    steps = triton.cdiv(taps * channels, terms) if flat else taps * triton.cdiv(channels, terms)
    out_height, out_width = out.shape[2:]
    phases_h, phases_w = axis_phases(op, problem)
    # This is the first phase's, which has the most positions.
    gemm_m = problem.N * triton.cdiv(out_height, phases_h) * triton.cdiv(out_width, phases_w)
    tiles_m, tiles_n = triton.cdiv(gemm_m, config.block_m), triton.cdiv(gemm_n, config.block_n)
    target, split_stride = out, 0
    if splits > 1:
        partial = split_k_reduce.partial_sums(splits, out)
        target, split_stride = partial[0], partial.stride(0)
        bias, residual, activation = None, None, "none"  # split_k_reduce has the epilogue instead
    source_spacing = spacing(source) if own_position else "apart"
    stored = target, residual
    out_spacing = "apart" if strided else spacing(*stored)
    launch(
        conv2d_implicit_gemm,
        (tiles_m * tiles_n * problem.groups * phases_h * phases_w, splits),
        config,
        x,
        source, w, target, bias, residual,
        *source.stride(), *target.stride(), *strides(residual), split_stride, channels, gemm_n,
        problem.N, *source.shape[2:], out_height, out_width,
        *divider(out_height * out_width), *divider(out_width),
        problem.R, problem.S, *conv_geometry(problem), *axis_tap_steps(problem),
        tiles_m, tiles_n, triton.cdiv(steps, splits), phases_w, problem.groups,
        DGRAD=dgrad,
        STRIDED=strided,
        FLAT_CHANNELS=channels if flat else 0,
        FLAT_ROW=problem.S * channels if flat else 0,
        MATH=math,
        OFFSETS=offset_type(source, w, target, residual),
        W_VECTOR=w_vector,
        SOURCE_SPACING=source_spacing,
        SOURCE_PIXELS_INNER=pixels_inner(source),
        SOURCE_VECTOR=common_vector([source], channels, pixels_inner(source), source_spacing),
        OUT_SPACING=out_spacing,
        OUT_PIXELS_INNER=pixels_inner(target),
        OUT_VECTOR=common_vector(stored, gemm_n, pixels_inner(target), out_spacing),
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        **constants(activation),
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=terms,
    )  # fmt: skip
    if splits > 1:
        split_k_reduce.launch_reduce(partial, out, epilogue)
