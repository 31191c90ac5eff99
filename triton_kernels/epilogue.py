"""What follows a convolution before its result is stored, y = activation(z + bias[k] + residual),
and its backward; the activations are those of csrc/problem/activation.h."""

import triton
import triton.language as tl

from .language import narrow, widen

_SQRT_HALF = tl.constexpr(0.70710678118654752440)
_INV_SQRT_TAU = tl.constexpr(0.39894228040143267794)


@triton.jit
def sigmoid(z):
    return 1.0 / (1.0 + tl.exp(-z))


@triton.jit
def normal_cdf(z):
    return 0.5 * (1.0 + tl.erf(z * _SQRT_HALF))


@triton.jit
def activate(z, ACTIVATION: tl.constexpr):
    """Comparisons are written so that a NaN passes through, as in torch."""
    if ACTIVATION == "relu":
        z = tl.where(z < 0, 0.0, z)
    elif ACTIVATION == "relu6":
        z = tl.where(z < 0, 0.0, tl.where(z > 6, 6.0, z))
    elif ACTIVATION == "silu":
        z = z * sigmoid(z)
    elif ACTIVATION == "gelu":
        z = z * normal_cdf(z)
    elif ACTIVATION == "hardswish":
        z = tl.where(z <= -3, 0.0, tl.where(z >= 3, z, z * (z + 3) * (1.0 / 6.0)))
    return z


@triton.jit
def activation_slope(z, ACTIVATION: tl.constexpr):
    """d activation / dz. For relu and relu6 the activated value serves as well as z."""
    if ACTIVATION == "relu":
        slope = tl.where(z <= 0, 0.0, 1.0)
    elif ACTIVATION == "relu6":
        slope = tl.where((z <= 0) | (z >= 6), 0.0, 1.0)
    elif ACTIVATION == "silu":
        s = sigmoid(z)
        slope = s * (1.0 + z * (1.0 - s))
    elif ACTIVATION == "gelu":
        slope = normal_cdf(z) + z * _INV_SQRT_TAU * tl.exp(-0.5 * z * z)
    elif ACTIVATION == "hardswish":
        slope = tl.where(z <= -3, 0.0, tl.where(z >= 3, 1.0, z * (1.0 / 3.0) + 0.5))
    else:
        slope = tl.full(z.shape, 1.0, z.dtype)
    return slope.to(z.dtype)


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
    PIXELS_INNER: tl.constexpr,
):  # fmt: skip
    """Stores a (pixels, channels) tile with its epilogue: lanes along pixels or along channels,
    whichever are adjacent in memory. Rows and columns are offsets in elements."""
    if PIXELS_INNER:
        z = tl.trans(z)
        valid = column_valid[:, None] & row_valid[None, :]
        place = out_columns[:, None] + out_rows[None, :]
    else:
        valid = row_valid[:, None] & column_valid[None, :]
        place = out_rows[:, None] + out_columns[None, :]
    if HAS_BIAS:
        b = widen(tl.load(bias + channel, column_valid, 0.0), z.dtype)
        if PIXELS_INNER:
            z += b[:, None]
        else:
            z += b[None, :]
    if HAS_RESIDUAL:
        if PIXELS_INNER:
            source = residual_columns[:, None] + residual_rows[None, :]
        else:
            source = residual_rows[:, None] + residual_columns[None, :]
        z += widen(tl.load(residual + source, valid, 0.0), z.dtype)
    z = activate(z, ACTIVATION)
    tl.store(out + place, narrow(z, out.dtype.element_ty), valid)
