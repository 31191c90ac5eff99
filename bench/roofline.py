"""What a device can do at best, measured once a run: how far a kernel is from that is its gap."""

import time
from dataclasses import asdict, dataclass, fields

import torch

from .cases import DTYPES

# Bytes of the tensor that is copied: more than any cache holds.
COPY_BYTES = {"cpu": 1 << 28, "cuda": 1 << 29}
# Sides of the matrices that are multiplied: on a CPU the first, doubled until a product takes long
# enough to keep all threads busy.
CPU_SIZE, CPU_SECONDS_PER_PRODUCT = 1024, 0.02
CUDA_SIZE, CUDA_SIZE_WITHOUT_MATRIX_UNITS = 8192, 4096
# Time for the calls of which the best one counts.
CPU_SECONDS = 0.25


def _seconds_cpu(function):
    """Of one call: the best of as many as fit, after a first that does not count."""
    function()
    end, best = time.perf_counter() + CPU_SECONDS, float("inf")
    while True:
        begin = time.perf_counter()
        function()
        now = time.perf_counter()
        best = min(best, now - begin)
        if now > end:
            return best


def _seconds_cuda(function, repeats):
    """Of one call, the best of three runs of so many."""
    function()
    best = float("inf")
    for _ in range(3):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(repeats):
            function()
        end.record()
        end.synchronize()
        best = min(best, begin.elapsed_time(end) / 1e3 / repeats)
    return best


def _copy_gbs(device):
    x = torch.zeros(COPY_BYTES[device], dtype=torch.uint8, device=device)
    y = torch.empty_like(x)
    copy = lambda: y.copy_(x)  # noqa: E731
    seconds = _seconds_cpu(copy) if device == "cpu" else _seconds_cuda(copy, 10)
    return 2 * x.numel() / seconds / 1e9


def _matmul_tflops_cpu(dtype):
    size = CPU_SIZE
    while True:
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        seconds = _seconds_cpu(lambda a=a, b=b: a @ b)
        if seconds > CPU_SECONDS_PER_PRODUCT:
            return 2 * size**3 / seconds / 1e12
        size *= 2


def _matmul_tflops_cuda(size, dtype, allow_tf32=False):
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    try:
        a, b = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
        return 2 * size**3 / _seconds_cuda(lambda: a @ b, 5) / 1e12
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@dataclass(frozen=True)
class Ceilings:
    """Rates of this device: bytes read and written by a large copy, and of large products; None for
    what this device does not have or nobody asked for."""

    copy_gbs: float
    fp32_tflops: float  # on a GPU without matrix units
    bf16_tflops: float | None = None
    fp16_tflops: float | None = None
    tf32_tflops: float | None = None
    fp64_tflops: float | None = None

    @classmethod
    def measured(cls, device, dtypes):
        """Within a second or two, with the threads that torch is set to.

        Args:
            device: "cpu" or "cuda".
            dtypes: names of those whose products are wanted besides float32's.
        """
        if device == "cpu":
            return cls(
                _copy_gbs("cpu"),
                _matmul_tflops_cpu(torch.float32),
                bf16_tflops=_matmul_tflops_cpu(torch.bfloat16) if "bfloat16" in dtypes else None,
                fp64_tflops=_matmul_tflops_cpu(torch.float64) if "float64" in dtypes else None,
            )
        small = CUDA_SIZE_WITHOUT_MATRIX_UNITS
        return cls(
            _copy_gbs("cuda"),
            _matmul_tflops_cuda(small, torch.float32),
            _matmul_tflops_cuda(CUDA_SIZE, torch.bfloat16),
            _matmul_tflops_cuda(CUDA_SIZE, torch.float16) if "float16" in dtypes else None,
            _matmul_tflops_cuda(CUDA_SIZE, torch.float32, allow_tf32=True),
            _matmul_tflops_cuda(small, torch.float64) if "float64" in dtypes else None,
        )

    @classmethod
    def columns(cls):
        """Those of a row: all of them in every row, whatever was asked for."""
        return [f"ceiling_{field.name}" for field in fields(cls)]

    def as_dict(self):
        rounded = (None if v is None else float(f"{v:.4g}") for v in asdict(self).values())
        return dict(zip(self.columns(), rounded))

    def __str__(self):
        known = {name: value for name, value in asdict(self).items() if value is not None}
        return ", ".join(f"{name} {value:.4g}" for name, value in known.items())

    def tflops(self, case, baseline):
        """The rate of the fastest unit that has the case's precision."""
        if case.dtype == "float64":
            return self.fp64_tflops
        if not case.op.startswith("conv2d") or case.family.startswith("depthwise"):
            return self.fp32_tflops
        if case.dtype in ("bfloat16", "float16"):
            # A CPU may be slower at products of halves than at those of the same numbers widened.
            half = self.bf16_tflops if case.dtype == "bfloat16" else self.fp16_tflops
            return max(self.fp32_tflops, half or 0)
        if baseline.endswith("TF32"):
            return self.tf32_tflops
        # float32's accuracy on matrix units: three TF32 products for one.
        return max(self.fp32_tflops, (self.tf32_tflops or 0) / 3)

    def floor_us(self, case, row):
        """No version runs faster, but on a CPU one whose tensors the caches hold: the larger of the
        times that bytes and arithmetic take."""
        element_size = DTYPES[case.dtype].itemsize
        return max(
            case.bytes(element_size) / self.copy_gbs / 1e3,
            case.flops() / self.tflops(case, row.baseline or "") / 1e6,
        )

    def fill(self, rows, case):
        """Writes into a case's rows which share of the roofline they reach."""
        for row in rows:
            if row.us:
                row.roofline_percent = 100 * self.floor_us(case, row) / row.us
