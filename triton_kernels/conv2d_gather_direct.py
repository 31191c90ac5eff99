"""fprop and dgrad by fused multiply-adds in registers: for channels too few to fill tensor cores,
and for float64.

    out[n, k, i] = sum over taps t, channels c of src[n, c, i*src_step + src_first + t*tap_offset]
                                                * w[k, c, t]                          (taps.py)

A program owns block_m pixels x block_n channels of out. A step takes block_k channels of one tap:
for each an outer product of a vector of pixels and a vector of filters. Where channels are adjacent
in memory and groups small (SPREAD) a tile spans groups, so that lanes lie along channels: each
element of it reads its own group's channel.

            channels of out              Bound: bytes of src and out, if the filters are few;
           +---------------+             otherwise the multiply-adds, 2 * R * S * C / groups FLOPs
    pixels | sums in regs  |             an element.
           +---------------+             Limits: gemm_m and gemm_n below 2^30.
"""

import torch
import triton
import triton.language as tl

from .device.language import widen
from .device.pixels import within
from .device.taps import axis_taps, classes, tap_step
from .epilogue import store_pixels
from .launch import MOST_REGISTERS, Config, launch, offset_type, pixels_inner, strides

_GEOMETRY = (
    "images src_height src_width out_height out_width kernel_h kernel_w stride_h stride_w pad_h "
    "pad_w dilation_h dilation_w tap_step_h tap_step_w tiles_m tiles_n classes_w groups columns"
).split()


@triton.jit(do_not_specialize=_GEOMETRY)
def conv2d_gather_direct(
    src, w, out, bias, residual,
    src_n, src_c, src_h, src_w, w_n, w_c, w_r, w_s, out_n, out_c, out_h, out_w,
    residual_n, residual_c, residual_h, residual_w, w_group, channels, gemm_n,
    images, src_height, src_width, out_height, out_width, kernel_h, kernel_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, tap_step_h, tap_step_w,
    tiles_m, tiles_n, classes_w, groups, columns,
    DGRAD: tl.constexpr, SPREAD: tl.constexpr, OFFSETS: tl.constexpr,
    OUT_PIXELS_INNER: tl.constexpr, HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # gemm_n: channels of out in a group; columns: those that tiles_n tiles cover, of a group or,
    # where SPREAD, of all. Strides of w: of a channel of out, of a gathered one, of a tap.
    index = tl.program_id(0)
    tile_n = index % tiles_n
    index //= tiles_n
    group = index % groups
    index //= groups
    tile_m = index % tiles_m
    residue_class = index // tiles_m
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
    p = m % (height * width) // width
    q = m % width
    if DGRAD:
        h = p + src_first_h
        v = q + src_first_w
    else:
        h = p * stride_h + src_first_h
        v = q * stride_w + src_first_w
    src_rows = n * src_n + h.to(OFFSETS) * src_h + v.to(OFFSETS) * src_w
    column = tile_n * BLOCK_N + tl.arange(0, BLOCK_N)
    n_valid = column < columns
    if SPREAD:
        own_group = column // gemm_n
        src_columns = (own_group * channels).to(OFFSETS) * src_c
        w_columns = own_group.to(OFFSETS) * w_group + (column % gemm_n).to(OFFSETS) * w_n
    else:
        src += (group * channels).to(OFFSETS) * src_c
        w_columns = group.to(OFFSETS) * w_group + column.to(OFFSETS) * w_n

    dtype: tl.constexpr = tl.float64 if src.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((BLOCK_M, BLOCK_N), dtype)
    no_m = tl.zeros((BLOCK_M,), tl.int32)
    no_n = tl.zeros((BLOCK_N,), tl.int32)
    for i in range(taps_h):
        for j in range(taps_w):
            dh = i * tap_offset_h
            dv = j * tap_offset_w
            inside = within(h + dh, src_height) & within(v + dv, src_width) & m_valid
            # Offsets are summed first: each alone may wrap, and the pointer is wider.
            src_tap = dh.to(OFFSETS) * src_h + dv.to(OFFSETS) * src_w
            r = tap_first_h + i * tap_step_h
            s = tap_first_w + j * tap_step_w
            w_tap = w + (r.to(OFFSETS) * w_r + s.to(OFFSETS) * w_s)
            for first in range(0, channels, BLOCK_K):
                for k in tl.static_range(BLOCK_K):
                    channel = first + k
                    # Vectors: the interpreter's masks do not mix with scalars.
                    there_m = (no_m + channel) < channels
                    there_n = (no_n + channel) < channels
                    src_term = src_tap + channel.to(OFFSETS) * src_c
                    if SPREAD:
                        a = tl.load(
                            src + (src_term + (src_rows[:, None] + src_columns[None, :])),
                            inside[:, None] & (n_valid & there_n)[None, :],
                            0.0,
                        )
                    else:
                        a = tl.load(src + (src_term + src_rows), inside & there_m, 0.0)[:, None]
                    b = tl.load(
                        w_tap + channel.to(OFFSETS) * w_c + w_columns, n_valid & there_n, 0.0
                    )
                    acc += widen(a, dtype) * widen(b, dtype)[None, :]

    if DGRAD:
        p = p * stride_h + residue_h
        q = q * stride_w + residue_w
    p = p.to(OFFSETS)
    q = q.to(OFFSETS)
    place = (group * gemm_n + column).to(OFFSETS)
    store_pixels(
        acc, out, bias, residual,
        n * out_n + p * out_h + q * out_w, place * out_c,
        n * residual_n + p * residual_h + q * residual_w, place * residual_c,
        place, m_valid, n_valid,
        HAS_BIAS, HAS_RESIDUAL, ACTIVATION, OUT_PIXELS_INNER,
    )  # fmt: skip


# Pixels, channels of out, gathered channels of a step.
CONFIGS = (
    Config(128, 32, 4, 4),
    Config(64, 32, 4, 4),
    Config(128, 16, 4, 4),
    Config(256, 8, 4, 4),
)
_LEAST_PIXELS = 16


def _columns(op, problem, spread):
    """Channels of out that one group's tiles cover."""
    o = problem
    channels = o.C if op.name == "dgrad" else o.K
    return channels if spread else channels // o.groups


def _block_m(config, dtype, offsets, spread):
    """Pixels of a tile: fewer where each element has an offset of its own in registers, and where
    sums or offsets take two."""
    halvings = 2 * spread + (dtype == torch.float64) + (offsets == tl.int64)
    return max(config.block_m >> halvings, _LEAST_PIXELS)


def table_config(op, problem, dtype, sm_count):
    """As wide as a group, and the smaller one where there are too few tiles."""
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
    o, dgrad = problem, op.name == "dgrad"
    src, out = (y, x) if dgrad else (x, y)
    bias, residual, activation = epilogue
    channels, gemm_n = o.C // o.groups, o.K // o.groups
    w_n, w_c, w_r, w_s = w.stride()
    w_group = gemm_n * w_n
    if dgrad:
        channels, gemm_n, w_n, w_c = gemm_n, channels, w_c, w_n
    spread = o.groups > 1 and not pixels_inner(src)
    columns = _columns(op, o, spread)
    groups = 1 if spread else o.groups
    out_height, out_width = out.shape[2:]
    classes_h, classes_w = classes(op, out_height, o.stride_h), classes(op, out_width, o.stride_w)
    # Of the first class, which has the most positions.
    gemm_m = o.N * triton.cdiv(out_height, classes_h) * triton.cdiv(out_width, classes_w)
    offsets = offset_type(src, w, out, residual)
    block_m = _block_m(config, x.dtype, offsets, spread)
    block_n = min(config.block_n, triton.next_power_of_2(columns))
    tiles_m, tiles_n = triton.cdiv(gemm_m, block_m), triton.cdiv(columns, block_n)
    launch(
        conv2d_gather_direct,
        (tiles_m * tiles_n * groups * classes_h * classes_w,),
        config,
        x,
        src, w, out, bias, residual,
        *src.stride(), w_n, w_c, w_r, w_s, *out.stride(), *strides(residual),
        w_group, channels, gemm_n,
        o.N, *src.shape[2:], out_height, out_width, o.R, o.S,
        o.stride_h, o.stride_w, o.pad_h, o.pad_w, o.dilation_h, o.dilation_w,
        tap_step(op, o.stride_h, o.dilation_h), tap_step(op, o.stride_w, o.dilation_w),
        tiles_m, tiles_n, classes_w, groups, columns,
        DGRAD=dgrad,
        SPREAD=spread,
        OFFSETS=offsets,
        OUT_PIXELS_INNER=pixels_inner(out),
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        ACTIVATION=activation,
        BLOCK_M=block_m,
        BLOCK_N=block_n,
        BLOCK_K=min(config.block_k, channels),
        maxnreg=MOST_REGISTERS,
    )  # fmt: skip
