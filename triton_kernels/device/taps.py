"""How fprop and dgrad become one sum over taps of a gathered tensor; the twin of
csrc/plan/implicit_gemm_geometry.h:

    out(first + step*i) = sum over taps t of src(i*src_step + src_first + t*tap_offset) * w(tap t)

fprop is one such sum. dgrad is one for each residue class of the output position modulo the stride:
a class has the taps that reach it, so none is wasted on zeros between dy's pixels.
"""

import math

import triton
import triton.language as tl


@triton.jit
def axis_taps(residue, size, kernel, stride, pad, dilation, tap_step, DGRAD: tl.constexpr):
    """Of one axis of one class: (output positions, taps, first tap, what the first tap reads at
    position 0, from tap to tap). size is the output's, residue the class' first position."""
    if DGRAD:
        positions = tl.cdiv(size - residue, stride)
        tap_first = kernel
        for tap in range(tl.minimum(tap_step, kernel)):
            # At most one tap of the first tap_step reaches a class.
            tap_first = tl.where((residue + pad - tap * dilation) % stride == 0, tap, tap_first)
        tap_first = tl.minimum(tap_first, kernel)
        taps = tl.cdiv(kernel - tap_first, tap_step)
        src_first = (residue + pad - tap_first * dilation) // stride
        tap_offset = -(tap_step * dilation // stride)
    else:
        positions = size
        taps = kernel
        tap_first = 0
        src_first = -pad
        tap_offset = dilation
    return positions, taps, tap_first, src_first, tap_offset


def tap_step(op, stride, dilation):
    """From tap to tap of the same class."""
    return stride // math.gcd(stride, dilation) if op.name == "dgrad" else 1


def classes(op, size, stride):
    """Classes of an axis of `size` output positions."""
    return min(size, stride) if op.name == "dgrad" else 1


def pieces(kernel_h, kernel_w, most):
    """(rows, columns) of the equal pieces that a filter is cut into, of at most so many taps: whole
    rows if one fits."""
    columns = triton.cdiv(kernel_w, triton.cdiv(kernel_w, most))
    rows = min(kernel_h, most // columns) if columns == kernel_w else 1
    return triton.cdiv(kernel_h, triton.cdiv(kernel_h, rows)), columns
