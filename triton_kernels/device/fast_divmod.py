"""Division by a number that the host knows: a multiplication and shifts in place of the tens of
instructions that 32-bit division takes. The twin of csrc/cuda/device/fast_divmod.cuh."""

import triton
import triton.language as tl

_BITS = tl.constexpr(30)


def divider(divisor):
    """(multiplier, shift) of a divisor from 1 to 2^30 - 1, arguments of quotient()."""
    # With 2^(shift-1) < divisor <= 2^shift the multiplier has 31 bits, and exceeds what it rounds
    # by less than divisor / 2^shift <= 1 part in 2^30.
    shift = (divisor - 1).bit_length()
    return -(-(1 << (_BITS.value + shift)) // divisor), shift


@triton.jit
def quotient(index, multiplier, shift):
    """index // divisor for 0 <= index < 2^30."""
    scaled = (index << (32 - _BITS)).to(tl.uint32, bitcast=True)
    high = tl.umulhi(scaled, multiplier.to(tl.uint32, bitcast=True))
    return (high >> shift).to(tl.int32, bitcast=True)
