"""Where pooling windows lie, and which elements a program owns.

    dense:    window p holds p * stride - pad + r for r in [0, kernel)
    dilated:  window p holds p * stride - pad + r * dilation for r in [0, kernel)
    adaptive: window p holds [floor(p * size / out), ceil((p + 1) * size / out))
    whole:    one window holds a plane, which is a single row

The functions take positions of any shape. A program's tile is block_m rows x block_n lanes of one
image. Lanes lie along what is adjacent in memory: where that is channels, a row is a pixel (h, w);
where it is columns w, a row is a (c, h).
"""

import functools
from typing import NamedTuple

import torch
import triton
import triton.language as tl

from ..launch import Config, pixels_inner

# block_m, block_n: rows and lanes. A thread has 8 channels, whose loads share addresses, or 4
# columns, each of which has its own address: with more of those, or of float64, registers spill.
TILES = (Config(64, 16, 1, 8), Config(16, 64, 1, 8), Config(16, 64, 1, 4))
_FOUR_EACH, _EIGHT_EACH = TILES[:2], TILES[::2]
# Taps that are unrolled; as many windows' gradients are held at once.
MOST_UNROLLED = 9
_INT32 = 2**31


class Axis(NamedTuple):
    """Windows along h or w. Of adaptive pooling, kernel, stride, pad and dilation say nothing."""

    size: int  # of x
    out: int  # of y
    kernel: int = 1
    stride: int = 1
    pad: int = 0
    dilation: int = 1
    adaptive: bool = False

    @property
    def longest_window(self):
        """Elements of a window at most."""
        if self.adaptive:
            whole, rest = divmod(self.size, self.out)
            return min(self.size, whole + (2 if rest else 0))
        return min(self.size, self.kernel)

    @property
    def longest_cover(self):
        """Windows from the first to the last that hold a position, at most."""
        if self.adaptive:
            whole, rest = divmod(self.out, self.size)
            return min(self.out, whole + (2 if rest else 0))
        return min(self.out, (self.kernel - 1) * self.dilation // self.stride + 1)

    @property
    def is_whole(self):
        """Whether there is one window that holds every position."""
        holds_all = self.dilation == 1 and self.kernel - self.pad >= self.size
        return self.out == 1 and (self.adaptive or holds_all)

    def common_extent(self, count_include_pad):
        """The factor of an average's divisor where all windows have the same, else None."""
        if self.adaptive:
            return self.size // self.out if self.size % self.out == 0 else None
        margin = self.pad if count_include_pad else 0
        start = (self.out - 1) * self.stride - self.pad
        end = min(start + self.kernel, self.size + margin)
        if self.out == 1:
            return end - max(start, -margin)
        return self.kernel if self.pad == margin and end == start + self.kernel else None

    @property
    def cell_windows(self):
        """The windows that hold one of the positions [0, stride), a cell, as a range: as if there
        were windows before the first and after the last. Cell i meets those i further on."""
        first = -((self.kernel - 1 - self.pad) // self.stride)
        return range(first, (self.stride - 1 + self.pad) // self.stride + 1)

    @property
    def largest_index(self):
        """No position, and nothing that one is computed from, is larger; tiles reach beyond out."""
        beyond = self.out + 1024
        if self.adaptive:
            return max(self.size * (beyond + 1) + self.out, (self.size + 1024) * self.out)
        reach = (self.kernel + 1) * self.dilation
        return self.size + 1024 + 2 * self.pad + beyond * self.stride + reach


class PoolGeometry(NamedTuple):
    """A pooling problem by axes."""

    N: int
    C: int
    h: Axis
    w: Axis
    whole: bool = False

    @property
    def adaptive(self):
        return self.h.adaptive

    @property
    def kind(self):
        """The constexpr KIND."""
        if self.adaptive:
            return "whole" if self.whole else "adaptive"
        return "dense" if self.h.dilation == self.w.dilation == 1 else "dilated"

    def common_extent(self, count_include_pad):
        """The divisor of averages where all windows have the same, else None."""
        h, w = (axis.common_extent(count_include_pad) for axis in (self.h, self.w))
        return None if h is None or w is None else h * w

    @property
    def cells(self):
        """Whether backward's kernel for cells takes these windows: they must have few elements, and
        few of them may meet a cell."""
        cell = self.h.stride * self.w.stride
        return (
            self.kind == "dense"
            and max(self.h.kernel * self.w.kernel, cell) <= MOST_UNROLLED
            and len(self.h.cell_windows) * len(self.w.cell_windows) <= MOST_UNROLLED
        )

    @property
    def index_type(self):
        """The constexpr INDEX, in which positions and their indices in a plane are computed."""
        axes = max(self.h.largest_index, self.w.largest_index)
        image = self.C * max(self.h.size * self.w.size, self.h.out * self.w.out)
        return tl.int32 if max(axes, image) < _INT32 - 1024 else tl.int64

    @property
    def scalars(self):
        """What every pooling kernel is told of the windows, in the order of GEOMETRY."""
        h, w = self.h, self.w
        return (
            h.size, w.size, h.out, w.out, h.kernel, w.kernel, h.stride, w.stride, h.pad, w.pad,
            h.dilation, w.dilation,
        )  # fmt: skip

    def with_whole_planes_joined(self, x, places=None):
        """(geometry, x) in which a window over the whole of planes without gaps is one over a
        single row of H * W elements; unchanged where there is no such window, or where places are
        offsets that would change."""
        H, W = x.shape[2:]
        joined = self.h.is_whole and self.w.is_whole and x.stride(2) == W * x.stride(3)
        if joined and places is not None and places.dtype == torch.int8:
            joined = self.h.pad == self.w.pad == 0 and self.w.kernel == W
        if not joined:
            return self, x
        one_row = x.as_strided((*x.shape[:2], 1, H * W), (*x.stride()[:2], 0, x.stride(3)))
        h, w = (Axis(size, 1, adaptive=True) for size in (1, H * W))
        return PoolGeometry(self.N, self.C, h, w, True), one_row


# Arguments that no kernel is compiled for; the width is left out, since lanes may lie along it.
GEOMETRY = (
    "height out_height out_width kernel_h kernel_w stride_h stride_w pad_h pad_w dilation_h "
    "dilation_w tiles_m tiles_n"
).split()


CELL_GEOMETRY = "height out_height out_width cells_h cells_w tiles_m tiles_n".split()


@functools.lru_cache(maxsize=4096)
def _geometry(sizes):
    if len(sizes) == 6:
        N, C, H, W, P, Q = sizes
        return PoolGeometry(N, C, Axis(H, P, adaptive=True), Axis(W, Q, adaptive=True))
    N, C, *axes, P, Q = sizes
    h, w = (Axis(axis[0], out, *axis[1:]) for axis, out in ((axes[0::2], P), (axes[1::2], Q)))
    return PoolGeometry(N, C, h, w)


def geometry(problem):
    """The PoolGeometry of a PoolProblem or an AdaptivePoolProblem."""
    sizes = problem.sizes
    return _geometry(sizes if len(sizes) == 6 else (*sizes[:-1], problem.P, problem.Q))


def tile_for(lanes, tensor):
    """The one of TILES that leaves the fewest lanes idle; among equals the one with most lanes."""
    few = pixels_inner(tensor) or tensor.dtype == torch.float64
    tiles = _FOUR_EACH if few else _EIGHT_EACH
    return min(
        reversed(tiles), key=lambda config: triton.cdiv(lanes, config.block_n) * config.block_n
    )


@triton.jit
def window(
    p, size, out, kernel, stride, pad, dilation, KIND: tl.constexpr, INDEX: tl.constexpr
):  # fmt: skip
    """(begin, count, skipped) of window p: its first element's position, its number of elements,
    its taps in the padding before them. begin lies in the tensor even where count is 0."""
    if KIND == "whole":
        begin = tl.full((1, 1), 0, INDEX)
        count = begin + size
        skipped = begin
    elif KIND == "adaptive":
        p = p.to(INDEX)
        begin = p * size // out
        count = ((p + 1) * size + out - 1) // out - begin
        skipped = begin * 0
    else:
        start = p.to(INDEX) * stride - pad
        if KIND == "dilated":
            skipped = tl.maximum(dilation - 1 - start, 0) // dilation
            begin = start + skipped * dilation
            inside = tl.maximum(size - 1 - begin + dilation, 0) // dilation
        else:
            skipped = tl.maximum(-start, 0)
            begin = start + skipped
            inside = size - begin
        count = tl.maximum(tl.minimum(kernel - skipped, inside), 0)
        begin = tl.minimum(begin, size - 1)
    return begin, count, skipped


@triton.jit
def extent(
    p, size, out, kernel, stride, pad,
    KIND: tl.constexpr, COUNT_INCLUDE_PAD: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """Window p's size along the axis, as averages count it: a factor of their divisor."""
    if KIND == "adaptive" or KIND == "whole" or not COUNT_INCLUDE_PAD:
        _, result, _ = window(p, size, out, kernel, stride, pad, 1, KIND, INDEX)
    else:
        start = p.to(INDEX) * stride - pad
        result = tl.minimum(start + kernel, size + pad) - start
    return result


@triton.jit
def cover(
    position, size, out, kernel, stride, pad, dilation, KIND: tl.constexpr, INDEX: tl.constexpr
):  # fmt: skip
    """(first, count): the windows from the first to the last that hold a position. With dilation
    some between these two do not hold it."""
    position = position.to(INDEX)
    if KIND == "whole":
        first = tl.full((1, 1), 0, INDEX)
        last = first
    elif KIND == "adaptive":
        first = position * out // size
        last = ((position + 1) * out - 1) // size
    else:
        beyond = position + pad - (kernel - 1).to(INDEX) * dilation
        first = tl.maximum(beyond + stride - 1, 0) // stride
        last = tl.minimum((position + pad) // stride, out - 1)
    return first, last - first + 1


@triton.jit
def owned_tile(
    program, channels, height, width, tiles_m, tiles_n,
    PIXELS_INNER: tl.constexpr, INDEX: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """(n, c, h, w, whether rows and whether lanes are in the tensor), to be broadcast to (rows,
    lanes)."""
    tile_n = program % tiles_n
    program //= tiles_n
    tile_m = program % tiles_m
    n = (program // tiles_m).to(tl.int64)
    row = (tile_m.to(INDEX) * BLOCK_M + tl.arange(0, BLOCK_M))[:, None]
    lane = (tile_n.to(INDEX) * BLOCK_N + tl.arange(0, BLOCK_N))[None, :]
    if PIXELS_INNER:
        c = row // height
        h = row % height
        w = lane
        row_valid = row < tl.cast(height, INDEX) * channels
        lane_valid = lane < width
    else:
        c = lane
        h = row // width
        w = row % width
        row_valid = row < tl.cast(height, INDEX) * width
        lane_valid = lane < channels
    return n, c, h, w, row_valid, lane_valid


def tiles(config, channels, height, width, pixels_inner):
    """(along rows, along lanes) of an image, for owned_tile."""
    rows, lanes = (channels * height, width) if pixels_inner else (height * width, channels)
    return triton.cdiv(rows, config.block_m), triton.cdiv(lanes, config.block_n)


def bwd_config(problem, dx, sm_count):
    """A backward kernel's configuration."""
    windows, dx = geometry(problem).with_whole_planes_joined(dx)
    columns = triton.cdiv(windows.w.size, windows.w.stride) if windows.cells else windows.w.size
    return tile_for(columns if pixels_inner(dx) else windows.C, dx)


def bwd_call(windows, dx, config):
    """(grid, scalars, constants) of a backward kernel, of that for cells where windows.cells."""
    along_columns = pixels_inner(dx)
    h, w = windows.h, windows.w
    sizes = h.size, w.size, h.out, w.out
    constants = {
        "INDEX": windows.index_type,
        "PIXELS_INNER": along_columns,
        "BLOCK_M": config.block_m,
        "BLOCK_N": config.block_n,
    }
    if windows.cells:
        cells = triton.cdiv(h.size, h.stride), triton.cdiv(w.size, w.stride)
        tiled = tiles(config, windows.C, *cells, along_columns)
        scalars = (windows.C, *sizes, *cells, *tiled)
        for letter, axis in (("H", h), ("W", w)):
            constants |= {
                f"KERNEL_{letter}": axis.kernel,
                f"STRIDE_{letter}": axis.stride,
                f"PAD_{letter}": axis.pad,
                f"FIRST_{letter}": axis.cell_windows[0],
                f"LAST_{letter}": axis.cell_windows[-1],
            }
    else:
        tiled = tiles(config, windows.C, h.size, w.size, along_columns)
        scalars = (windows.C, *windows.scalars, *tiled, h.longest_cover, w.longest_cover)
        constants["KIND"] = windows.kind
    return (windows.N * tiled[0] * tiled[1],), scalars, constants
