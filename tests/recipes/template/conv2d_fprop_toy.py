"""Fprop by plain sums, one term at a time: the smallest kernel that follows the protocol of
triton_kernels/plan.py, to begin a new one with.

    y[n, k, p, q] = sum over (c, r, s) of x[n, group * channels + c, h, w] * w[k, c, r, s]

A program owns BLOCK elements of y, which it counts in the order n, p, q, k: where channels are
adjacent, so are the elements that it stores. The epilogue is a kernel of its own.

Bound: loads, one of x and one of w for each multiply-add.
"""

import torch
import triton
import triton.language as tl

from .device.language import narrow, widen
from .epilogue import launch_epilogue
from .launch import Config, conv_geometry, launch, offset_type


@triton.jit
def conv2d_fprop_toy(
    x, w, y,
    x_n, x_c, x_h, x_w, w_k, w_c, w_r, w_s, y_n, y_c, y_h, y_w,
    elements, filters, filters_per_group, height, width, out_height, out_width,
    stride_h, stride_w, pad_h, pad_w, dilation_h, dilation_w,
    channels, kernel_h, kernel_w,
    SUM: tl.constexpr, OFFSETS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    at = tl.program_id(0).to(OFFSETS) * BLOCK + tl.arange(0, BLOCK)
    valid = at < elements
    k = at % filters
    q = at // filters % out_width
    p = at // filters // out_width % out_height
    n = at // filters // out_width // out_height
    acc = tl.zeros((BLOCK,), SUM)
    for c in range(channels):
        source = x + n * x_n + (k // filters_per_group * channels + c) * x_c
        for r in range(kernel_h):
            h = p * stride_h - pad_h + r * dilation_h
            for s in range(kernel_w):
                v = q * stride_w - pad_w + s * dilation_w
                inside = valid & (h >= 0) & (h < height) & (v >= 0) & (v < width)
                a = tl.load(source + h * x_h + v * x_w, inside, 0.0)
                b = tl.load(w + k * w_k + c * w_c + r * w_r + s * w_s, valid, 0.0)
                acc += widen(a, SUM) * widen(b, SUM)
    y += n * y_n + k * y_c + p * y_h + q * y_w
    tl.store(y, narrow(acc, y.dtype.element_ty), valid)


# block_m: elements of y.
CONFIGS = (Config(256, 1, 1, 4), Config(1024, 1, 1, 4))


def table_config(op, problem, dtype, sm_count):
    """The larger tile where there are enough of them."""
    elements = problem.N * problem.K * problem.P * problem.Q
    return CONFIGS[elements >= 8 * sm_count * CONFIGS[1].block_m]


def slices(op, problem, dtype, config, sm_count):
    return 1


def launch_conv2d(op, problem, x, w, y, epilogue, config, math, splits):
    """Runs fprop: x, w -> y, with the epilogue (bias or None, residual or None, activation)."""
    bias, residual, activation = epilogue
    launch(
        conv2d_fprop_toy,
        (triton.cdiv(y.numel(), config.block_m),),
        config,
        x,
        x, w, y,
        *x.stride(), *w.stride(), *y.stride(),
        y.numel(), problem.K, problem.K // problem.groups, *x.shape[2:], *y.shape[2:],
        *conv_geometry(problem),
        problem.C // problem.groups, problem.R, problem.S,
        SUM=tl.float64 if x.dtype == torch.float64 else tl.float32,
        OFFSETS=offset_type(x, w, y),
        BLOCK=config.block_m,
    )  # fmt: skip
    if bias is not None or residual is not None or activation != "none":
        launch_epilogue(y, bias, residual, activation)
