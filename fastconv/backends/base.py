"""What all backends answer: whether they can run a call, and how they would run it."""

from typing import NamedTuple

import torch

from ..problem import DTYPES, suggests_channels_last
from .conv2d import conv_problem
from .pool2d import pool_op


def is_convolution(operator):
    """Whether an operator's calls are (x size, w size, Conv2dGeometry), or else those of a pool."""
    return operator.startswith("conv")


class Kernel(NamedTuple):
    """What a backend starts for an operation of any sizes, as precisely as its plan tells kernels
    apart. Printed as "implicit_gemm fprop bfloat16"."""

    operation: str  # fprop, dgrad, wgrad, max_fwd, ..., epilogue
    algorithm: str
    dtype: torch.dtype
    detail: tuple = ()

    def __str__(self) -> str:
        return f"{self.algorithm} {self.operation} {str(self.dtype).removeprefix('torch.')}"


def epilogue_kernel(dtype):
    """The Kernel of a bias gradient, of an activation, and of its backward."""
    return Kernel("epilogue", "epilogue", dtype)


class PassPlan(NamedTuple):
    """The algorithm of a pass and why; the tile of sums it works on at a time, "" where it has none
    or none is known."""

    algorithm: str
    reason: str
    tile: str = ""


class Backend:
    """`name` is what `backend=` takes; `algorithm` is the one that the name fixes, None where the
    plan chooses.

    A subclass says by _device_reason(device, index), _unsupported_reason(problem, dtype) of a
    convolution and _pool2d_reason(x_size, windows) why it cannot run a call, or None.
    """

    plan_takes_all = True  # whether the plan, free to choose, has an algorithm for any convolution

    def kernel(self, operation, call, dtype, channels_last, index, given=(), aligned=True):
        """The Kernel that an operation would start, or None for backends that run on the CPU alone.

        Args:
            operation: a pass of the call, or "epilogue".
            call, dtype, index: as in supports().
            channels_last: of all tensors, which are dense, but for the strides of those that are
                `given` as pairs ("x", "w" or "y", strides).
            aligned: whether all addresses are multiples of 16.
        """
        return None

    def kernels(self, operator, call, tensors, differentiated):
        """The Kernels of a call and, where it is differentiated, of its backward.

        Args:
            operator, call: as in supports().
            tensors: x, and the w of a convolution; None and others may follow.
        """
        x, w = tensors[0], tensors[1] if is_convolution(operator) else None
        channels_last = suggests_channels_last(x) or (w is not None and suggests_channels_last(w))
        aligned = all(_is_aligned(tensor) for tensor in tensors if tensor is not None)
        given = ()
        if w is not None:
            # What a transposed convolution is given is the y of the convolution.
            name = "y" if operator == "conv_transpose2d" else "x"
            given = ((name, x.stride()), ("w", w.stride()))
        about = call, x.dtype, channels_last, x.device.index, given, aligned
        return [self.kernel(name, *about) for name in _operations(operator, differentiated)]

    def supports(self, operator, call, dtype, device, index=None):
        """None, or why this backend cannot run the call.

        Args:
            operator: "conv1d", "conv2d", "max_pool2d", ...
            call: (x size, w size, Conv2dGeometry), for a transposed convolution of the convolution
                whose dgrad it is; or (x size, Pool2dWindows) of a pooling.
            dtype: of the tensors.
            device, index: the type of their device and its number, None for the one in use.
        """
        if reason := self._device_reason(device, index):
            return reason
        if dtype not in DTYPES:
            return f"no kernels for {dtype}"
        if is_convolution(operator):
            if call[0][1] == 0:
                return "no input channels: torch defines the result"
            if self.algorithm is None and self.plan_takes_all:
                return None
        # While compiling, sizes may be symbolic; the kernel's own check stands in for these.
        if torch.compiler.is_compiling():
            return None
        if is_convolution(operator):
            return self._unsupported_reason(conv_problem(*call), dtype)
        return self._pool2d_reason(*call)


def _operations(operator, differentiated):
    """What a call runs, and its backward."""
    if not is_convolution(operator):
        return [pool_op(operator, name).name for name in ("fwd", "bwd")[: 1 + differentiated]]
    if differentiated:
        return ["fprop", "dgrad", "wgrad", "epilogue"]
    return ["dgrad", "epilogue"] if operator == "conv_transpose2d" else ["fprop"]


def _is_aligned(tensor):
    """Of tensors that only wrap another one nobody can tell: they are taken for new ones."""
    return not torch._C._has_storage(tensor) or tensor.data_ptr() % 16 == 0


def constant_while_compiling(function):
    """torch.compiler.assume_constant_result, without its import of the whole compiler."""
    function._dynamo_marked_constant = True
    return function
