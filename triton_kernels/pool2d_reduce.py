"""Pooling forward, maxima and averages, for windows of any kind.

    y[n,c,p,q] = reduction over the window's elements of x

A program owns a tile of y (pool2d_windows.py) and walks through the windows, one tap of all of them
at a time; few taps are unrolled, so that their loads are in flight together. Neighbours' windows
overlap: what they share comes from L1. Where windows are long and outputs few or far apart
(block_k > 1), lanes share windows: they lie along the taps of block_m outputs, and what they have
found is joined at the end. Tiles are then

    with channels innermost: (block_k taps, block_m channels of one pixel)
    with columns innermost:  (block_m outputs, block_k taps)

Maxima follow torch's rule: elements pass by row after row, and one replaces the maximum where
(v > m) or v is NaN. So the place is that of the first maximum, or of the last NaN; a window of -inf
has the place of its first element. Zeros are equal, and the first one's sign is the result's, which
tl.maximum would not keep. Places are int64 indices h * W + w, or int8 offsets r * S + s
within the window, -1 in a window of nothing.

Bound: bytes, (x + y) * sizeof(dtype), and places where wanted.
Limits: windows of less than 2^31 - 2^11 elements.
"""

import torch
import triton
import triton.language as tl

from .device.language import divide, hide, narrow, widen
from .device.pool2d_windows import (
    GEOMETRY,
    MOST_UNROLLED,
    TILES,
    extent,
    geometry,
    owned_tile,
    tile_for,
    tiles,
    window,
)
from .launch import Config, launch, offset_type, pixels_inner, strides

_PLACES = {torch.int8: "offset", torch.int64: "index"}
_INFINITY = tl.constexpr(float("inf"))


@triton.jit
def take(best, distance, value, tap_distance, MAX: tl.constexpr, TELLS_PLACE: tl.constexpr):
    """The state (maximum or sum, distance) with one more element of each window. The distance is
    the maximum's place less that of the window's first element, and unused without TELLS_PLACE."""
    value = widen(value, best.dtype)
    if MAX:
        value = hide(value)
        takes = (value > best) | (value != value)
        best = tl.where(takes, value, best)
        if TELLS_PLACE:
            distance = tl.where(takes, tap_distance, distance)
    else:
        best += value
    return best, distance


@triton.jit
def join_lanes(best, distance, AXIS: tl.constexpr, MAX: tl.constexpr):
    """The state of lanes that share windows, joined. Each lane knows its last NaN or its first
    maximum."""
    if MAX:
        nan = best != best
        number = tl.where(nan, -_INFINITY, best)
        largest = tl.max(number, AXIS, keep_dims=True)
        beyond = 2 ** (distance.dtype.primitive_bitwidth - 1) - 1
        first = tl.min(tl.where(number == largest, distance, beyond), AXIS, keep_dims=True)
        is_first = (number == largest) & (distance == first)
        largest = tl.max(tl.where(is_first, number, -_INFINITY), AXIS, keep_dims=True)
        last_nan = tl.max(tl.where(nan, distance, -1), AXIS, keep_dims=True)
        distance = tl.where(last_nan >= 0, last_nan, first)
        best = tl.where(last_nan >= 0, float("nan"), largest)
    else:
        best = tl.sum(best, AXIS, keep_dims=True)
    return best, distance


@triton.jit
def owned_outputs(
    program, channels, height, width, tiles_m,
    KIND: tl.constexpr, PIXELS_INNER: tl.constexpr, INDEX: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    """owned_tile() where taps are the other axis of the tile: (block_m outputs, taps) or (taps,
    block_m channels)."""
    tile = program % tiles_m
    program //= tiles_m
    output = tile.to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M)
    if KIND == "whole":
        c = output[:, None] if PIXELS_INNER else output[None, :]
        h = tl.full((1, 1), 0, INDEX)
        w = h
        n = program
    elif PIXELS_INNER:
        output = output[:, None]
        w = output % width
        row = output // width
        h = row % height
        c = row // height
        n = program
    else:
        c = output[None, :]
        w = (program % width).to(INDEX)
        program //= width
        h = (program % height).to(INDEX)
        n = program // height
    return n.to(tl.int64), c, h, w, c < channels, tl.full((1, 1), True, tl.int1)


@triton.jit(do_not_specialize=[*GEOMETRY, "taps_h", "taps_w", "step_h", "step_w", "divisor"])
def pool2d_reduce(
    x, y, places,
    x_n, x_c, x_h, x_w, y_n, y_c, y_h, y_w, places_n, places_c, places_h, places_w,
    channels, height, width, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w,
    pad_h, pad_w, dilation_h, dilation_w, tiles_m, tiles_n,
    taps_h, taps_w, step_h, step_w, divisor,
    MAX: tl.constexpr, PLACES: tl.constexpr, UNIFORM: tl.constexpr,
    COUNT_INCLUDE_PAD: tl.constexpr, KIND: tl.constexpr, INDEX: tl.constexpr,
    OFFSETS: tl.constexpr, PIXELS_INNER: tl.constexpr, TAPS_H: tl.constexpr, TAPS_W: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    # taps_h, taps_w: taps of the longest window; TAPS_H and TAPS_W are the same where taps are
    # unrolled, else 0. step_h, step_w: what a tap adds to a place; tap_h, tap_w: to an offset in x.
    program = tl.program_id(0)
    if BLOCK_K == 1:
        n, c, p, q, row_valid, lane_valid = owned_tile(
            program, channels, out_height, out_width, tiles_m, tiles_n,
            PIXELS_INNER, INDEX, BLOCK_M, BLOCK_N,
        )  # fmt: skip
        TILE: tl.constexpr = (BLOCK_M, BLOCK_N)
    else:
        n, c, p, q, row_valid, lane_valid = owned_outputs(
            program, channels, out_height, out_width, tiles_m, KIND, PIXELS_INNER, INDEX, BLOCK_M
        )
        TILE: tl.constexpr = (BLOCK_M, BLOCK_K) if PIXELS_INNER else (BLOCK_K, BLOCK_M)
    begin_h, count_h, skipped_h = window(
        p, height, out_height, kernel_h, stride_h, pad_h, dilation_h, KIND, INDEX
    )
    begin_w, count_w, skipped_w = window(
        q, width, out_width, kernel_w, stride_w, pad_w, dilation_w, KIND, INDEX
    )
    count_h = tl.where(row_valid, count_h, 0)
    x += n * x_n
    first = c.to(OFFSETS) * x_c + begin_h.to(OFFSETS) * x_h + begin_w.to(OFFSETS) * x_w
    tap_h = tl.cast(x_h, OFFSETS)
    tap_w = tl.cast(x_w, OFFSETS)
    if KIND == "dilated":
        tap_h *= dilation_h
        tap_w *= dilation_w
    step_h = step_h.to(INDEX)
    step_w = step_w.to(INDEX)

    NOTHING: tl.constexpr = -_INFINITY if MAX else 0.0
    best = tl.full(TILE, NOTHING, tl.float64 if x.dtype.element_ty == tl.float64 else tl.float32)
    # Lanes that share windows must know whose element comes first.
    TELLS_PLACE: tl.constexpr = MAX and (PLACES != "none" or BLOCK_K > 1)
    distance = tl.zeros(TILE if TELLS_PLACE else (1, 1), INDEX)
    if BLOCK_K > 1:
        for begin in range(0, taps_h * taps_w, BLOCK_K):
            t = begin + tl.arange(0, BLOCK_K)
            t = t[None, :] if PIXELS_INNER else t[:, None]
            if KIND == "whole":
                offsets = first + t * tap_w
                inside = row_valid & (t < width)
                tap_distance = t.to(INDEX)
            else:
                r = t // taps_w
                s = t % taps_w
                offsets = first + (r * tap_h + s * tap_w)
                inside = (r < count_h) & (s < count_w)
                tap_distance = r * step_h + s * step_w
            value = tl.load(x + offsets, inside, NOTHING)
            best, distance = take(best, distance, value, tap_distance, MAX, TELLS_PLACE)
        best, distance = join_lanes(best, distance, 1 if PIXELS_INNER else 0, MAX)
    elif TAPS_H > 0:
        for r in tl.static_range(TAPS_H):
            row = x + (first + r * tap_h)
            for s in tl.static_range(TAPS_W):
                inside = (r < count_h) & (s < count_w) & lane_valid
                value = tl.load(row + s * tap_w, inside, NOTHING)
                tap_distance = r * step_h + s * step_w
                best, distance = take(best, distance, value, tap_distance, MAX, TELLS_PLACE)
    else:
        for r in range(taps_h):
            row = x + (first + r * tap_h)
            for s in range(taps_w):
                inside = (r < count_h) & (s < count_w) & lane_valid
                value = tl.load(row + s * tap_w, inside, NOTHING)
                tap_distance = r * step_h + s * step_w
                best, distance = take(best, distance, value, tap_distance, MAX, TELLS_PLACE)

    if not MAX:
        if UNIFORM:
            by = divisor.to(best.dtype)
        else:
            by = extent(
                p, height, out_height, kernel_h, stride_h, pad_h, KIND, COUNT_INCLUDE_PAD, INDEX
            ).to(best.dtype) * extent(
                q, width, out_width, kernel_w, stride_w, pad_w, KIND, COUNT_INCLUDE_PAD, INDEX
            ).to(best.dtype)
        best = divide(best, by)
    p = p.to(OFFSETS)
    q = q.to(OFFSETS)
    c = c.to(OFFSETS)
    valid = row_valid & lane_valid
    target = y + n * y_n + (c * y_c + p * y_h + q * y_w)
    tl.store(target, narrow(best, y.dtype.element_ty), valid)
    if PLACES != "none":
        if PLACES == "offset":
            place = skipped_h * step_h + skipped_w * step_w + distance
            place = tl.where((count_h == 0) | (count_w == 0), -1, place)
        else:
            place = begin_h * width + begin_w + distance
        target = places + n * places_n + (c * places_c + p * places_h + q * places_w)
        tl.store(target, place.to(places.dtype.element_ty), valid)


# block_m, block_n: rows and lanes of a tile; where lanes lie along taps, block_m: outputs, block_k:
# taps.
CONFIGS = (*TILES, Config(64, 1, 64, 4), Config(4, 1, 1024, 4), Config(64, 1, 128, 8))
# Lanes along taps pay from here on, but only where lanes along outputs would be few, or read far
# apart.
_SHARED_TAPS, _FAR_APART = 16, 8
_ENOUGH_OUTPUTS, _ENOUGH_VECTORS = 512, 1 << 14  # for each multiprocessor


def table_config(problem, x, sm_count):
    """Lanes along outputs, or along taps."""
    windows = geometry(problem)
    along_columns = pixels_inner(x)
    h, w = windows.h, windows.w
    taps = h.longest_window * w.longest_window
    step = w.size // w.out if windows.adaptive else w.stride
    outputs = windows.N * windows.C * h.out * w.out
    if along_columns:
        apart = w.longest_window >= _FAR_APART and (w.out == 1 or step >= _FAR_APART)
        shared = apart or outputs < sm_count * _ENOUGH_OUTPUTS
    else:
        shared = outputs < sm_count * _ENOUGH_VECTORS
    if taps < _SHARED_TAPS or not shared:
        return tile_for(w.out if along_columns else windows.C, x)
    if taps <= 2 * CONFIGS[3].block_k:
        return CONFIGS[3]
    return CONFIGS[4] if along_columns else CONFIGS[5]


def launch_reduce(problem, x, y, config, places=None, mean=None):
    """Runs a pooling forward.

    Args:
        places: of maxima, int64 indices or int8 offsets; None where not wanted.
        mean: (count_include_pad, divisor or 0) for averages, None for maxima.
    """
    windows = geometry(problem)
    kind = "none" if places is None else _PLACES[places.dtype]
    count_include_pad, divisor = mean or (False, 1)
    divisor = divisor or windows.common_extent(count_include_pad)
    windows, x = windows.with_whole_planes_joined(x, places)
    along_columns = pixels_inner(x)
    h, w = windows.h, windows.w
    if config.block_k == 1:
        tiles_m, tiles_n = tiles(config, windows.C, h.out, w.out, along_columns)
    elif along_columns:
        tiles_m, tiles_n = triton.cdiv(windows.C * h.out * w.out, config.block_m), 1
    else:
        tiles_m, tiles_n = triton.cdiv(windows.C, config.block_m), h.out * w.out
    taps_h, taps_w = h.longest_window, w.longest_window
    unrolled = config.block_k == 1 and taps_h * taps_w <= MOST_UNROLLED
    steps = (w.kernel, 1) if kind == "offset" else (h.dilation * w.size, w.dilation)
    launch(
        pool2d_reduce,
        (windows.N * tiles_m * tiles_n,),
        config,
        x,
        x, y, places,
        *x.stride(), *y.stride(), *strides(places),
        windows.C, *windows.scalars, tiles_m, tiles_n,
        taps_h, taps_w, *steps, divisor or 1,
        MAX=mean is None,
        PLACES=kind,
        UNIFORM=divisor is not None,
        COUNT_INCLUDE_PAD=count_include_pad,
        KIND=windows.kind,
        INDEX=windows.index_type,
        OFFSETS=offset_type(x, y, places),
        PIXELS_INNER=along_columns,
        TAPS_H=taps_h if unrolled else 0,
        TAPS_W=taps_w if unrolled else 0,
        BLOCK_M=config.block_m,
        BLOCK_N=config.block_n,
        BLOCK_K=config.block_k,
    )  # fmt: skip
