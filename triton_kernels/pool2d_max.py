"""Max pooling backward; forward is pool2d_reduce.py, which also says what a place is.

    dx[h,w] = sum of dy[p,q] over the windows (p,q) that hold (h,w) and whose place it is

Backward gathers, so nothing is added from two sides, and a wrong index touches no memory. A program
owns a tile of dx (pool2d_windows.py).

Usual windows are known when compiled (pool2d_max_bwd_cells): a program owns a tile of cells of
stride_h x stride_w elements of dx and reads dy and place of each window that meets a cell once.
Which tap of which window an element is, is then known when compiled, too:

    3x3, stride 2, pad 1:   cell (i,j) meets the windows (i..i+1, j..j+1)
                            its element (1,1) is tap (2,2) of (i,j) and tap (0,0) of (i+1,j+1)

Bound: bytes, (dx + dy) * sizeof(dtype) + places.
"""

import triton
import triton.language as tl

from .device.language import narrow, widen
from .device.pool2d_windows import (
    CELL_GEOMETRY,
    GEOMETRY,
    TILES,
    bwd_call,
    bwd_config,
    cover,
    geometry,
    owned_tile,
)
from .launch import launch, offset_type

CONFIGS = TILES
table_config = bwd_config


@triton.jit
def tap_of(position, p, stride, pad, dilation, KIND: tl.constexpr):
    """Which tap of window p holds a position, or so small a number that no place results."""
    distance = position + pad - p * stride
    if KIND == "dilated":
        r = distance // dilation
        r = tl.where(r * dilation == distance, r, -1024)
    else:
        r = distance
    return r


@triton.jit(do_not_specialize=[*GEOMETRY, "covers_h", "covers_w"])
def pool2d_max_bwd(
    dx, dy, places,
    dx_n, dx_c, dx_h, dx_w, dy_n, dy_c, dy_h, dy_w, places_n, places_c, places_h, places_w,
    channels, height, width, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w,
    pad_h, pad_w, dilation_h, dilation_w, tiles_m, tiles_n, covers_h, covers_w,
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
    places += n * places_n
    c = c.to(OFFSETS)
    acc = tl.zeros(
        (BLOCK_M, BLOCK_N), tl.float64 if dy.dtype.element_ty == tl.float64 else tl.float32
    )
    # covers_h, covers_w: the most windows along an axis that hold one position.
    for i in range(covers_h):
        p = first_h + i
        for j in range(covers_w):
            q = first_w + j
            if KIND == "whole":
                inside = row_valid if PIXELS_INNER else lane_valid
            else:
                inside = (i < count_h) & (j < count_w) & valid
            offsets = c * dy_c + p.to(OFFSETS) * dy_h + q.to(OFFSETS) * dy_w
            grad = widen(tl.load(dy + offsets, inside, 0.0), acc.dtype)
            offsets = c * places_c + p.to(OFFSETS) * places_h + q.to(OFFSETS) * places_w
            place = tl.load(places + offsets, inside, -1)
            if places.dtype.element_ty == tl.int8:
                r = tap_of(h, p, stride_h, pad_h, dilation_h, KIND)
                s = tap_of(w, q, stride_w, pad_w, dilation_w, KIND)
                wanted = tl.where((r < 0) | (s < 0), -2, r * kernel_w + s)
            else:
                wanted = h * width + w
            acc += tl.where(place == wanted, grad, 0.0)
    target = dx + n * dx_n + (c * dx_c + h.to(OFFSETS) * dx_h + w.to(OFFSETS) * dx_w)
    tl.store(target, narrow(acc, dx.dtype.element_ty), valid)


@triton.jit
def add_tap(
    acc, grad, place, index, r: tl.constexpr, s: tl.constexpr,
    KERNEL_H: tl.constexpr, KERNEL_W: tl.constexpr,
):  # fmt: skip
    """acc with a window's gradient where its place is tap (r, s), if there is such a tap."""
    if r >= 0 and r < KERNEL_H and s >= 0 and s < KERNEL_W:
        if place.dtype == tl.int8:
            chosen = place == r * KERNEL_W + s
        else:
            chosen = place == index
        acc += tl.where(chosen, grad, 0.0)
    return acc


@triton.jit(do_not_specialize=CELL_GEOMETRY)
def pool2d_max_bwd_cells(
    dx, dy, places,
    dx_n, dx_c, dx_h, dx_w, dy_n, dy_c, dy_h, dy_w, places_n, places_c, places_h, places_w,
    channels, height, width, out_height, out_width, cells_h, cells_w, tiles_m, tiles_n,
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
    places += n * places_n
    c = c.to(OFFSETS)
    ACC: tl.constexpr = tl.float64 if dy.dtype.element_ty == tl.float64 else tl.float32
    grads = ()
    marks = ()
    dy_w = tl.cast(dy_w, OFFSETS)
    places_w = tl.cast(places_w, OFFSETS)
    for di in tl.static_range(FIRST_H, LAST_H + 1):
        p = i + di
        row_inside = row_valid & (p >= 0) & (p < out_height)
        dy_row = dy + (c * dy_c + p.to(OFFSETS) * dy_h + j.to(OFFSETS) * dy_w)
        places_row = places + (c * places_c + p.to(OFFSETS) * places_h + j.to(OFFSETS) * places_w)
        for dj in tl.static_range(FIRST_W, LAST_W + 1):
            q = j + dj
            inside = row_inside & (q >= 0) & (q < out_width) & lane_valid
            grad = widen(tl.load(dy_row + dj * dy_w, inside, 0.0), ACC)
            grads = grads + (grad,)  # noqa: RUF005 (Triton knows no unpacking)
            place = tl.load(places_row + dj * places_w, inside, -1)
            marks = marks + (place,)  # noqa: RUF005
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
                        marks[(di - FIRST_H) * (LAST_W - FIRST_W + 1) + dj - FIRST_W],
                        h * width + w + b,
                        a + PAD_H - di * STRIDE_H,
                        b + PAD_W - dj * STRIDE_W,
                        KERNEL_H,
                        KERNEL_W,
                    )
            within = valid & (h < height) & (w + b < width)
            tl.store(dx_row + b * dx_w, narrow(acc, dx.dtype.element_ty), within)


def launch_bwd(problem, dx, dy, places, config):
    """dx from dy and places (int64 indices or int8 offsets)."""
    windows = geometry(problem)
    windows, dx = windows.with_whole_planes_joined(dx, places)
    grid, scalars, constants = bwd_call(windows, dx, config)
    launch(
        pool2d_max_bwd_cells if windows.cells else pool2d_max_bwd,
        grid,
        config,
        dx,
        dx, dy, places,
        *dx.stride(), *dy.stride(), *places.stride(),
        *scalars,
        OFFSETS=offset_type(dx, dy, places),
        **constants,
    )  # fmt: skip
