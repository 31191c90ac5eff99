"""What follows a convolution before its result is stored, y = activation(z + bias[k] + residual),
as functions of the convolutions' kernels, and on its own:

    fwd: y = activation(z + bias[k] + residual)
    bwd: dz = dy * activation'(saved), db[k] = sum of dz over n, p, q, in one pass over dy

`saved` is the activated output for the activations whose slope it tells, else the pre-activation. A
program of fwd has a tile of pixels x channels, lanes along whichever are adjacent in memory. A
program of bwd walks through a slice of the pixels, tile by tile, and sums dz before it is rounded;
epilogue_bias_reduce then adds up the slices' sums in a fixed order.

Bound: bytes. The activations are those of csrc/problem/activation.h.
"""

import torch
import triton
import triton.language as tl

from ..activations import native
from .device.language import narrow, widen
from .device.pixels import on_axis
from .launch import Config, launch, offset_type, pixels_inner, strides

_SQRT_HALF = tl.constexpr(0.70710678118654752440)
_INV_SQRT_TAU = tl.constexpr(0.39894228040143267794)


@triton.jit
def sigmoid(z):
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def normal_cdf(z):
    return 0.5 * (1.0 + tl.erf(z * _SQRT_HALF))


@triton.jit
def exp_minus_1(z):
    """exp(z) - 1; near 0, where the difference would lose digits, by its Taylor series."""
    TERMS: tl.constexpr = 16 if z.dtype == tl.float64 else 9  # of it, for |z| < 1/2
    series = z * (1.0 / TERMS) + 1.0
    for n in tl.static_range(TERMS - 1, 1, -1):
        series = series * (z * (1.0 / n)) + 1.0
    return tl.where(tl.abs(z) < 0.5, z * series, tl.exp(z) - 1.0)


@triton.jit
def tanh(z):
    """(exp(2 z) - 1) / (exp(2 z) + 1). From z = 20 on it is 1 in all types."""
    e = exp_minus_1(2.0 * tl.where(z > 20, 20.0, z))
    return e / (e + 2.0)


@triton.jit
def tanh_of_softplus(z):
    """tanh(log(1 + exp(z))) = n / (n + 2) with n = exp(z) (exp(z) + 2). From z = 20 on it is 1 in
    all types, and n is kept finite."""
    e = tl.exp(tl.where(z > 20, 20.0, z))
    n = e * (e + 2.0)
    return n / (n + 2.0)


@triton.jit
def activate(z, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr):
    """activation(z). Comparisons are written so that a NaN passes through, as in torch."""
    if ACTIVATION == "relu":
        z = tl.where(z < 0, 0.0, z)
    elif ACTIVATION == "relu6":
        z = tl.where(z < 0, 0.0, tl.where(z > 6, 6.0, z))
    elif ACTIVATION == "silu":
        z = z * sigmoid(z)
    elif ACTIVATION == "gelu":
        z = z * normal_cdf(z)
    elif ACTIVATION == "hardswish":
        # z times a zero where z <= -3: -0, and NaN where z is -inf.
        z = tl.where(z >= 3, z, z * tl.where(z > -3, z + 3, 0.0) * (1.0 / 6.0))
    elif ACTIVATION == "leaky_relu":
        z = tl.where(z > 0, z, z * PARAMETER)
    elif ACTIVATION == "elu":
        z = tl.where(z < 0, PARAMETER * exp_minus_1(z), z)
    elif ACTIVATION == "mish":
        z = z * tanh_of_softplus(z)
    elif ACTIVATION == "sigmoid":
        z = sigmoid(z)
    elif ACTIVATION == "tanh":
        z = tanh(z)
    elif ACTIVATION == "hardsigmoid":
        z = tl.where(z <= -3, 0.0, tl.where(z >= 3, 1.0, (z + 3) * (1.0 / 6.0)))
    else:
        tl.static_assert(ACTIVATION == "none", "activate() in epilogue.py lacks an activation")
    return z


@triton.jit
def activation_gradient(dy, z, ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr):
    """dy * d activation / dz. Flat pieces give 0 whatever dy is, and a NaN counts as a piece of the
    slope that it has in torch. For relu, relu6 and leaky_relu with a slope >= 0 the activated value
    serves as well as z."""
    if ACTIVATION == "relu":
        dy = tl.where(z <= 0, 0.0, dy)
    elif ACTIVATION == "relu6":
        dy = tl.where((z <= 0) | (z >= 6), 0.0, dy)
    elif ACTIVATION == "silu":
        s = sigmoid(z)
        dy *= s * (1.0 + z * (1.0 - s))
    elif ACTIVATION == "gelu":
        dy *= normal_cdf(z) + z * _INV_SQRT_TAU * tl.exp(-0.5 * z * z)
    elif ACTIVATION == "hardswish":
        dy = tl.where(z <= -3, 0.0, tl.where(z < 3, dy * (z * (1.0 / 3.0) + 0.5), dy))
    elif ACTIVATION == "leaky_relu":
        dy = tl.where(z > 0, dy, dy * PARAMETER)
    elif ACTIVATION == "elu":
        dy = tl.where(z <= 0, dy * (PARAMETER * tl.exp(z)), dy)
    elif ACTIVATION == "mish":
        t = tanh_of_softplus(z)
        dy *= t + z * sigmoid(z) * (1.0 - t * t)
    elif ACTIVATION == "sigmoid":
        s = sigmoid(z)
        dy *= s * (1.0 - s)
    elif ACTIVATION == "tanh":
        e = tl.exp(-2.0 * tl.abs(z))  # 1 - tanh(z)^2 without the difference
        dy *= 4.0 * e / ((1.0 + e) * (1.0 + e))
    elif ACTIVATION == "hardsigmoid":
        dy = tl.where((z > -3) & (z < 3), dy * (1.0 / 6.0), 0.0)
    else:
        tl.static_assert(
            ACTIVATION == "none", "activation_gradient() in epilogue.py lacks an activation"
        )
    return dy


@triton.jit
def load_tile(pointer, rows, columns, mask, OTHER: tl.constexpr, TRANSPOSED: tl.constexpr):
    """The (rows, columns) tile at pointer + rows[:, None] + columns[None, :]. Where TRANSPOSED the
    lanes lie along rows, and the mask's shape is (columns, rows)."""
    if TRANSPOSED:
        tile = tl.trans(tl.load(pointer + (columns[:, None] + rows[None, :]), mask, OTHER))
    else:
        tile = tl.load(pointer + (rows[:, None] + columns[None, :]), mask, OTHER)
    return tile


@triton.jit
def store_pixels(
    z, out, bias, residual, out_rows, out_columns, residual_rows, residual_columns, channel,
    row_valid, column_valid,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
    PARAMETER: tl.constexpr, PIXELS_INNER: tl.constexpr,
):  # fmt: skip
    """Applies the epilogue to a (pixels, channels) tile and stores it, lanes along pixels or along
    channels, whichever are adjacent in memory. *_rows are the offsets of pixels, *_columns those of
    channels."""
    if PIXELS_INNER:
        z = tl.trans(z)
        valid = column_valid[:, None] & row_valid[None, :]
        offsets = out_columns[:, None] + out_rows[None, :]
    else:
        valid = row_valid[:, None] & column_valid[None, :]
        offsets = out_rows[:, None] + out_columns[None, :]
    if HAS_BIAS:
        b = widen(tl.load(bias + channel, column_valid, 0.0), z.dtype)
        if PIXELS_INNER:
            z += b[:, None]
        else:
            z += b[None, :]
    if HAS_RESIDUAL:
        if PIXELS_INNER:
            residual_offsets = residual_columns[:, None] + residual_rows[None, :]
        else:
            residual_offsets = residual_rows[:, None] + residual_columns[None, :]
        z += widen(tl.load(residual + residual_offsets, valid, 0.0), z.dtype)
    z = activate(z, ACTIVATION, PARAMETER)
    tl.store(out + offsets, narrow(z, out.dtype.element_ty), valid)


@triton.jit
def tile_offsets(n, h, w, channel, strides, PIXELS_INNER: tl.constexpr):
    """The offsets of a (pixels, channels) tile in a tensor with these strides."""
    pixels = n * strides.n + h * strides.h + w * strides.w
    return on_axis(pixels, PIXELS_INNER) + on_axis(channel * strides.c, not PIXELS_INNER)


@triton.jit(do_not_specialize=["images", "height", "width", "tiles_n"])
def epilogue_forward(
    z, y, bias, residual, channels, images, height, width, tiles_n,
    z_strides, y_strides, residual_strides,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ACTIVATION: tl.constexpr,
    PARAMETER: tl.constexpr, PIXELS_INNER: tl.constexpr, OFFSETS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0)
    pixel = (index // tiles_n).to(OFFSETS) * BLOCK_M + tl.arange(0, BLOCK_M)
    channel = (index % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(OFFSETS)
    n = pixel // width // height
    h = pixel // width % height
    w = pixel % width
    valid = on_axis(n < images, PIXELS_INNER) & on_axis(channel < channels, not PIXELS_INNER)
    dtype: tl.constexpr = tl.float64 if z.dtype.element_ty == tl.float64 else tl.float32
    offsets = tile_offsets(n, h, w, channel, z_strides, PIXELS_INNER)
    value = widen(tl.load(z + offsets, valid, 0.0), dtype)
    if HAS_BIAS:
        b = widen(tl.load(bias + channel, channel < channels, 0.0), dtype)
        value += on_axis(b, not PIXELS_INNER)
    if HAS_RESIDUAL:
        offsets = tile_offsets(n, h, w, channel, residual_strides, PIXELS_INNER)
        value += widen(tl.load(residual + offsets, valid, 0.0), dtype)
    value = activate(value, ACTIVATION, PARAMETER)
    offsets = tile_offsets(n, h, w, channel, y_strides, PIXELS_INNER)
    tl.store(y + offsets, narrow(value, y.dtype.element_ty), valid)


@triton.jit(do_not_specialize=["images", "height", "width", "tiles_n", "steps_per_slice"])
def epilogue_backward(
    dy, saved, dz, partial, channels, images, height, width, tiles_n, steps_per_slice,
    dy_strides, saved_strides, dz_strides,
    HAS_SAVED: tl.constexpr, HAS_DZ: tl.constexpr, ACTIVATION: tl.constexpr,
    PARAMETER: tl.constexpr, PIXELS_INNER: tl.constexpr, OFFSETS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0)
    slice = index // tiles_n
    channel = (index % tiles_n * BLOCK_N + tl.arange(0, BLOCK_N)).to(OFFSETS)
    dtype: tl.constexpr = tl.float64 if dy.dtype.element_ty == tl.float64 else tl.float32
    total = tl.zeros((BLOCK_N, BLOCK_M) if PIXELS_INNER else (BLOCK_M, BLOCK_N), dtype)
    first = slice.to(OFFSETS) * steps_per_slice
    for step in range(steps_per_slice):
        pixel = (first + step) * BLOCK_M + tl.arange(0, BLOCK_M)
        n = pixel // width // height
        h = pixel // width % height
        w = pixel % width
        valid = on_axis(n < images, PIXELS_INNER) & on_axis(channel < channels, not PIXELS_INNER)
        offsets = tile_offsets(n, h, w, channel, dy_strides, PIXELS_INNER)
        value = widen(tl.load(dy + offsets, valid, 0.0), dtype)
        if HAS_SAVED:
            offsets = tile_offsets(n, h, w, channel, saved_strides, PIXELS_INNER)
            z = widen(tl.load(saved + offsets, valid, 0.0), dtype)
            value = activation_gradient(value, z, ACTIVATION, PARAMETER)
        if HAS_DZ:
            offsets = tile_offsets(n, h, w, channel, dz_strides, PIXELS_INNER)
            tl.store(dz + offsets, narrow(value, dz.dtype.element_ty), valid)
        total += value
    db = tl.sum(total, 1 if PIXELS_INNER else 0)
    tl.store(partial + slice.to(OFFSETS) * channels + channel, db, channel < channels)


@triton.jit(do_not_specialize=["slices"])
def epilogue_bias_reduce(
    partial, db, channels, slices, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr
):  # fmt: skip
    # A step loads many slices: one by one, each would wait for memory.
    channel = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    valid = channel < channels
    total = tl.zeros((BLOCK_M, BLOCK_N), partial.dtype.element_ty)
    for first in range(0, slices, BLOCK_M):
        slice = first + tl.arange(0, BLOCK_M)
        offsets = slice[:, None] * channels + channel[None, :]
        total += tl.load(partial + offsets, (slice < slices)[:, None] & valid[None, :], 0.0)
    tl.store(db + channel, narrow(tl.sum(total, 0), db.dtype.element_ty), valid)


# block_m: elements of a tile. block_n: its channels where lanes lie along channels; block_k: where
# they lie along pixels.
CONFIGS = (Config(2048, 64, 4, 4),)
_REDUCE = Config(128, 16, 1, 4)  # slices and channels in a step of epilogue_bias_reduce
_PROGRAMS_PER_SM = 8


def constants(activation):
    """The constants that kernels take of a call's activation."""
    found = native(activation)
    return {"ACTIVATION": found.kind.name, "PARAMETER": found.parameter}


def _tiles(tensor):
    """(the configuration, BLOCK_M, BLOCK_N, tiles along pixels, along channels)."""
    (config,) = CONFIGS
    n, channels, h, w = tensor.shape
    most = config.block_k if pixels_inner(tensor) else config.block_n
    block_n = min(most, triton.next_power_of_2(channels))
    block_m = config.block_m // block_n
    return config, block_m, block_n, triton.cdiv(n * h * w, block_m), triton.cdiv(channels, block_n)


def _offsets(*tensors):
    """64 bits also where an expanded tensor has more pixels than its memory."""
    n, _, h, w = tensors[0].shape
    return tl.int64 if n * h * w >= 2**30 else offset_type(*tensors)


def launch_epilogue(z, bias, residual, activation, y=None):
    """y = activation(z + bias + residual); written to z without y."""
    y = z if y is None else y
    n, channels, h, w = z.shape
    config, block_m, block_n, tiles_m, tiles_n = _tiles(z)
    launch(
        epilogue_forward,
        (tiles_m * tiles_n,),
        config,
        z,
        z, y, bias, residual, channels, n, h, w, tiles_n,
        strides(z), strides(y), strides(residual),
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        **constants(activation),
        PIXELS_INNER=pixels_inner(z),
        OFFSETS=_offsets(z, y, residual),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
    )  # fmt: skip


def launch_backward(dy, saved, activation, dz, db, sm_count):
    """dz = dy * activation'(saved), or dy without saved; db = its sums. dz may be None."""
    n, channels, h, w = dy.shape
    config, block_m, block_n, tiles_m, tiles_n = _tiles(dy)
    slices = max(1, min(tiles_m, _PROGRAMS_PER_SM * sm_count // tiles_n))
    steps = triton.cdiv(tiles_m, slices)
    slices = triton.cdiv(tiles_m, steps)
    dtype = torch.float64 if dy.dtype == torch.float64 else torch.float32
    partial = torch.empty((slices, channels), dtype=dtype, device=dy.device)
    launch(
        epilogue_backward,
        (slices * tiles_n,),
        config,
        dy,
        dy, saved, dz, partial, channels, n, h, w, tiles_n, steps,
        strides(dy), strides(saved), strides(dz),
        HAS_SAVED=saved is not None,
        HAS_DZ=dz is not None,
        **constants(activation),
        PIXELS_INNER=pixels_inner(dy),
        OFFSETS=_offsets(dy, saved, dz),
        BLOCK_M=block_m,
        BLOCK_N=block_n,
    )  # fmt: skip
    launch(
        epilogue_bias_reduce,
        (triton.cdiv(channels, _REDUCE.block_n),),
        _REDUCE,
        dy,
        partial, db, channels, slices,
        BLOCK_M=_REDUCE.block_m,
        BLOCK_N=_REDUCE.block_n,
    )  # fmt: skip
