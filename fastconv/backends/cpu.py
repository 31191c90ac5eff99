"""The CPU backend: plans with the native core, allocates outputs, hands over addresses.

"cpu" lets the plan choose the algorithm; "cpu:direct", "cpu:im2col" and "cpu:depthwise" fix it;
"reference" is the oracle: plain loops that sum in double.
"""

import functools

import torch

from .._native import core
from ..problem import ConvOp, ConvProblem, suggests_channels_last
from .cpu_pool2d import CpuPool2d
from .memory import DTYPES, check_operand, empty, location, readable

ACTIVATIONS = {name: getattr(core.Activation, name) for name in core.Activation.__members__}


@functools.lru_cache(maxsize=4096)
def conv_problem(x_size, w_size, stride, padding, dilation, groups):
    """The ConvProblem of concrete sizes; kept, since networks repeat theirs."""
    if {len(stride), len(padding), len(dilation)} != {2}:
        raise RuntimeError(
            f"expected two each of stride {stride}, padding {padding} and dilation {dilation}"
        )
    if len(x_size) != 4 or len(w_size) != 4 or x_size[1] != w_size[1] * groups:
        raise RuntimeError(
            f"x {list(x_size)} and w {list(w_size)} form no 2-D convolution of {groups} groups"
        )
    return ConvProblem(
        **dict(zip("NCHW", x_size)),
        **dict(zip("KRS", (w_size[0], w_size[2], w_size[3]))),
        **{
            f"{name}_{axis}": value
            for name, pair in (("stride", stride), ("pad", padding), ("dilation", dilation))
            for axis, value in zip("hw", pair)
        },
        groups=groups,
    )


class CpuBackend(CpuPool2d):
    def __init__(self, name, algorithm=None):
        self.name = name
        self.algorithm = algorithm
        self._plan = functools.lru_cache(maxsize=4096)(self._make_plan)

    def _make_plan(self, op, problem, channels_last):
        if self.algorithm is None:
            return core.plan_conv2d_cpu(op, problem, channels_last)
        return core.ConvPlan(self.algorithm, f"asked for as {self.name!r}")

    def supports(self, operator, call, dtype, device):
        """None, or why this backend cannot run the call. `call` is the operator's sizes; for conv2d
        (x size, w size, stride, padding, dilation, groups)."""
        if device not in ("cpu", "meta"):
            return f"runs tensors on the CPU, got device {device}"
        if dtype not in DTYPES:
            return f"no kernels for {dtype}"
        if operator == "conv2d":
            if call[0][1] == 0:
                return "no input channels: torch defines the result"
            # While compiling, sizes may be symbolic; the kernel's own check stands in for this one.
            if self.algorithm is not None and not torch.compiler.is_compiling():
                return self._unsupported_reason(conv_problem(*call))
        return None

    def _unsupported_reason(self, problem):
        reasons = (
            core.unsupported_reason(self.algorithm, op, problem)
            for op in ConvOp.__members__.values()
        )
        return next(filter(None, reasons), None)

    def explain(self, operator, call, channels_last):
        """(problem, {pass: (algorithm, reason)}) of a call."""
        if operator != "conv2d":
            return self.explain_pool2d(operator, call)
        problem = conv_problem(*call)
        plans = {
            name: self._plan(op, problem, channels_last) for name, op in ConvOp.__members__.items()
        }
        return problem, {name: (p.algorithm.name, p.reason) for name, p in plans.items()}

    def conv2d_fprop(self, x, w, b, residual, stride, padding, dilation, groups, activation):
        problem = conv_problem(x.shape, w.shape, stride, padding, dilation, groups)
        y_size = problem.out_size()
        check_operand("w", w, w.shape, x)
        if b is not None:
            check_operand("b", b, (problem.K,), x)
            b = readable(b).contiguous()
        if residual is not None:
            check_operand("residual", residual, y_size, x)
            residual = readable(residual)
        channels_last = suggests_channels_last(x)
        y = empty(y_size, x, channels_last or suggests_channels_last(w))
        if y.numel() == 0:
            return y
        x, w = readable(x), readable(w)
        core.conv2d_fprop(
            self._plan(ConvOp.fprop, problem, channels_last).algorithm,
            problem,
            DTYPES[x.dtype],
            *location(x),
            *location(w),
            *location(y),
            0 if b is None else b.data_ptr(),
            *location(residual),
            ACTIVATIONS[activation],
            torch.get_num_threads(),
        )
        return y

    def conv2d_dgrad(self, dy, w, x_size, channels_last, stride, padding, dilation, groups):
        problem = conv_problem(tuple(x_size), w.shape, stride, padding, dilation, groups)
        check_operand("dy", dy, problem.out_size(), dy)
        check_operand("w", w, w.shape, dy)
        dx = empty(x_size, dy, channels_last)
        if dx.numel() == 0 or dy.numel() == 0:
            return dx.zero_()
        dy, w = readable(dy), readable(w)
        core.conv2d_dgrad(
            self._plan(ConvOp.dgrad, problem, suggests_channels_last(dy)).algorithm,
            problem,
            DTYPES[dy.dtype],
            *location(dy),
            *location(w),
            *location(dx),
            torch.get_num_threads(),
        )
        return dx

    def conv2d_wgrad(self, dy, x, w_size, channels_last, stride, padding, dilation, groups):
        problem = conv_problem(x.shape, tuple(w_size), stride, padding, dilation, groups)
        check_operand("dy", dy, problem.out_size(), dy)
        check_operand("x", x, x.shape, dy)
        dw = empty(w_size, dy, channels_last)
        if dw.numel() == 0 or dy.numel() == 0:
            return dw.zero_()
        dy, x = readable(dy), readable(x)
        core.conv2d_wgrad(
            self._plan(ConvOp.wgrad, problem, suggests_channels_last(x)).algorithm,
            problem,
            DTYPES[dy.dtype],
            *location(dy),
            *location(x),
            *location(dw),
            torch.get_num_threads(),
        )
        return dw

    def epilogue_backward(self, dy, saved, activation):
        check_operand("saved", saved, dy.shape, dy)
        dz = empty(dy.shape, dy, suggests_channels_last(saved))
        return dz, self._bias_grad(dy, readable(saved), activation, dz)

    def bias_grad(self, dy):
        return self._bias_grad(dy, None, "none", None)

    def _bias_grad(self, dy, saved, activation, dz):
        if dy.dim() != 4:
            raise RuntimeError(f"expected dy with 4 dimensions, got size {list(dy.shape)}")
        db = torch.empty(dy.shape[1], dtype=dy.dtype, device=dy.device)
        if dy.numel() == 0:
            return db.zero_()
        dy = readable(dy)
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
        return db

    def activation_forward(self, z, activation):
        y = empty(z.shape, z, suggests_channels_last(z))
        if y.numel() > 0:
            z = readable(z)
            core.activation_forward(
                tuple(z.shape),
                DTYPES[z.dtype],
                ACTIVATIONS[activation],
                *location(z),
                *location(y),
                torch.get_num_threads(),
            )
        return y


CPU_BACKENDS = {
    backend.name: backend
    for backend in (
        CpuBackend("cpu"),
        *(
            CpuBackend(f"cpu:{name}", getattr(core.ConvAlgorithm, name))
            for name in ("direct", "im2col", "depthwise")
        ),
        CpuBackend("reference", core.ConvAlgorithm.reference),
    )
}
