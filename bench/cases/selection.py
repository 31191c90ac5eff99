"""What one run times: operators x shapes x passes x layouts x dtypes, filtered.

A case is one line of the table. Passes are fprop, dgrad and wgrad for convolutions, transposed ones
too, whose fprop is their own forward pass; fwd and bwd for pools. conv2d+bias+relu, the sequence
that inference spends its time in, has fprop alone, and among the ops bgrad too: the gradient of b,
which is the backward pass of ReLU and bias.
"""

import math
from dataclasses import dataclass, replace

import torch

from fastconv.activations import ACTIVATIONS

from .shapes import Layer, load_layers, load_pools

LAYOUTS = {"nchw": torch.contiguous_format, "channels_last": torch.channels_last}
PASSES = ("fprop", "dgrad", "wgrad", "bgrad", "fwd", "bwd")
DTYPES = {
    "float64": torch.float64,
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}
INDEX_BYTES = 8  # of an int64
# One of each family, none of them slow: a picture of everything.
QUICK = {
    "resnet18 conv1",
    "resnet18 l1.3x3",
    "resnet18 l2.ds1x1s2",
    "resnet18 l4.3x3",
    "mobilenet_v2 dw3x3_s1",
    "convnext_tiny s3.dw7x7",
    "resnext50_32x4d l1.g32_3x3",
    "unet up2.transposed2x2s2",
    "wavenet skip1x1",
    "resnet18 max3x3s2",
    "densenet121 avg2x2s2",
    "resnet18 gap7x7",
}
QUICK_FUSED = {"resnet18 l1.3x3", "mobilenet_v2 dw3x3_s1"}

POOL_OPS = {
    "max": "max_pool2d",
    "avg": "avg_pool2d",
    "gap": "adaptive_avg_pool2d",
    "gmp": "adaptive_max_pool2d",
}
# Lines of the part "ops" that no row of the CSVs gives: (a layer of the CSVs, fields that differ
# from it, op, passes).
_VARIANTS = (
    ("resnet18 l1.3x3", {}, "conv2d+bias+relu", ("bgrad",)),
    ("resnet18 l1.3x3", {}, "conv2d+bias+residual+relu", ("fprop",)),
    *(
        ("mobilenet_v2 dw3x3_s1", {}, f"conv2d+bias+{name}", ("fprop",))
        for name in ACTIVATIONS
        if name != "relu"
    ),
    ("resnet18 max3x3s2", {}, "max_pool2d+indices", ("fwd",)),
    ("resnet18 gap7x7", {"name": "gmp7x7", "kind": "gmp"}, "adaptive_max_pool2d", ("fwd", "bwd")),
)


@dataclass(frozen=True)
class Case:
    op: str
    pass_: str
    layout: str  # a key of LAYOUTS
    dtype: str  # a key of DTYPES
    shape: object  # Layer or Pool

    @property
    def family(self):
        _, plus, variant = self.op.partition("+")
        return f"{self.shape.family} +{variant}" if plus else self.shape.family

    @property
    def model(self):
        return self.shape.model

    @property
    def layer(self):
        return self.shape.name or self.shape.problem

    @property
    def problem(self):
        return self.shape.problem

    def flops(self):
        """FLOPs of the pass, two a multiply-add; of a convolution's epilogue none are counted."""
        if self.pass_ == "bgrad":  # a comparison and an addition for each element of dy
            return 2 * math.prod(self.shape.out_size())
        return self.shape.flops()

    def bytes(self, element_size):
        """Compulsory bytes of the pass: each of its large tensors crosses memory once."""
        outputs = math.prod(self.shape.out_size())
        if self.pass_ == "bgrad":  # dy and y
            return 2 * outputs * element_size
        residual = outputs * element_size if "+residual" in self.op else 0
        indices = outputs * INDEX_BYTES if "+indices" in self.op else 0
        return self.shape.bytes(element_size) + residual + indices

    @property
    def title(self):
        """What --filter looks at."""
        return (
            f"{self.shape.layer} {self.family} {self.op} {self.pass_} {self.layout} {self.dtype} "
            f"{self.problem}"
        )


def _operators(shape):
    """(op, its passes) of a shape."""
    if isinstance(shape, Layer) and shape.transposed:
        yield "conv_transpose2d", ("fprop", "dgrad", "wgrad")
    elif isinstance(shape, Layer):
        yield "conv2d", ("fprop", "dgrad", "wgrad")
        yield "conv2d+bias+relu", ("fprop",)
    else:
        yield POOL_OPS[shape.kind], ("fwd", "bwd")


def _csv_lines(rows, quick):
    """(shape, op, passes) of rows of the CSVs."""
    for shape in rows:
        if quick and shape.layer not in QUICK:
            continue
        for op, passes in _operators(shape):
            if not quick or op != "conv2d+bias+relu" or shape.layer in QUICK_FUSED:
                yield shape, op, passes


def _variant_lines(rows):
    """(shape, op, passes) of _VARIANTS."""
    for layer, changes, op, passes in _VARIANTS:
        for shape in rows:
            if shape.layer == layer:
                yield replace(shape, **changes), op, passes


def _with_batches(rows, batches):
    """The rows as they are, or with batches each layer once a batch."""
    if batches is None:
        return rows
    return list(dict.fromkeys(row.with_batch(N) for N in batches for row in rows))


def _lines(part, batches, quick):
    """(shape, op, passes) of a part of the bench: "layers", "pools" or "ops"."""
    load = {"layers": load_layers, "pools": load_pools}
    if part in load:
        return _csv_lines(_with_batches(load[part](), batches), quick)
    if part == "ops":
        rows = _with_batches([*load_layers(), *load_pools()], batches)
        return [*_csv_lines(rows, quick=True), *_variant_lines(rows)]
    raise ValueError(f"part must be layers, pools or ops, got {part!r}")


def _chosen(lines, layouts, passes, dtypes, words):
    """The Cases of (shape, op, passes), each problem once."""
    chosen = {}
    for shape, op, op_passes in lines:
        for pass_ in (name for name in op_passes if name in passes):
            for layout in layouts:
                for dtype in dtypes:
                    case = Case(op, pass_, layout, dtype, shape)
                    title = case.title.lower()
                    if words and not any(word.lower() in title for word in words):
                        continue
                    # Networks share layers: the same problem is timed once.
                    chosen.setdefault((op, pass_, layout, dtype, shape.problem), case)
    return list(chosen.values())


def select_shapes(shapes, layouts, passes, dtypes, words=()):
    """The cases of shapes that a user gives, in their order.

    Args:
        shapes: (shape, op); op None: those that a layer of a network is timed with.
        layouts, passes, dtypes, words: as in select_cases.
    """
    lines = []
    for shape, wanted in shapes:
        ops = dict(_operators(shape))
        if wanted is not None:
            forward = "fprop" if isinstance(shape, Layer) else "fwd"
            ops = {wanted: ops.get(wanted, (forward,))}
        lines += [(shape, op, op_passes) for op, op_passes in ops.items()]
    return _chosen(lines, layouts, passes, dtypes, words)


def select_cases(
    batches, layouts, passes, dtypes, words=(), quick=False, parts=("layers", "pools")
):
    """The cases of one run, in the order of the CSVs.

    Args:
        batches: values of N, or None for those of the CSVs.
        layouts, passes, dtypes: names, see LAYOUTS, PASSES, DTYPES.
        words: texts of which each case's title must contain one; empty: all cases.
        quick: only the QUICK subset.
        parts: "layers" and "pools", the rows of the CSV of that name; "ops", one line or two for
            each operator and variant.
    """
    lines = [line for part in parts for line in _lines(part, batches, quick)]
    return _chosen(lines, layouts, passes, dtypes, words)
