"""Average pooling backward; forward is pool2d_reduce.py.

    dx[h,w] = sum over the windows (p,q) that hold (h,w) of dy[p,q] / divisor(p,q)

with divisor(p,q) = extent_h(p) * extent_w(q), or one number for all windows (UNIFORM). The mapping
is that of pool2d_max.py: a tile of elements, or of cells, gathers.

Bound: bytes, (dx + dy) * sizeof(dtype).
"""

import torch
import triton
import triton.language as tl

from .device.language import divide, narrow, widen
from .device.pool2d_windows import (
    CELL_GEOMETRY,
    GEOMETRY,
    TILES,
    bwd_call,
    bwd_config,
    cover,
    extent,
    geometry,
    owned_tile,
)
from .launch import Config, launch, offset_type

CONFIGS = (*TILES, Config(64, 64, 1, 4))


def table_config(problem, dx, sm_count):
    """The large tile for whole planes, where a thread has little to do for each element."""
    windows, dx = geometry(problem).with_whole_planes_joined(dx)
    if windows.whole and dx.dtype != torch.float64 and dx.numel() >= sm_count * _ENOUGH_ELEMENTS:
        return CONFIGS[3]
    return bwd_config(problem, dx, sm_count)


# For each multiprocessor, so that large tiles leave none idle.
_ENOUGH_ELEMENTS = 1 << 14


@triton.jit
def share(
    p, size, out, kernel, stride, pad, ACC: tl.constexpr,
    KIND: tl.constexpr, COUNT_INCLUDE_PAD: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """1 / the axis' factor of the divisor of window p. For a p that is no window the result means
    nothing, and may be infinite."""
    return 1.0 / extent(p, size, out, kernel, stride, pad, KIND, COUNT_INCLUDE_PAD, INDEX).to(ACC)


@triton.jit(do_not_specialize=[*GEOMETRY, "covers_h", "covers_w", "divisor"])
def pool2d_avg_bwd(
    dx, dy,
    dx_n, dx_c, dx_h, dx_w, dy_n, dy_c, dy_h, dy_w,
    channels, height, width, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w,
    pad_h, pad_w, dilation_h, dilation_w, tiles_m, tiles_n, covers_h, covers_w, divisor,
    UNIFORM: tl.constexpr, COUNT_INCLUDE_PAD: tl.constexpr,
    KIND: tl.constexpr, INDEX: tl.constexpr, OFFSETS: tl.constexpr, PIXELS_INNER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    n, c, h, w, row_valid, lane_valid = owned_tile(
        tl.program_id(0), channels, height, width, tiles_m, tiles_n,
        PIXELS_INNER, INDEX, BLOCK_M, BLOCK_N,
    )  # fmt: skip
    first_h, count_h = cover(
        h, height, out_height, kernel_h, stride_h, pad_h, dilation_h, KIND, INDEX
    )
    first_w, count_w = cover(
        w, width, out_width, kernel_w, stride_w, pad_w, dilation_w, KIND, INDEX
    )
    valid = row_valid & lane_valid
    dy += n * dy_n
    c = c.to(OFFSETS)
    ACC: tl.constexpr = tl.float64 if dy.dtype.element_ty == tl.float64 else tl.float32
    acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
    # covers_h, covers_w: the most windows along an axis that hold one position.
    for i in range(covers_h):
        p = first_h + i
        if not UNIFORM:
            share_h = share(
                p, height, out_height, kernel_h, stride_h, pad_h,
                ACC, KIND, COUNT_INCLUDE_PAD, INDEX,
            )  # fmt: skip
        for j in range(covers_w):
            q = first_w + j
            if KIND == "whole":
                inside = row_valid if PIXELS_INNER else lane_valid
            else:
                inside = (i < count_h) & (j < count_w) & valid
            offsets = c * dy_c + p.to(OFFSETS) * dy_h + q.to(OFFSETS) * dy_w
            grad = widen(tl.load(dy + offsets, inside, 0.0), ACC)
            if not UNIFORM:
                share_w = share(
                    q, width, out_width, kernel_w, stride_w, pad_w,
                    ACC, KIND, COUNT_INCLUDE_PAD, INDEX,
                )  # fmt: skip
                grad = tl.where(inside, grad * (share_h * share_w), 0.0)
            acc += grad
    if UNIFORM:
        acc *= divide(tl.full((1, 1), 1.0, ACC), divisor.to(ACC))
    target = dx + n * dx_n + (c * dx_c + h.to(OFFSETS) * dx_h + w.to(OFFSETS) * dx_w)
    tl.store(target, narrow(acc, dx.dtype.element_ty), valid)


@triton.jit
def add_tap(
    acc, grad, r: tl.constexpr, s: tl.constexpr, KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr
):  # fmt: skip
    """acc with a window's gradient, if the window has a tap (r, s)."""
    if r >= 0 and r < KERNEL_H and s >= 0 and s < KERNEL_W:
        acc += grad
    return acc


@triton.jit(do_not_specialize=[*CELL_GEOMETRY, "divisor"])
def pool2d_avg_bwd_cells(
    dx, dy,
    dx_n, dx_c, dx_h, dx_w, dy_n, dy_c, dy_h, dy_w,
    channels, height, width, out_height, out_width, cells_h, cells_w, tiles_m, tiles_n, divisor,
    UNIFORM: tl.constexpr, COUNT_INCLUDE_PAD: tl.constexpr,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
    STRIDE_H: tl.constexpr, STRIDE_W: tl.constexpr, PAD_H: tl.constexpr, PAD_W: tl.constexpr,
    FIRST_H: tl.constexpr, FIRST_W: tl.constexpr, LAST_H: tl.constexpr, LAST_W: tl.constexpr,
    INDEX: tl.constexpr, OFFSETS: tl.constexpr, PIXELS_INNER: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # Cell (i, j) meets the windows (i + FIRST_H .. i + LAST_H, j + FIRST_W .. j + LAST_W).
    n, c, i, j, row_valid, lane_valid = owned_tile(
        tl.program_id(0), channels, cells_h, cells_w, tiles_m, tiles_n,
        PIXELS_INNER, INDEX, BLOCK_M, BLOCK_N,
    )  # fmt: skip
    dx += n * dx_n
    valid = row_valid & lane_valid
    dy += n * dy_n
    c = c.to(OFFSETS)
    ACC: tl.constexpr = tl.float64 if dy.dtype.element_ty == tl.float64 else tl.float32
    if UNIFORM:
        scale = divide(tl.full((1, 1), 1.0, ACC), divisor.to(ACC))
    grads = ()
    dy_w = tl.cast(dy_w, OFFSETS)
    for di in tl.static_range(FIRST_H, LAST_H + 1):
        p = i + di
        row_inside = row_valid & (p >= 0) & (p < out_height)
        row = dy + (c * dy_c + p.to(OFFSETS) * dy_h + j.to(OFFSETS) * dy_w)
        if not UNIFORM:
            share_h = share(
                p, height, out_height, KERNEL_H, STRIDE_H, PAD_H,
                ACC, "dense", COUNT_INCLUDE_PAD, INDEX,
            )  # fmt: skip
        for dj in tl.static_range(FIRST_W, LAST_W + 1):
            q = j + dj
            inside = row_inside & (q >= 0) & (q < out_width) & lane_valid
            grad = widen(tl.load(row + dj * dy_w, inside, 0.0), ACC)
            if UNIFORM:
                grad *= scale
            else:
                share_w = share(
                    q, width, out_width, KERNEL_W, STRIDE_W, PAD_W,
                    ACC, "dense", COUNT_INCLUDE_PAD, INDEX,
                )  # fmt: skip
                grad = tl.where(inside, grad * (share_h * share_w), 0.0)
            grads = grads + (grad,)  # noqa: RUF005 (Triton knows no unpacking)
    w = j * STRIDE_W
    dx_w = tl.cast(dx_w, OFFSETS)
    for a in tl.static_range(STRIDE_H):
        h = i * STRIDE_H + a
        dx_row = dx + (c * dx_c + h.to(OFFSETS) * dx_h + w.to(OFFSETS) * dx_w)
        for b in tl.static_range(STRIDE_W):
            acc = tl.zeros((BLOCK_M, BLOCK_N), ACC)
            for di in tl.static_range(FIRST_H, LAST_H + 1):
                for dj in tl.static_range(FIRST_W, LAST_W + 1):
                    acc = add_tap(
                        acc,
                        grads[(di - FIRST_H) * (LAST_W - FIRST_W + 1) + dj - FIRST_W],
                        a + PAD_H - di * STRIDE_H,
                        b + PAD_W - dj * STRIDE_W,
                        KERNEL_H,
                        KERNEL_W,
                    )
            within = valid & (h < height) & (w + b < width)
            tl.store(dx_row + b * dx_w, narrow(acc, dx.dtype.element_ty), within)


def launch_bwd(problem, dx, dy, mean, config):
    """dx from dy; mean is (count_include_pad, divisor or 0)."""
    windows = geometry(problem)
    count_include_pad, divisor = mean
    divisor = divisor or windows.common_extent(count_include_pad)
    windows, dx = windows.with_whole_planes_joined(dx)
    grid, scalars, constants = bwd_call(windows, dx, config)
    launch(
        pool2d_avg_bwd_cells if windows.cells else pool2d_avg_bwd,
        grid,
        config,
        dx,
        dx, dy,
        *dx.stride(), *dy.stride(),
        *scalars, divisor or 1,
        UNIFORM=divisor is not None,
        COUNT_INCLUDE_PAD=count_include_pad,
        OFFSETS=offset_type(dx, dy),
        **constants,
    )  # fmt: skip
