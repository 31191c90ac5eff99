"""How every kernel is started."""

import threading
from typing import NamedTuple

import torch
import triton.language as tl

from .device.language import IS_INTERPRETED

# The interpreter keeps the program's coordinates in a global.
_one_at_a_time = threading.RLock()
_MOST_INTERPRETED_TERMS = 512
# Registers of a thread, for kernels that say so. Left alone, ptxas spills a few where one more
# block then has room on a multiprocessor.
MOST_REGISTERS = 255


class Config(NamedTuple):
    """A kernel's tile and how the hardware works on it. Each file says at its CONFIGS what block_m,
    block_n and block_k count; in a GEMM they are the output's rows and columns and the terms of one
    step."""

    block_m: int
    block_n: int
    block_k: int
    num_warps: int
    num_stages: int = 1

    def __str__(self):
        return (
            f"tile {self.block_m}x{self.block_n}x{self.block_k}, {self.num_warps} warps, "
            f"{self.num_stages} stage{'s' * (self.num_stages > 1)}"
        )


def launch(kernel, programs, config, like, *args, **constants):
    """Starts kernel on the device of the tensor `like` and torch's current stream.

    Args:
        programs: the grid, at most three sizes.
        config: gives num_warps and num_stages; the kernel's blocks are among `constants`.
        like: only tells the device; it is not handed to the kernel, unless it is among `args` too.
        args, constants: the kernel's arguments, those that are constexpr by name.
    """
    options = {"num_warps": config.num_warps, "num_stages": config.num_stages}
    if IS_INTERPRETED:
        with _one_at_a_time:
            kernel[programs](*args, **constants, **options)
    else:
        with torch.cuda.device(like.device):
            # Products and sums fuse, as in the CUDA kernels; Triton's default changes in 3.10.
            kernel[programs](*args, **constants, **options, enable_fp_fusion=True)


def offset_type(*tensors):
    """The constexpr OFFSETS of a call: int32 where the distance from the first element to every
    other fits, else int64. None among the tensors is passed over."""
    farthest = max(
        sum((size - 1) * abs(stride) for size, stride in zip(t.shape, t.stride()))
        for t in tensors
        if t is not None
    )
    return tl.int32 if farthest < 2**31 else tl.int64


def pixels_inner(tensor):
    """Whether lanes lie along pixels: neighbours along w are nearer than neighbours along c."""
    return tensor.stride(3) < tensor.stride(1)


def conv_geometry(problem):
    """Stride, padding and dilation, in the order in which every convolution's kernel takes them."""
    return (
        problem.stride_h,
        problem.stride_w,
        problem.pad_h,
        problem.pad_w,
        problem.dilation_h,
        problem.dilation_w,
    )


class Strides(NamedTuple):
    """The strides of a 4-D tensor, in elements."""

    n: int
    c: int
    h: int
    w: int


def strides(tensor):
    """The Strides of a tensor; zeros for None."""
    return Strides(0, 0, 0, 0) if tensor is None else Strides(*tensor.stride())


def block_k(config, dtype, adjacent=0):
    """Terms in one step of a GEMM. A configuration counts them for elements of 2 bytes; a step has
    as many bytes in every dtype. Of `adjacent` terms, the channels of one tap, the interpreter may
    take more at once."""
    terms = config.block_k * 2 // dtype.itemsize
    # The interpreter pays for operations, not for elements: fewer steps where there are many.
    while IS_INTERPRETED and 2 * terms <= min(adjacent, _MOST_INTERPRETED_TERMS):
        terms *= 2
    return terms
