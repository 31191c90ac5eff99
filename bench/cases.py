"""What one run times: operators x shapes x passes x layouts x dtypes, filtered.

A case is one line of the table. Passes are fprop, dgrad and wgrad for convolutions, fwd and bwd for
pools; conv2d+bias+relu, the sequence that inference spends its time in, has fprop alone.
"""

from dataclasses import dataclass

import torch

from .shapes import Layer, load_layers, load_pools

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
PASSES = ("fprop", "dgrad", "wgrad", "fwd", "bwd")
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
# On the CPU; a GPU gets the N of the CSV.
CPU_BATCHES = (1, 8)
# One of each family, none of them slow: a picture of everything in under a minute on two cores.
QUICK = {
    "resnet18 conv1",
    "resnet18 l1.3x3",
    "resnet18 l2.ds1x1s2",
    "resnet18 l4.3x3",
    "mobilenet_v2 dw3x3_s1",
    "convnext_tiny s3.dw7x7",
    "resnext50_32x4d l1.g32_3x3",
    "resnet18 max3x3s2",
    "densenet121 avg2x2s2",
    "resnet18 gap7x7",
}
QUICK_FUSED = {"resnet18 l1.3x3", "mobilenet_v2 dw3x3_s1"}

_POOL_OPS = {"max": "max_pool2d", "avg": "avg_pool2d", "gap": "adaptive_avg_pool2d"}


@dataclass(frozen=True)
class Case:
    op: str
    pass_: str
    layout: str  # a key of LAYOUTS
    dtype: str  # a key of DTYPES
    shape: object  # Layer or Pool

    @property
    def family(self):
        fused = " +bias+relu" if self.op.endswith("relu") else ""
        return self.shape.family + fused

    @property
    def title(self):
        """What --filter looks at."""
        shape = self.shape
        return (
            f"{shape.layer} {self.family} {self.op} {self.pass_} {self.layout} {self.dtype} "
            f"{shape.problem}"
        )


def _operators(shape):
    """(op, its passes) of a shape."""
    if isinstance(shape, Layer):
        yield "conv2d", ("fprop", "dgrad", "wgrad")
        yield "conv2d+bias+relu", ("fprop",)
    else:
        yield _POOL_OPS[shape.kind], ("fwd", "bwd")


def _shapes(batches):
    """Every row of the CSVs, or with batches each layer once a batch."""
    rows = [*load_layers(), *load_pools()]
    if batches is None:
        return rows
    return list(dict.fromkeys(row.with_batch(N) for N in batches for row in rows))


def select_cases(batches, layouts, passes, dtypes, words=(), quick=False):
    """The cases of one run, in the order of the CSVs.

    Args:
        batches: values of N, or None for those of the CSVs.
        layouts, passes, dtypes: names, see LAYOUTS, PASSES, DTYPES.
        words: texts of which each case's title must contain one; empty: all cases.
        quick: only the QUICK subset.
    """
    chosen, seen = [], set()
    for shape in _shapes(batches):
        if quick and shape.layer not in QUICK:
            continue
        for op, op_passes in _operators(shape):
            if quick and op.endswith("relu") and shape.layer not in QUICK_FUSED:
                continue
            for pass_ in (name for name in op_passes if name in passes):
                for layout in layouts:
                    for dtype in dtypes:
                        case = Case(op, pass_, layout, dtype, shape)
                        # Networks share layers: the same problem is timed once.
                        key = (op, pass_, layout, dtype, shape.problem)
                        title = case.title.lower()
                        if words and not any(word.lower() in title for word in words):
                            continue
                        if key not in seen:
                            seen.add(key)
                            chosen.append(case)
    return chosen
