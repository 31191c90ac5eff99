"""Kernels that each break one gate of triton_gates.py, and two that break none, with its verdicts:
for test_triton_gates.py, in a process where kernels are not interpreted."""

from dataclasses import dataclass

import triton
import triton.language as tl
import triton_gates
from triton_launches import Instance


@triton.jit
def copy(x, y, n, BLOCK_M: tl.constexpr):
    i = tl.program_id(0) * BLOCK_M + tl.arange(0, BLOCK_M)
    tl.store(y + i, tl.load(x + i, i < n), i < n)


@triton.jit
def sums(x, y, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    m, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for i in range(n):
        acc += tl.load(x + i * BLOCK_M + m)[:, None] * tl.load(x + i * BLOCK_N + k)[None, :]
    tl.store(y + m[:, None] * BLOCK_N + k[None, :], acc)


@triton.jit
def products(x, y, n, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr):
    m, k = tl.arange(0, BLOCK_M), tl.arange(0, BLOCK_N)
    acc = tl.zeros((BLOCK_M, BLOCK_M), tl.float32)
    for i in range(n):
        a = tl.load(x + i * BLOCK_N + m[:, None] * n + k[None, :])
        b = tl.load(x + i * BLOCK_N + k[:, None] + m[None, :] * n)
        acc = tl.dot(a, b, acc)
    tl.store(y + m[:, None] * BLOCK_M + m[None, :], acc)


@dataclass
class Named(Instance):
    """An instance under another name than its kernel's."""

    name: str = ""


def instance(name, kernel, element, aligned=False, divisible=True, stages=1, **blocks):
    signature = {"x": "*" + element, "y": "*" + (element if kernel is copy else "fp32"), "n": "i32"}
    signature |= dict.fromkeys(blocks, "constexpr")
    constants = {(3 + i,): value for i, value in enumerate(blocks.values())}
    attributes = {(i,): [["tt.divisibility", 16]] for i in range(3)} if divisible else {}
    options = {"num_warps": 4, "num_stages": stages}
    return Named(kernel, signature, constants, attributes, options, "a test", aligned, name)


for compiled in triton_gates.compile_all(
    [
        instance("epilogue_forward", copy, "fp16", aligned=True, BLOCK_M=1024),
        instance("epilogue_forward", copy, "fp16", aligned=True, divisible=False, BLOCK_M=1024),
        instance("nameless", copy, "fp16", BLOCK_M=1024),
        instance("split_k_reduce", sums, "fp32", BLOCK_M=128, BLOCK_N=64),
        instance("conv2d_gather_direct", sums, "fp32", BLOCK_M=128, BLOCK_N=512),
        instance("conv2d_implicit_gemm", sums, "fp16", BLOCK_M=64, BLOCK_N=32),
        instance("conv2d_implicit_gemm", products, "fp16", BLOCK_M=64, BLOCK_N=64),
        instance("conv2d_implicit_gemm", products, "fp16", stages=5, BLOCK_M=128, BLOCK_N=64),
        instance("conv2d_implicit_gemm", products, "fp16", BLOCK_M=64, BLOCK_N=3),
    ]
):
    print(compiled.arch, compiled.instance.name, "; ".join(triton_gates.judge(compiled))[:200])
