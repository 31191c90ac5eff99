"""What the self-test runs: every algorithm that a device's backends have, in each operation, dtype,
way to multiply and layout. The lists are the code's own: backends by name, and the native enums."""

from dataclasses import dataclass

import torch

from .. import _native
from ..backends import BACKENDS
from ..backends.cuda.launch import DEVICE as CUDA_DEVICE
from ..backends.triton import launch as triton_launch
from ..problem import DTYPES
from .problems import CONVOLUTIONS, EPILOGUES, POOLINGS, Convolution, Epilogue, Place, Pooling

# A plan for a device of so few prefers large tiles, one for the device itself small ones and split
# sums.
FEWEST_MULTIPROCESSORS = 1


def why_nothing(family):
    """Why the backends of a family can run nothing here, or None."""
    if family == "cpu":
        return None
    if family == "cuda" and _native.cuda is None:
        return _native.cuda_missing
    if family == "triton" and (reason := triton_launch.missing_reason()):
        return reason
    kind = _device_type(family)
    if kind == "cuda" and not torch.cuda.is_available():
        return "no GPU can be used here"
    return BACKENDS[family].supports("conv2d", CONVOLUTIONS[0].call, torch.float32, kind)


def _device_type(family):
    return {"cpu": "cpu", "cuda": CUDA_DEVICE}.get(family) or triton_launch.device_type()


def device_of(family):
    """Where the tensors of a family's backends live: of several GPUs the one in use."""
    kind = _device_type(family)
    return torch.device(kind, torch.cuda.current_device()) if kind == "cuda" else torch.device(kind)


@dataclass(frozen=True)
class Case:
    """One line of the table. It runs in a process of its own; so all of it are plain values."""

    backend: str  # a name of BACKENDS; of pools and epilogues that of the family
    operation: str
    dtype: str  # torch's name
    channels_last: bool
    allow_tf32: bool = False

    @property
    def name(self):
        layout = "channels_last" if self.channels_last else "nchw"
        numbers = f"{self.dtype} tf32" if self.allow_tf32 else self.dtype
        return f"{self.backend} {self.operation} {numbers} {layout}"

    @property
    def family(self):
        return self.backend.partition(":")[0]

    @property
    def place(self):
        return Place(getattr(torch, self.dtype), device_of(self.family), self.channels_last)

    def attempts(self):
        """(problem, the backend that is to run it) of each problem that it can run."""
        backend, place = BACKENDS[self.backend], self.place
        for problem in problems_of(self.operation):
            if problem.reason(backend, place.dtype, place.device) is not None:
                continue
            yield problem, backend
            if self.operation in Convolution.OPERATIONS and self.family != "cpu":
                other = backend.planned_for(FEWEST_MULTIPROCESSORS)
                if self.kernel_of(problem, other) != self.kernel_of(problem, backend):
                    yield problem, other

    def kernel_of(self, problem, backend):
        place = self.place
        about = place.dtype, place.channels_last, place.device.index
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=self.allow_tf32):
            return backend.kernel(self.operation, problem.call, *about)

    def run(self, report=lambda problem: None):
        """("passed" or "failed", what is wrong, how many problems ran), as children.run_all wants
        it: report is called with the name of each problem before it runs."""
        count = 0
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=self.allow_tf32):
            for problem, backend in self.attempts():
                report(problem.name)
                count += 1
                if wrong := problem.wrong(backend, self.operation, self.place):
                    return "failed", f"{problem.name}: {wrong}", count
        return "passed", "", count


def problems_of(operation):
    """The problems that an operation is tried on."""
    if operation in Epilogue.OPERATIONS:
        return EPILOGUES
    if operation in Convolution.OPERATIONS:
        return CONVOLUTIONS
    return [problem for problem in POOLINGS if operation.startswith(problem.kind)]


def cases(family):
    """All Cases of "cpu", "cuda" or "triton"."""
    named = [name for name in BACKENDS if name.startswith(f"{family}:")]
    pairs = [(name, operation) for name in named for operation in Convolution.OPERATIONS]
    pairs += [(family, operation) for operation in (*Pooling.OPERATIONS, *Epilogue.OPERATIONS)]
    return [
        case
        for backend, operation in pairs
        for dtype in DTYPES
        for allow_tf32 in (False, True)
        for channels_last in (False, True)
        if _is_one(
            case := Case(
                backend,
                operation,
                str(dtype).removeprefix("torch."),
                channels_last,
                allow_tf32,
            )
        )
    ]


def _is_one(case):
    """Whether a Case has problems, and is another one than the same without TF32."""
    problem, backend = next(case.attempts(), (None, None))
    if problem is None or not case.allow_tf32:
        return problem is not None
    kernel = case.kernel_of(problem, backend)
    return kernel is not None and "tf32" in kernel.detail
