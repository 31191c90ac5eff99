"""What a device can do at best, measured once a run; kernels' times are held against it."""

from dataclasses import asdict, dataclass, fields

import torch

from ...backends.base import is_convolution
from ...explanation.roofline import copy_rate, matmul_tf32, peak_product_rate
from ..cases.selection import DTYPES

# Bytes that the copy reads and writes: more than any cache holds.
COPY_BYTES = {"cpu": 1 << 29, "cuda": 1 << 30}


def _tflops(device, dtype, allow_tf32=False):
    with matmul_tf32(allow_tf32):
        return peak_product_rate(device, dtype) / 1e12


@dataclass(frozen=True)
class Ceilings:
    """Rates of this device: bytes read and written by a large copy, and of large products; None for
    what this device does not have or nobody asked for."""

    copy_gbs: float
    fp32_tflops: float  # of plain arithmetic: on a GPU without its matrix units
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
        rates = {name: _tflops(device, DTYPES[name]) for name in dtypes if name != "float32"}
        tf32 = _tflops(device, torch.float32, allow_tf32=True) if device == "cuda" else None
        return cls(
            copy_rate(device, COPY_BYTES[device]) / 1e9,
            _tflops(device, torch.float32),
            bf16_tflops=rates.get("bfloat16"),
            fp16_tflops=rates.get("float16"),
            tf32_tflops=tf32,
            fp64_tflops=rates.get("float64"),
        )

    @classmethod
    def columns(cls):
        """The columns that ceilings have in a file: the same ones whatever was asked for."""
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
        if not is_convolution(case.op) or case.family.startswith("depthwise"):
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
        """The larger of the times that the case's bytes and its arithmetic take. No kernel is
        faster, except on a CPU where the caches hold its tensors."""
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
