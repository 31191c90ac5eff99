"""The CUDA backend.

"cuda" lets the plan choose the algorithm; "cuda:direct", "cuda:im2col", "cuda:implicit_gemm" and
"cuda:depthwise" fix it.
"""

import copy
import functools

import torch

from ... import first_use
from ..._native import core, cuda, cuda_missing
from ...activations import native
from ...prediction.machines import MACHINES
from ...problem import DTYPES, ConvOp, allows_tf32, suggests_channels_last
from .. import im2col
from ..base import Backend, Kernel, PassPlan, epilogue_kernel, is_convolution
from ..conv2d import NO_EPILOGUE, Conv2dBackend, conv_problem
from ..memory import empty, location, optional_strides
from . import im2col as cuda_im2col
from .launch import (
    DEVICE,
    device_properties,
    launch,
    prepared_workspace,
    unusable_reason,
    workspace,
)
from .pool2d import CudaPool2d

_locate = functools.partial(location, device=DEVICE)
# Whose plans are made where there is no GPU to ask.
_DEFAULT_MACHINE = MACHINES["h100"]
_ALIGNMENT = 16  # bytes, of the widest loads


def dense_strides(problem, channels_last):
    """Strides of x, w and y of a ConvProblem, without gaps."""
    N, C, H, W, K, R, S, *_, groups = problem.sizes
    return [
        (c * h * w, 1, w * c, c) if channels_last else (c * h * w, h * w, w, 1)
        for _, c, h, w in ((N, C, H, W), (K, C // groups, R, S), problem.out_size())
    ]


class CudaBackend(Conv2dBackend, CudaPool2d, Backend):
    sm_count = None  # plans are as for so many multiprocessors; None: those that the device has

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

    def _make_plan(self, op, problem, dtype, tf32, x, w, y, aligned, device):
        """The plan for tensors of these strides. device is an index, or None for the default."""
        sms, *sizes = _DEFAULT_MACHINE.plan_arguments
        if device is not None:
            sms, *sizes = device_properties(device)[:3]
        sizes = (self.sm_count or sms, *sizes)
        call = core.CudaConvCall(op, problem, DTYPES[dtype], tf32, x, w, y, aligned, *sizes)
        if self.algorithm is None:
            return core.plan_conv2d_cuda(call)
        return core.plan_conv2d_cuda(self.algorithm, call, f"asked for as {self.name!r}")

    def _device_reason(self, device, index):
        if cuda is None:
            return cuda_missing
        if device not in (DEVICE, "meta"):
            return f"runs tensors on {DEVICE} devices, got device {device}"
        if device == "cuda":
            return unusable_reason(torch.cuda.current_device() if index is None else index)
        return None

    def _unsupported_reason(self, problem, dtype):
        strides = dense_strides(problem, False)
        for op in ConvOp.__members__.values():
            call = core.CudaConvCall(
                op, problem, DTYPES[dtype], False, *strides, True, *_DEFAULT_MACHINE.plan_arguments
            )
            if reason := core.unsupported_reason(self.algorithm, call):
                return reason
        return None

    def kernel(self, operation, call, dtype, channels_last, index, given=(), aligned=True):
        """As Backend.kernel."""
        if operation == "epilogue":
            return epilogue_kernel(dtype)
        if operation not in ConvOp.__members__:
            return self.dense_pool_kernel(operation, call, dtype, channels_last)
        op, problem = ConvOp.__members__[operation], conv_problem(*call)
        dense = zip("xwy", dense_strides(problem, channels_last))
        strides = [dict(given).get(name, strides) for name, strides in dense]
        plan = self._plan(op, problem, dtype, allows_tf32(), *strides, aligned, index or 0)
        return _kernel_of(op, dtype, plan)

    def explain(self, operator, call, dtype, channels_last):
        """(problem, {pass: PassPlan}) of a call, for dense tensors of the layout."""
        if not is_convolution(operator):
            return self.explain_pool2d(operator, call, dtype, channels_last)
        problem = conv_problem(*call)
        device = torch.cuda.current_device() if torch.cuda.is_available() else None
        plans = {
            name: self._plan(
                op,
                problem,
                dtype,
                allows_tf32(),
                *dense_strides(problem, channels_last),
                True,
                device,
            )
            for name, op in ConvOp.__members__.items()
        }
        return problem, {
            name: PassPlan(p.algorithm.name, _describe(p), p.tile_name.removeprefix("tile "))
            for name, p in plans.items()
        }

    def _plan_for(self, op, problem, x, w, y):
        """(the plan for these tensors, their addresses and strides)."""
        locations = [_locate(tensor) for tensor in (x, w, y)]
        plan = self._plan(
            op,
            problem,
            x.dtype,
            allows_tf32(),
            *(strides for _, strides in locations),
            all(address % _ALIGNMENT == 0 for address, _ in locations),
            x.device.index or 0,
        )
        return plan, locations

    def _convolve(self, op, problem, x, w, y, epilogue=NO_EPILOGUE):
        bias, residual, activation = epilogue
        plan, locations = self._plan_for(op, problem, x, w, y)
        if first_use.applies(x.device):
            first_use.require(self, _kernel_of(op, x.dtype, plan), x.device)
        if plan.algorithm == core.CudaAlgorithm.im2col:
            column_bytes = plan.workspace_bytes
            return im2col.convolve(cuda_im2col, op, problem, x, w, y, epilogue, column_bytes)
        memory = workspace(plan.workspace_bytes, x)
        launch(
            cuda.conv2d,
            x,
            int(op),
            problem.sizes,
            int(DTYPES[x.dtype]),
            plan.numbers,
            *locations[0],
            *locations[1],
            *locations[2],
            0 if bias is None else bias.data_ptr(),
            *_locate(residual),
            native(activation).numbers,
            0 if memory is None else memory.data_ptr(),
        )

    def prepare_fprop(self, x, w, b, residual, y, geometry, activation):
        if y.numel() == 0 or (b is not None and not b.is_contiguous()):
            return None
        problem = conv_problem(x.shape, w.shape, geometry)
        plan, _ = self._plan_for(ConvOp.fprop, problem, x, w, y)
        if plan.algorithm == core.CudaAlgorithm.im2col:
            return None
        memory = prepared_workspace(plan.workspace_bytes, x)
        call = cuda.prepare_conv2d(
            problem.sizes,
            int(DTYPES[x.dtype]),
            plan.numbers,
            x.stride(),
            w.stride(),
            y.stride(),
            b is not None,
            optional_strides(residual),
            native(activation).numbers,
            memory is not None,
        )
        return (call,) if memory is None else (call, memory)

    def prepare_fprop_backward(self, dy, x, w, saved, dx, dw, db, geometry, activation):
        problem = conv_problem(x.shape, w.shape, geometry)
        dz = None if saved is None else empty(dy.shape, dy, suggests_channels_last(saved))
        from_dy = dy if dz is None else dz
        dtype = int(DTYPES[x.dtype])
        plans, byte_counts = [], [0]
        if dz is not None or db is not None:
            byte_counts.append(cuda.epilogue_backward_workspace(tuple(dy.shape), dtype))
        for op, result, operands in (
            (ConvOp.dgrad, dx, (dx, w, from_dy)),
            (ConvOp.wgrad, dw, (x, dw, from_dy)),
        ):
            plan = None if result is None else self._plan_for(op, problem, *operands)[0]
            plans.append(plan)
            if plan is not None:
                if plan.algorithm == core.CudaAlgorithm.im2col:
                    return None
                byte_counts.append(plan.workspace_bytes)
        memory = prepared_workspace(max(byte_counts), x)
        call = cuda.prepare_conv2d_backward(
            problem.sizes,
            dtype,
            native(activation).numbers,
            *map(optional_strides, (dy, x, w, saved, dz)),
            db is not None,
            None if dx is None else plans[0].numbers,
            optional_strides(dx),
            None if dw is None else plans[1].numbers,
            optional_strides(dw),
            memory is not None,
        )
        return (call, dz) if memory is None else (call, dz, memory)

    def _epilogue_backward(self, dy, saved, activation, dz, db):
        self._require_epilogue(dy)
        size, dtype = tuple(dy.shape), int(DTYPES[dy.dtype])
        memory = workspace(cuda.epilogue_backward_workspace(size, dtype), dy)
        launch(
            cuda.epilogue_backward,
            dy,
            size,
            dtype,
            native(activation).numbers,
            *_locate(dy),
            *_locate(saved),
            *_locate(dz),
            db.data_ptr(),
            0 if memory is None else memory.data_ptr(),
        )

    def _finish(self, z, bias, residual, activation):
        self._require_epilogue(z)
        cuda_im2col.epilogue(z, bias, residual, activation)

    def _activate(self, z, activation, y):
        self._require_epilogue(z)
        launch(
            cuda.epilogue_forward,
            z,
            tuple(z.shape),
            int(DTYPES[z.dtype]),
            *_locate(z),
            *_locate(y),
            0,
            *_locate(None),
            native(activation).numbers,
        )

    def _require_epilogue(self, tensor):
        if first_use.applies(tensor.device):
            first_use.require(self, epilogue_kernel(tensor.dtype), tensor.device)


def _kernel_of(op, dtype, plan):
    _, kernel, vectorised, packed_w, math, splits, _, packed_source = plan.numbers
    packed = packed_w + 2 * packed_source
    detail = (core.CudaMath(math).name, kernel, vectorised, packed, splits > 1)
    return Kernel(op.name, plan.algorithm.name, dtype, detail)


def _describe(plan):
    """The plan's reason and configuration in words."""
    parts = [plan.reason, plan.tile_name, plan.math.name]
    if plan.vectorised:
        parts.append("16-byte accesses")
    if plan.packed_w:
        parts.append("w packed")
    if plan.packed_source:
        parts.append("copied to channels_last")
    if plan.splits > 1:
        parts.append(f"gemm_k in {plan.splits} slices")
    if plan.workspace_bytes:
        parts.append(f"workspace {plan.workspace_bytes / 2**20:.3g} MiB")
    return ", ".join(filter(None, parts))


CUDA_BACKENDS = {
    backend.name: backend
    for backend in (
        CudaBackend("cuda"),
        *(
            CudaBackend(f"cuda:{name}", getattr(core.CudaAlgorithm, name))
            for name in core.CudaAlgorithm.__members__
        ),
    )
}
