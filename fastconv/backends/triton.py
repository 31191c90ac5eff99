"""The Triton backend.

"triton" lets the plan choose the algorithm; "triton:direct", "triton:im2col",
"triton:implicit_gemm" and "triton:depthwise" fix it.
"""

import functools

import torch

from ..problem import ConvOp
from .conv2d import NO_EPILOGUE, Conv2dBackend, conv_problem
from .memory import DTYPES
from .triton_launch import allows_tf32, kernels, sm_count, unusable_reason
from .triton_pool2d import TritonPool2d

ALGORITHMS = ("direct", "im2col", "implicit_gemm", "depthwise")


class TritonBackend(Conv2dBackend, TritonPool2d):
    def __init__(self, name, algorithm=None):
        self.name = name
        self.algorithm = algorithm
        self._plan = functools.lru_cache(maxsize=4096)(self._make_plan)

    def _make_plan(self, op, problem, dtype, tf32, device):
        """device is an index, or None for a usual one."""
        reason = f"asked for as {self.name!r}"
        plan = kernels("plan").plan_conv2d
        return plan(op, problem, dtype, tf32, sm_count(device), self.algorithm, reason)

    def supports(self, operator, call, dtype, device):
        """None, or why this backend cannot run the call. `call` is the operator's sizes; for conv2d
        (x size, w size, stride, padding, dilation, groups)."""
        if reason := unusable_reason(device):
            return reason
        if dtype not in DTYPES:
            return f"no kernels for {dtype}"
        if operator == "conv2d":
            if call[0][1] == 0:
                return "no input channels: torch defines the result"
            # While compiling, sizes may be symbolic; the kernel's own check stands in for this one.
            if self.algorithm is not None and not torch.compiler.is_compiling():
                return self._unsupported_reason(conv_problem(*call))
        elif not torch.compiler.is_compiling():
            return self.pool2d_unsupported_reason(*call)
        return None

    def _unsupported_reason(self, problem):
        check = kernels("plan").unsupported_reason
        reasons = (check(self.algorithm, op, problem) for op in ConvOp.__members__.values())
        return next(filter(None, reasons), None)

    def explain(self, operator, call, dtype, channels_last):
        """(problem, {pass: (algorithm, reason)}) of a call."""
        if operator != "conv2d":
            return self.explain_pool2d(operator, call)
        problem = conv_problem(*call)
        device = torch.cuda.current_device() if torch.cuda.is_available() else None
        plans = {
            name: self._plan(op, problem, dtype, allows_tf32(), device)
            for name, op in ConvOp.__members__.items()
        }
        return problem, {name: (p.algorithm, str(p)) for name, p in plans.items()}

    def _convolve(self, op, problem, x, w, y, epilogue=NO_EPILOGUE):
        plan = self._plan(op, problem, x.dtype, allows_tf32(), x.device.index)
        if plan.algorithm == "im2col":
            raise NotImplementedError
        kernels(plan.kernel).launch_conv2d(
            op, problem, x, w, y, epilogue, plan.config, plan.math, plan.splits
        )

    def _epilogue_backward(self, dy, saved, activation, dz, db):
        kernels("epilogue").launch_backward(dy, saved, activation, dz, db)

    def _activate(self, z, activation, y):
        kernels("epilogue").launch_activation(z, activation, y)


TRITON_BACKENDS = {
    backend.name: backend
    for backend in (
        TritonBackend("triton"),
        *(TritonBackend(f"triton:{name}", name) for name in ALGORITHMS),
    )
}
