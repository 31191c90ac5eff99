"""How positions along one axis of the output meet positions of the source, the tensor that a pass
gathers. The twin of csrc/problem/gather_axis.h:

    out(u*out_step + out_first) = sum over i < taps of
        source(u*source_step + source_first + i*tap_offset) * w(i*tap_step + tap_first)

fprop, whose source is x, is one such sum, with u < positions. In wgrad the same positions of x and
dy meet. dgrad, whose source is dy, is one such sum for each phase of dx: the positions that are
equal modulo the stride. All positions of a phase have the same taps, so every product is one of the
gradient's. Positions outside of the source are padding.
"""

import math
from typing import NamedTuple

import triton
import triton.language as tl


class GatherAxis(NamedTuple):
    """The numbers of the formula above. What is 0 or 1 whatever the problem is a plain number, and
    costs a kernel nothing."""

    positions: object  # values of u
    out_first: object
    out_step: object
    taps: object
    tap_first: object
    tap_step: object
    source_first: object
    source_step: object
    tap_offset: object


@triton.jit
def fprop_axis(stride, pad, dilation, size=None, kernel=None):
    """The GatherAxis of fprop along an axis of y, which has `size` positions. Kernels that do not
    ask it for positions and taps leave out size and kernel."""
    return GatherAxis(
        positions=size,
        out_first=0,
        out_step=1,
        taps=kernel,
        tap_first=0,
        tap_step=1,
        source_first=-pad,
        source_step=stride,
        tap_offset=dilation,
    )


@triton.jit
def dgrad_axis(phase, size, kernel, stride, pad, dilation, step, STRIDED: tl.constexpr):
    """The GatherAxis of a phase of dgrad along an axis of dx, which has `size` positions.

    step is that of tap_step(). Without STRIDED the stride is 1, and phase is not looked at."""
    if STRIDED:
        tap_first = kernel
        for tap in range(tl.minimum(step, kernel)):
            # A phase's taps are `step` apart: at most one of the first `step` is among them.
            tap_first = tl.where((phase + pad - tap * dilation) % stride == 0, tap, tap_first)
        tap_first = tl.minimum(tap_first, kernel)
        axis = GatherAxis(
            positions=tl.cdiv(size - phase, stride),
            out_first=phase,
            out_step=stride,
            taps=tl.cdiv(kernel - tap_first, step),
            tap_first=tap_first,
            tap_step=step,
            source_first=(phase + pad - tap_first * dilation) // stride,
            source_step=1,
            tap_offset=-(step * dilation // stride),
        )
    else:
        axis = GatherAxis(
            positions=size,
            out_first=0,
            out_step=1,
            taps=kernel,
            tap_first=0,
            tap_step=1,
            source_first=pad,
            source_step=1,
            tap_offset=-dilation,
        )
    return axis


def tap_step(stride, dilation):
    """Distance between neighbouring taps of a phase of dgrad."""
    return stride // math.gcd(stride, dilation)


def axis_tap_steps(problem):
    """tap_step() along h and along w."""
    return (
        tap_step(problem.stride_h, problem.dilation_h),
        tap_step(problem.stride_w, problem.dilation_w),
    )


def axis_phases(op, problem):
    """The number of phases along h and along w of the output."""
    if op.name != "dgrad":
        return 1, 1
    return min(problem.H, problem.stride_h), min(problem.W, problem.stride_w)
