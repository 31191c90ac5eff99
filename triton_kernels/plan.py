"""Problem -> algorithm, kernel and configuration, with the reason; printable. The twin of
csrc/plan/cuda_plan.h.

A convolution's kernel file has
    CONFIGS                                              at most six
    configs(dtype)                                       those that suit; all, if not defined
    table_config(op, problem, dtype, sm_count)           the one to take where none was tuned
    slices(op, problem, dtype, config, sm_count)         how many; each is a program of its own
    launch_conv2d(op, problem, x, w, y, epilogue, config, math, splits)

launch_conv2d runs any of the three passes: x is dx in dgrad, w is dw in wgrad, and y is dy in both.
"""

import importlib
from dataclasses import dataclass

import torch

from .._native import core
from ..problem import DTYPES
from .launch import Config
from .tuning import make_key
from .tuning_cache import Tuned

_INDEX_LIMIT = 2**30  # half of what 32 bits hold: room for the last tile
# Fewer terms, or channels of the result, in a group leave most of a tensor core's tile empty.
_FEW_TERMS, _FEW_COLUMNS = 16, 8
_KERNELS = {
    ("implicit_gemm", "fprop"): "conv2d_implicit_gemm",
    ("implicit_gemm", "dgrad"): "conv2d_implicit_gemm",
    ("implicit_gemm", "wgrad"): "conv2d_wgrad_implicit_gemm",
    ("direct", "fprop"): "conv2d_gather_direct",
    ("direct", "dgrad"): "conv2d_gather_direct",
    ("direct", "wgrad"): "conv2d_wgrad_direct",
    ("depthwise", "fprop"): "conv2d_fprop_depthwise",
    ("depthwise", "dgrad"): "conv2d_dgrad_depthwise",
    ("depthwise", "wgrad"): "conv2d_wgrad_depthwise",
}


@dataclass(frozen=True)
class ConvPlan:
    algorithm: str
    reason: str
    kernel: str = ""  # the file stem; none for im2col, which is two kernels and a matrix product
    math: str = ""
    config: Config | None = None
    splits: int = 1
    key: str = ""  # what a configuration is tuned for (tuning.py)
    tuned: Tuned | None = None  # where config is not the table's
    workspace_bytes: int = 0  # of im2col

    def __str__(self):
        parts = [self.reason, self.config and str(self.config), self.math]
        if self.splits > 1:
            parts.append(f"gemm_k in {self.splits} slices")
        if self.config is not None:
            parts.append(str(self.tuned or "from the table"))
        if self.workspace_bytes:
            parts.append(f"workspace {self.workspace_bytes / 2**20:.3g} MiB")
        return ", ".join(filter(None, parts))


def kernel_module(stem):
    return importlib.import_module(f"{__package__}.{stem}")


def math_of(dtype, allow_tf32):
    """The constexpr MATH of a GEMM: what multiplies (language.MATHS)."""
    if dtype == torch.float32:
        return "tf32" if allow_tf32 else "tf32x3"
    return {torch.float64: "float64", torch.float16: "fp16", torch.bfloat16: "bf16"}[dtype]


def _im2col_call(op, problem, dtype):
    """The call whose im2col plan, the same for CUDA and Triton, the core knows."""
    no_strides, no_device = (0, 0, 0, 0), (1, 0, 0)
    return core.CudaConvCall(
        op, problem, DTYPES[dtype], False, *[no_strides] * 3, False, *no_device
    )


def unsupported_reason(algorithm, op, problem, dtype):
    """Why an algorithm, or with None any that the plan would choose, cannot run a problem."""
    if algorithm is None:
        others = unsupported_reason("implicit_gemm", op, problem, dtype)
        return others and unsupported_reason("im2col", op, problem, dtype)
    if algorithm == "im2col":
        call = _im2col_call(op, problem, dtype)
        return core.unsupported_reason(core.CudaAlgorithm.im2col, call) or None
    if algorithm == "depthwise" and problem.groups != problem.C:
        return "depthwise takes one channel per group"
    padded = problem.H + 2 * problem.pad_h, problem.W + 2 * problem.pad_w
    steps = problem.stride_h, problem.stride_w, problem.dilation_h, problem.dilation_w
    largest = max(*problem.gemm_shape(op), *padded, *steps)
    if largest >= _INDEX_LIMIT:
        return f"indexes a group's GEMM with 32 bits: an extent or step of {largest} is too large"
    return None


def plan_conv2d(
    op, problem, dtype, allow_tf32, sm_count, layout, algorithm=None, reason="", config=None
):
    """The ConvPlan of a pass: of the given algorithm, or of the one that should be fastest; with
    the given configuration, or the table's. layout is that of tuning.layout(x, y)."""
    if algorithm is None:
        algorithm, reason = _choose(op, problem, dtype)
    if algorithm == "im2col":
        call = _im2col_call(op, problem, dtype)
        plan = core.plan_conv2d_cuda(core.CudaAlgorithm.im2col, call, reason)
        return ConvPlan(algorithm, reason, workspace_bytes=plan.workspace_bytes)
    stem = _KERNELS[algorithm, op.name]
    kernel = kernel_module(stem)
    config = config or kernel.table_config(op, problem, dtype, sm_count)
    math = math_of(dtype, allow_tf32) if algorithm == "implicit_gemm" else ""
    splits = kernel.slices(op, problem, dtype, config, sm_count)
    extents = dict(zip(("gemm_m", "gemm_n", "gemm_k"), problem.gemm_shape(op)))
    if problem.groups > 1:
        extents["groups"] = problem.groups
    key = make_key(stem, op.name, dtype, math, layout, **extents)
    return ConvPlan(algorithm, reason, stem, math, config, splits, key)


def _choose(op, problem, dtype):
    if unsupported_reason("implicit_gemm", op, problem, dtype):
        return "im2col", "too large for the others' 32-bit indices"
    if problem.groups == problem.C and problem.groups > 1:
        return "depthwise", "one channel per group"
    if dtype == torch.float64:
        return "direct", "tensor cores are for shorter types"
    gemm_m, gemm_n, gemm_k = problem.gemm_shape(op)
    terms, columns = (gemm_n, gemm_m) if op.name == "wgrad" else (gemm_k, gemm_n)
    if terms < _FEW_TERMS or columns < _FEW_COLUMNS:
        return "direct", f"{terms} terms for each of {columns} channels: too few for tensor cores"
    return "implicit_gemm", f"gemm_m {gemm_m}, gemm_n {gemm_n}, gemm_k {gemm_k}"
