"""The CPU backend.

"cpu" lets the plan choose the algorithm; "cpu:direct", "cpu:implicit_gemm" and so on, one for each
of csrc/plan/cpu_algorithms.h, fix it; "reference" is the oracle: plain loops that sum in double.
"""

import functools

import torch

from ..._native import core
from ...activations import native
from ...problem import DTYPES, ConvOp, suggests_channels_last
from ..base import Backend, PassPlan, is_convolution
from ..conv2d import NO_EPILOGUE, Conv2dBackend, conv_problem
from ..memory import empty, location, optional_strides
from .pool2d import CpuPool2d


class CpuBackend(Conv2dBackend, CpuPool2d, Backend):
    def __init__(self, name, algorithm=None):
        self.name = name
        self.algorithm = algorithm
        self._plan = functools.lru_cache(maxsize=4096)(self._make_plan)

    def _make_plan(self, op, problem, channels_adjacent):
        """channels_adjacent: whether the channels of the tensor that the pass gathers are."""
        if self.algorithm is None:
            return core.plan_conv2d_cpu(op, problem, channels_adjacent)
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
        if not is_convolution(operator):
            return self.explain_pool2d(operator, call)
        problem = conv_problem(*call)
        plans = {
            name: self._plan(op, problem, channels_last) for name, op in ConvOp.__members__.items()
        }
        return problem, {
            name: PassPlan(p.algorithm.name, p.reason, _tile(p.algorithm, dtype))
            for name, p in plans.items()
        }

    def _convolve(self, op, problem, x, w, y, epilogue=NO_EPILOGUE):
        bias, residual, activation = epilogue
        core.conv2d(
            op,
            self._plan(op, problem, _channels_adjacent(op, x, y)).algorithm,
            problem,
            DTYPES[x.dtype],
            *location(x),
            *location(w),
            *location(y),
            0 if bias is None else bias.data_ptr(),
            *location(residual),
            native(activation),
            torch.get_num_threads(),
        )

    def _dgrad_with_epilogue(self, problem, dx, w, dy, epilogue):
        self._convolve(ConvOp.dgrad, problem, dx, w, dy, epilogue)

    def prepare_fprop(self, x, w, b, residual, y, geometry, activation):
        problem = conv_problem(x.shape, w.shape, geometry)
        return self._prepare_conv(ConvOp.fprop, problem, x, w, y, b, residual, activation)

    def prepare_conv_transpose(self, x, w, b, residual, y, geometry, activation):
        problem = conv_problem(y.shape, w.shape, geometry.convolution())
        return self._prepare_conv(ConvOp.dgrad, problem, y, w, x, b, residual, activation)

    def _prepare_conv(self, op, problem, x, w, y, b, residual, activation):
        if y.numel() == 0 or (b is not None and not b.is_contiguous()):
            return None
        call = core.prepare_conv2d(
            op,
            self._plan(op, problem, _channels_adjacent(op, x, y)).algorithm,
            problem,
            DTYPES[x.dtype],
            x.stride(),
            w.stride(),
            y.stride(),
            b is not None,
            optional_strides(residual),
            native(activation),
        )
        return (call,)

    def prepare_fprop_backward(self, dy, x, w, saved, dx, dw, db, geometry, activation):
        problem = conv_problem(x.shape, w.shape, geometry)
        return self._prepare_conv_backward(False, problem, dy, x, w, saved, dx, dw, db, activation)

    def prepare_conv_transpose_backward(self, dy, x, w, saved, dx, dw, db, geometry, activation):
        problem = conv_problem(dy.shape, w.shape, geometry.convolution())
        return self._prepare_conv_backward(True, problem, dy, x, w, saved, dx, dw, db, activation)

    def _prepare_conv_backward(self, transposed, problem, dy, x, w, saved, dx, dw, db, activation):
        dz = None if saved is None else empty(dy.shape, dy, suggests_channels_last(saved))
        dx_op = ConvOp.fprop if transposed else ConvOp.dgrad
        adjacent = _are_adjacent(dy if dz is None else dz)
        call = core.prepare_conv2d_backward(
            transposed,
            self.algorithm == core.CpuAlgorithm.reference,
            problem,
            DTYPES[x.dtype],
            native(activation),
            *map(optional_strides, (dy, x, w, saved, dz)),
            db is not None,
            None if dx is None else self._plan(dx_op, problem, adjacent).algorithm,
            optional_strides(dx),
            None if dw is None else self._plan(ConvOp.wgrad, problem, adjacent).algorithm,
            optional_strides(dw),
        )
        return call, dz

    def _epilogue_backward(self, dy, saved, activation, dz, db):
        core.epilogue_backward(
            self.algorithm == core.CpuAlgorithm.reference,
            tuple(dy.shape),
            DTYPES[dy.dtype],
            native(activation),
            *location(dy),
            *location(saved),
            *location(dz),
            db.data_ptr(),
            torch.get_num_threads(),
        )

    def _activate(self, z, activation, y):
        core.activation_forward(
            self.algorithm == core.CpuAlgorithm.reference,
            tuple(z.shape),
            DTYPES[z.dtype],
            native(activation),
            *location(z),
            *location(y),
            torch.get_num_threads(),
        )


def _channels_adjacent(op, x, y):
    """Whether a pass gathers a tensor whose channels lie side by side."""
    return _are_adjacent(y if op == ConvOp.dgrad else x)


def _are_adjacent(tensor):
    return tensor.stride(1) == 1 < tensor.shape[1]


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
