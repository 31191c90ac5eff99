"""What all backends answer: whether they can run a call, and how they would run it."""

from typing import NamedTuple

import torch

from ..problem import DTYPES
from .conv2d import conv_problem


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


def constant_while_compiling(function):
    """torch.compiler.assume_constant_result, without its import of the whole compiler."""
    function._dynamo_marked_constant = True
    return function
