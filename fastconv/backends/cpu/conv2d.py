"""The CPU backend.

"cpu" lets the plan choose the algorithm; "cpu:direct", "cpu:implicit_gemm" and so on, one for each
of csrc/plan/cpu_algorithms.h, fix it; "reference" is the oracle: plain loops that sum in double.
"""

import functools

import torch

from ..._native import core
from ...problem import DTYPES, ConvOp
from ..base import Backend, PassPlan
from ..conv2d import ACTIVATIONS, NO_EPILOGUE, Conv2dBackend, conv_problem
from ..memory import location
from .pool2d import CpuPool2d


class CpuBackend(Conv2dBackend, CpuPool2d, Backend):
    def __init__(self, name, algorithm=None):
        self.name = name
        self.algorithm = algorithm
        self._plan = functools.lru_cache(maxsize=4096)(self._make_plan)

    def _make_plan(self, op, problem):
        if self.algorithm is None:
            return core.plan_conv2d_cpu(op, problem)
        return core.CpuConvPlan(self.algorithm, f"asked for as {self.name!r}")

    def _device_reason(self, device, index):
        if device not in ("cpu", "meta"):
            return f"runs tensors on the CPU, got device {device}"
        return None

    def _unsupported_reason(self, problem, dtype):
        reasons = (
            core.unsupported_reason(self.algorithm, op, problem)
            for op in ConvOp.__members__.values()
        )
        return next(filter(None, reasons), None)

    def explain(self, operator, call, dtype, channels_last):
        """(problem, {pass: PassPlan}) of a call."""
        if operator != "conv2d":
            return self.explain_pool2d(operator, call)
        problem = conv_problem(*call)
        plans = {name: self._plan(op, problem) for name, op in ConvOp.__members__.items()}
        return problem, {
            name: PassPlan(p.algorithm.name, p.reason, _tile(p.algorithm, dtype))
            for name, p in plans.items()
        }

    def _convolve(self, op, problem, x, w, y, epilogue=NO_EPILOGUE):
        bias, residual, activation = epilogue
        core.conv2d(
            op,
            self._plan(op, problem).algorithm,
            problem,
            DTYPES[x.dtype],
            *location(x),
            *location(w),
            *location(y),
            0 if bias is None else bias.data_ptr(),
            *location(residual),
            ACTIVATIONS[activation],
            torch.get_num_threads(),
        )

    def _epilogue_backward(self, dy, saved, activation, dz, db):
        core.epilogue_backward(
            tuple(dy.shape),
            DTYPES[dy.dtype],
            ACTIVATIONS[activation],
            *location(dy),
            *location(saved),
            *location(dz),
            db.data_ptr(),
            torch.get_num_threads(),
        )

    def _activate(self, z, activation, y):
        core.activation_forward(
            tuple(z.shape),
            DTYPES[z.dtype],
            ACTIVATIONS[activation],
            *location(z),
            *location(y),
            torch.get_num_threads(),
        )


def _tile(algorithm, dtype):
    if algorithm != core.CpuAlgorithm.implicit_gemm:
        return ""
    return "x".join(map(str, core.register_tile(DTYPES[dtype])))


CPU_BACKENDS = {
    backend.name: backend
    for backend in (
        CpuBackend("cpu"),
        *(
            CpuBackend(name if name == "reference" else f"cpu:{name}", algorithm)
            for name, algorithm in core.CpuAlgorithm.__members__.items()
        ),
    )
}
