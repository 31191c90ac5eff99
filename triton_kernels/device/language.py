"""What differs between versions of Triton, between compiled and interpreted kernels, or between
dtypes: in one place."""

import triton
import triton.language as tl

# Triton's own functions are bound to the interpreter, or not, when triton is imported.
IS_INTERPRETED = not isinstance(tl.cdiv, triton.JITFunction)
INTERPRETED = tl.constexpr(IS_INTERPRETED)

# What multiplies; "tf32x3" splits each float32 into two TF32 and sums three products.
MATHS = ("float64", "fp16", "bf16", "tf32", "tf32x3")


@triton.jit
def widen(x, DTYPE: tl.constexpr):
    """x in the dtype that sums are kept in."""
    if INTERPRETED and x.dtype == tl.bfloat16:
        # The interpreter's own conversion loses infinities and subnormal numbers.
        x = (x.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
def narrow(z, DTYPE: tl.constexpr):
    """z rounded to nearest in a tensor's dtype."""
    if INTERPRETED and DTYPE == tl.bfloat16:
        # The interpreter's own conversion cuts off.
        bits = z.to(tl.float32).to(tl.uint32, bitcast=True)
        rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
        z = tl.where(z != z, 0x7FC0, rounded).to(tl.uint16).to(tl.bfloat16, bitcast=True)
    return z.to(DTYPE)


@triton.jit
def dot(a, b, acc, MATH: tl.constexpr):
    """acc (m, n) + a (m, k) @ b (k, n), summed in acc's dtype."""
    if MATH == "float64":
        # tl.dot learned float64 in Triton 3.6.
        acc += tl.sum(a[:, :, None] * b[None, :, :], 1)
    elif INTERPRETED:
        # The interpreter's tl.dot takes bfloat16's bits for integers.
        acc = tl.dot(widen(a, tl.float32), widen(b, tl.float32), acc, input_precision="ieee")
    elif MATH == "tf32x3":
        # Tensor cores truncate as they add: long sums are added outside of them. The fused
        # multiply-add by 1 keeps the compiler from adding within.
        part = tl.dot(a, b, input_precision="tf32x3")
        acc = tl.fma(part, tl.full(part.shape, 1.0, tl.float32), acc)
    elif MATH == "tf32":
        acc = tl.dot(a, b, acc, input_precision="tf32")
    else:
        acc = tl.dot(a, b, acc)
    return acc


@triton.jit
def divide(a, b):
    """a / b rounded to nearest; Triton's own float32 quotient is not."""
    if a.dtype == tl.float32:
        result = tl.div_rn(a, b)
    else:
        result = a / b
    return result


@triton.jit
def hide(x):
    """x, hiding from the compiler where it comes from. Numbers that were widened from 16 bits it
    would compare in 16 bits, two at a time, and run out of predicate registers."""
    if not INTERPRETED and x.dtype == tl.float32:
        x = tl.inline_asm_elementwise(
            "mov.b32 $0, $1;", "=r,r", [x], dtype=tl.float32, is_pure=True, pack=1
        )
    return x


@triton.jit
def terms_apart(x, MATH: tl.constexpr, APART: tl.constexpr):
    """An operand of dot. Where APART, neighbouring terms of the sum are not adjacent in its memory;
    the TF32 unit of sm_90 wants them adjacent, and loads made for it would be 4 bytes each."""
    if APART and MATH == "tf32":
        x = hide(x)
    return x
