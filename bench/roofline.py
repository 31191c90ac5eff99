"""What a GPU can do at best, measured once: how far a kernel is from that is its gap."""

from dataclasses import asdict, dataclass

import torch

from .cases import DTYPES


def _seconds(function, repeats):
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


def _matmul_tflops(size, dtype, allow_tf32):
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allow_tf32
    try:
        a, b = (torch.randn(size, size, device="cuda").to(dtype) for _ in range(2))
        return 2 * size**3 / _seconds(lambda: a @ b, 5) / 1e12
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


@dataclass(frozen=True)
class Ceilings:
    """Rates of this device: bytes read and written by a large copy, and of large products."""

    copy_gbs: float
    bf16_tflops: float
    tf32_tflops: float
    fp32_tflops: float  # without matrix units

    @classmethod
    def measured(cls):
        x = torch.empty(1 << 29, dtype=torch.uint8, device="cuda")
        y = torch.empty_like(x)
        return cls(
            2 * x.numel() / _seconds(lambda: y.copy_(x), 10) / 1e9,
            _matmul_tflops(8192, torch.bfloat16, False),
            _matmul_tflops(8192, torch.float32, True),
            _matmul_tflops(4096, torch.float32, False),
        )

    def as_dict(self):
        return {f"ceiling_{name}": float(f"{value:.4g}") for name, value in asdict(self).items()}

    def __str__(self):
        return ", ".join(f"{name} {value:.4g}" for name, value in asdict(self).items())

    def tflops(self, case, baseline):
        """The rate of the fastest unit that has the case's precision."""
        if not case.op.startswith("conv2d") or case.family.startswith("depthwise"):
            return self.fp32_tflops
        if case.dtype in ("bfloat16", "float16"):
            return self.bf16_tflops
        if baseline.endswith("TF32"):
            return self.tf32_tflops
        # float32's accuracy on matrix units: three TF32 products for one.
        return max(self.fp32_tflops, self.tf32_tflops / 3)

    def floor_us(self, case, row):
        """No version runs faster: the larger of the times that bytes and arithmetic take."""
        element_size = DTYPES[case.dtype].itemsize
        return max(
            case.shape.bytes(element_size) / self.copy_gbs / 1e3,
            case.shape.flops() / self.tflops(case, row.baseline or "") / 1e6,
        )
