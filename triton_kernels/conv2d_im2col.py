"""im2col and col2im for some rows of y of some images: between them a library's matrix product
(fastconv/backends/im2col.py).

    im2col    columns[(c, r, s)][pixel] = x[n][c][p * stride - pad + r * dilation][...], 0 outside
    col2im    dx[n][c][h][w] = the sum of columns[(c, r, s)][pixel] over the taps that read it:
              a gather, in the order of r and s, so the same bits every time

Layouts, whichever x has: columns [group][c][r][s][pixel], or, channels innermost,
[group][pixel][r][s][c]; pixel = (image, row, q). A program of im2col has a tile of one group's
columns, one of col2im a tile of dx; lanes lie along what is innermost.

Bound: bytes: im2col writes each element of x R * S times (over the stride), col2im reads as many.
The calls whose extents other kernels refuse are run here: OFFSETS are 64 bits wherever 32 might not
do. Limits: the columns of a call below 2^30 elements.
"""

import triton
import triton.language as tl

from .device.gather_axis import fprop_axis
from .device.language import narrow, widen
from .device.pixels import on_axis
from .epilogue import launch_epilogue
from .launch import Config, conv_geometry, launch, offset_type

_GEOMETRY = (
    "first_image images first_row rows columns_w height width kernel_h kernel_w stride_h stride_w "
    "pad_h pad_w dilation_h dilation_w tiles_m tiles_n"
).split()


@triton.jit(do_not_specialize=_GEOMETRY)
def conv2d_im2col(
    x, columns, x_n, x_c, x_h, x_w, channels, terms, pixels,
    first_image, images, first_row, rows, columns_w, height, width, kernel_h, kernel_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, tiles_m, tiles_n,
    CHANNELS_INNER: tl.constexpr, OFFSETS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0)
    pixel = index % tiles_m * BLOCK_M + tl.arange(0, BLOCK_M)
    index //= tiles_m
    term = index % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)
    group = (index // tiles_n).to(OFFSETS)
    if CHANNELS_INNER:
        channel = term % channels
        tap = term // channels
    else:
        channel = term // (kernel_h * kernel_w)
        tap = term % (kernel_h * kernel_w)
    row = pixel // columns_w
    n = (row // rows).to(OFFSETS) + first_image
    p = (row % rows).to(OFFSETS) + first_row
    q = (pixel % columns_w).to(OFFSETS)
    axis_h = fprop_axis(stride_h, pad_h, dilation_h)
    axis_w = fprop_axis(stride_w, pad_w, dilation_w)
    tap_h = (tap // kernel_w).to(OFFSETS) * axis_h.tap_offset + axis_h.source_first
    tap_w = (tap % kernel_w).to(OFFSETS) * axis_w.tap_offset + axis_w.source_first
    h = on_axis(p * axis_h.source_step, not CHANNELS_INNER) + on_axis(tap_h, CHANNELS_INNER)
    w = on_axis(q * axis_w.source_step, not CHANNELS_INNER) + on_axis(tap_w, CHANNELS_INNER)
    there = on_axis(pixel < pixels, not CHANNELS_INNER) & on_axis(term < terms, CHANNELS_INNER)
    inside = there & (h >= 0) & (h < height) & (w >= 0) & (w < width)
    plane = on_axis(n * x_n, not CHANNELS_INNER)
    plane += on_axis((group * channels + channel) * x_c, CHANNELS_INNER)
    value = tl.load(x + (plane + h * x_h + w * x_w), inside, 0.0)
    columns += group * terms * pixels
    if CHANNELS_INNER:
        offsets = pixel.to(OFFSETS)[:, None] * terms + term[None, :]
    else:
        offsets = term.to(OFFSETS)[:, None] * pixels + pixel[None, :]
    tl.store(columns + offsets, value, there)


@triton.jit(do_not_specialize=[*_GEOMETRY, "first_h", "h_rows"])
def conv2d_col2im(
    dx, columns, dx_n, dx_c, dx_h, dx_w, channels, terms, pixels, total_channels,
    first_image, images, first_row, rows, columns_w, height, width, kernel_h, kernel_w,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w, tiles_m, tiles_n, first_h, h_rows,
    CHANNELS_INNER: tl.constexpr, OFFSETS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    # terms are those of one group. tiles_m tiles cover h_rows rows of dx from first_h on, of every
    # image; tiles_n tiles cover all channels.
    index = tl.program_id(0)
    m = (index % tiles_m).to(OFFSETS) * BLOCK_M + tl.arange(0, BLOCK_M)
    c = index // tiles_m * BLOCK_N + tl.arange(0, BLOCK_N)
    group = (c // channels).to(OFFSETS)
    channel = (c % channels).to(OFFSETS)
    row = m // width
    image = row // h_rows
    h = row % h_rows + first_h
    w = m % width
    m_valid = image < images
    c_valid = c < total_channels
    base = group * terms * pixels
    acc = tl.zeros(
        (BLOCK_M, BLOCK_N) if CHANNELS_INNER else (BLOCK_N, BLOCK_M),
        tl.float64 if dx.dtype.element_ty == tl.float64 else tl.float32,
    )
    for r in range(kernel_h):
        for s in range(kernel_w):
            # The p and q of which this tap reads (h, w): h = p * stride - pad + r * dilation.
            distance_h = h + (pad_h - r * dilation_h)
            distance_w = w + (pad_w - s * dilation_w)
            p = distance_h // stride_h - first_row
            q = distance_w // stride_w
            reads = (distance_h >= 0) & (distance_h % stride_h == 0) & (p >= 0) & (p < rows)
            reads &= (distance_w >= 0) & (distance_w % stride_w == 0) & (q < columns_w)
            pixel = (image * rows + p) * columns_w + q
            if CHANNELS_INNER:
                term = (r * kernel_w + s) * channels + channel
                offsets = pixel[:, None] * terms + (base + term)[None, :]
            else:
                term = channel * (kernel_h * kernel_w) + (r * kernel_w + s)
                offsets = (base + term * pixels)[:, None] + pixel[None, :]
            valid = on_axis(reads & m_valid, not CHANNELS_INNER) & on_axis(c_valid, CHANNELS_INNER)
            acc += widen(tl.load(columns + offsets, valid, 0.0), acc.dtype)
    image += first_image
    offsets = on_axis(image * dx_n + h * dx_h + w * dx_w, not CHANNELS_INNER)
    offsets += on_axis(c.to(OFFSETS) * dx_c, CHANNELS_INNER)
    valid = on_axis(m_valid, not CHANNELS_INNER) & on_axis(c_valid, CHANNELS_INNER)
    tl.store(dx + offsets, narrow(acc, dx.dtype.element_ty), valid)


# With channels innermost block_m counts a tile's pixels and block_n its terms (in col2im channels);
# with pixels innermost the two are exchanged.
CONFIGS = (Config(32, 64, 1, 4),)


def _blocks(channels_inner):
    (config,) = CONFIGS
    sizes = (config.block_m, config.block_n)
    return config, sizes if channels_inner else sizes[::-1]


def _offsets(problem, x):
    """64 bits also where an expanded tensor has more pixels than its memory."""
    padded = problem.N * (problem.H + 2 * problem.pad_h) * (problem.W + 2 * problem.pad_w)
    return tl.int64 if padded >= 2**30 else offset_type(x)


def _geometry(problem, images, rows):
    return (
        *images, *rows, problem.out_size()[3], problem.H, problem.W, problem.R, problem.S,
        *conv_geometry(problem),
    )  # fmt: skip


def im2col(problem, x, columns, channels_inner, images, rows):
    channels = problem.C // problem.groups
    terms, pixels = channels * problem.R * problem.S, images[1] * rows[1] * problem.out_size()[3]
    config, (block_m, block_n) = _blocks(channels_inner)
    tiles_m, tiles_n = triton.cdiv(pixels, block_m), triton.cdiv(terms, block_n)
    launch(
        conv2d_im2col,
        (tiles_m * tiles_n * problem.groups,),
        config,
        x,
        x, columns, *x.stride(), channels, terms, pixels,
        *_geometry(problem, images, rows), tiles_m, tiles_n,
        CHANNELS_INNER=channels_inner,
        OFFSETS=_offsets(problem, x),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
    )  # fmt: skip


def col2im(problem, dx, columns, channels_inner, images, rows, dx_rows):
    channels = problem.C // problem.groups
    terms, pixels = channels * problem.R * problem.S, images[1] * rows[1] * problem.out_size()[3]
    config, (block_m, block_n) = _blocks(channels_inner)
    tiles_m = triton.cdiv(images[1] * dx_rows[1] * problem.W, block_m)
    tiles_n = triton.cdiv(problem.C, block_n)
    launch(
        conv2d_col2im,
        (tiles_m * tiles_n,),
        config,
        dx,
        dx, columns, *dx.stride(), channels, terms, pixels, problem.C,
        *_geometry(problem, images, rows), tiles_m, tiles_n, *dx_rows,
        CHANNELS_INNER=channels_inner,
        OFFSETS=_offsets(problem, dx),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
    )  # fmt: skip


epilogue = launch_epilogue  # the third of the kernels that im2col.convolve asks for
