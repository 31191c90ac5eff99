"""The Triton backend.

"triton" lets the plan choose the algorithm; "triton:direct", "triton:im2col",
"triton:implicit_gemm" and "triton:depthwise" fix it.
"""

import copy
import dataclasses
import functools

from ... import first_use
from ...problem import ConvOp, allows_tf32
from .. import im2col
from ..base import Backend, Kernel, PassPlan, epilogue_kernel, is_convolution
from ..conv2d import NO_EPILOGUE, Conv2dBackend, conv_problem
from .launch import current_device, kernels, sm_count, unusable_reason, without_memory
from .pool2d import TritonPool2d

ALGORITHMS = ("direct", "im2col", "implicit_gemm", "depthwise")
# Which of the tensors (x, w, y) a pass writes.
_WRITTEN = {ConvOp.fprop: 2, ConvOp.dgrad: 0, ConvOp.wgrad: 1}


class TritonBackend(Conv2dBackend, TritonPool2d, Backend):
    plan_takes_all = False
    sm_count = None  # as of a CudaBackend

    def __init__(self, name, algorithm=None):
        self.name = name
        self.algorithm = algorithm
        self._plan = functools.lru_cache(maxsize=4096)(self._make_plan)

    @functools.cache  # noqa: B019 - backends live as long as the process
    def planned_for(self, sm_count):
        """This backend with the plans of a device of so many multiprocessors."""
        other = copy.copy(self)
        other.sm_count = sm_count
        other._plan = functools.lru_cache(maxsize=4096)(other._make_plan)
        return other

    def _make_plan(self, op, problem, dtype, tf32, device, layout, config=None):
        """device is an index, or None for a usual one; config is the table's if None."""
        reason = f"asked for as {self.name!r}"
        plan = kernels("plan").plan_conv2d
        properties = self.sm_count or sm_count(device), layout
        return plan(op, problem, dtype, tf32, *properties, self.algorithm, reason, config)

    def _device_reason(self, device, index):
        return unusable_reason(device, index)

    def _unsupported_reason(self, problem, dtype):
        check = kernels("plan").unsupported_reason
        reasons = (check(self.algorithm, op, problem, dtype) for op in ConvOp.__members__.values())
        return next(filter(None, reasons), None)

    def kernel(self, operation, call, dtype, channels_last, index, given=(), aligned=True):
        """As Backend.kernel. Strides are arguments of the same kernels."""
        if operation == "epilogue":
            return epilogue_kernel(dtype)
        if operation not in ConvOp.__members__:
            return self.pool_kernel(operation, dtype)
        op, problem = ConvOp.__members__[operation], conv_problem(*call)
        sizes = (call[0], problem.out_size())
        layout = kernels("tuning").layout(*(without_memory(size, channels_last) for size in sizes))
        return _kernel_of(op, dtype, self._plan(op, problem, dtype, allows_tf32(), index, layout))

    def explain(self, operator, call, dtype, channels_last):
        """(problem, {pass: PassPlan}) of a call, for dense tensors of the layout."""
        if not is_convolution(operator):
            return self.explain_pool2d(operator, call, dtype, channels_last)
        problem = conv_problem(*call)
        tuning, plans = kernels("tuning"), {}
        sizes = (call[0], problem.out_size())
        layout = tuning.layout(*(without_memory(size, channels_last) for size in sizes))
        for name, op in ConvOp.__members__.items():
            about = (op, problem, dtype, allows_tf32(), current_device(), layout)
            plan = self._plan(*about)
            if tuned := plan.key and tuning.choices(current_device()).get(plan.key):
                plan = dataclasses.replace(self._plan(*about, tuned.config), tuned=tuned)
            tile = str(plan.config or "").removeprefix("tile ")
            plans[name] = PassPlan(plan.algorithm, str(plan), tile)
        return problem, plans

    def _convolve(self, op, problem, x, w, y, epilogue=NO_EPILOGUE):
        tuning = kernels("tuning")
        about = (op, problem, x.dtype, allows_tf32(), x.device.index, tuning.layout(x, y))
        plan = self._plan(*about)
        if first_use.applies(x.device):
            first_use.require(self, _kernel_of(op, x.dtype, plan), x.device)
        if plan.algorithm == "im2col":
            around, bytes_at_once = kernels("conv2d_im2col"), plan.workspace_bytes
            return im2col.convolve(around, op, problem, x, w, y, epilogue, bytes_at_once)
        tensors = [x, w, y]
        written = _WRITTEN[op]

        def run(config, outs):
            tensors[written] = outs[0]
            splits = self._plan(*about, config).splits
            kernels(plan.kernel).launch_conv2d(
                op, problem, *tensors, epilogue, config, plan.math, splits
            )

        outs = [tensors[written]]
        run(tuning.choose(plan.key, plan.config, outs, run), outs)

    def _epilogue_backward(self, dy, saved, activation, dz, db):
        self._require_epilogue(dy)
        sms = sm_count(dy.device.index)
        kernels("epilogue").launch_backward(dy, saved, activation, dz, db, sms)

    def _finish(self, z, bias, residual, activation):
        self._require_epilogue(z)
        kernels("epilogue").launch_epilogue(z, bias, residual, activation)

    def _activate(self, z, activation, y):
        self._require_epilogue(z)
        kernels("epilogue").launch_epilogue(z, None, None, activation, y)

    def _require_epilogue(self, tensor):
        if first_use.applies(tensor.device):
            first_use.require(self, epilogue_kernel(tensor.dtype), tensor.device)


def _kernel_of(op, dtype, plan):
    return Kernel(op.name, plan.algorithm, dtype, (plan.kernel, plan.math))


TRITON_BACKENDS = {
    backend.name: backend
    for backend in (
        TritonBackend("triton"),
        *(TritonBackend(f"triton:{name}", name) for name in ALGORITHMS),
    )
}
