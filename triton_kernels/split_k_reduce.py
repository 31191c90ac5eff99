"""Sums the slices of a split gemm_k, in the order of the slices: the same bits every time.

    fprop, dgrad: partial (split, n, h, w, channel) -> out, with the epilogue
    wgrad:        partial (split, filter, r, s, channel) -> dw

A program owns block_m elements of the result that are adjacent in partial, and adds up the slices
one by one. Bound: bytes, at most 4 * (splits + 1) an element, in float64 twice as many.
"""

import torch
import triton
import triton.language as tl

from .device.language import narrow, widen
from .epilogue import activate, constants
from .launch import Config, launch, offset_type, strides

CONFIG = Config(1024, 1, 1, 4)
# In slices of fewer steps the main loop's prologue costs more than the steps.
_MIN_STEPS = 4
_MAX_SLICES = 256
_MAX_PARTIAL_BYTES = 256 << 20


def slices(programs, steps, elements, sm_count):
    """How many slices to cut a sum of `steps` steps into. One slice is computed by `programs`
    programs and has `elements` sums. sm_count is how many programs should run at once: a kernel of
    which a multiprocessor can run several asks with a multiple of the number of multiprocessors."""
    wanted = sm_count // max(programs, 1)
    affordable = _MAX_PARTIAL_BYTES // max(4 * elements, 1)
    return max(1, min(wanted, steps // _MIN_STEPS, affordable, _MAX_SLICES))


@triton.jit
def offsets_of(n, channel, h, w, strides):
    """The offsets of elements in a tensor with these strides."""
    return n * strides.n + channel * strides.c + h * strides.h + w * strides.w


@triton.jit(do_not_specialize=["count", "splits", "height", "width"])
def split_k_reduce(
    partial, out, bias, residual,
    count, splits, channels, height, width,
    out_strides, residual_strides,
    HAS_BIAS: tl.constexpr, HAS_RESIDUAL: tl.constexpr,
    ACTIVATION: tl.constexpr, PARAMETER: tl.constexpr,
    OFFSETS: tl.constexpr, BLOCK_M: tl.constexpr,
):  # fmt: skip
    index = tl.program_id(0).to(OFFSETS) * BLOCK_M + tl.arange(0, BLOCK_M)
    valid = index < count
    z = tl.zeros((BLOCK_M,), partial.dtype.element_ty)
    for _ in range(splits):
        z += tl.load(partial + index, valid, 0.0)
        partial += count
    channel = index % channels
    row = index // channels
    w = row % width
    row //= width
    h = row % height
    n = row // height
    if HAS_BIAS:
        z += widen(tl.load(bias + channel, valid, 0.0), z.dtype)
    if HAS_RESIDUAL:
        offsets = offsets_of(n, channel, h, w, residual_strides)
        z += widen(tl.load(residual + offsets, valid, 0.0), z.dtype)
    z = activate(z, ACTIVATION, PARAMETER)
    offsets = offsets_of(n, channel, h, w, out_strides)
    tl.store(out + offsets, narrow(z, out.dtype.element_ty), valid)


def accumulator(dtype):
    """What sums of products of a dtype are kept in."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def partial_sums(splits, out):
    """Room for `splits` slices shaped like out, not initialised, channels innermost:
    (splits, *out.shape)."""
    n, c, h, w = out.shape
    partial = torch.empty((splits, n, h, w, c), dtype=accumulator(out.dtype), device=out.device)
    return partial.permute(0, 1, 4, 2, 3)


def launch_reduce(partial, out, epilogue=(None, None, "none")):
    """out = the epilogue of the sum of partial_sums(...) over its slices."""
    bias, residual, activation = epilogue
    channels, height, width = out.shape[1:]
    launch(
        split_k_reduce,
        (triton.cdiv(out.numel(), CONFIG.block_m),),
        CONFIG,
        out,
        partial, out, bias, residual,
        out.numel(), len(partial), channels, height, width,
        strides(out), strides(residual),
        HAS_BIAS=bias is not None,
        HAS_RESIDUAL=residual is not None,
        **constants(activation),
        OFFSETS=offset_type(partial[0], out, residual),
        BLOCK_M=CONFIG.block_m,
    )  # fmt: skip
