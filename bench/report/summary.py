"""Results summed up and put in order, for the page, the plots and the README's tables.

A ratio is the baseline's time over fastconv's: above 1 fastconv is the faster one. Means and counts
are of quotable rows alone (record.Row.is_quotable); where there is none, of the disturbed ones, and
marked.
"""

import re
from dataclasses import dataclass
from statistics import geometric_mean
from typing import NamedTuple

from ..cases.selection import PASSES as LAYER_PASSES

LAYOUTS = {"nchw": "NCHW", "channels_last": "channels_last"}
# Closer to 1 than this the noise of a shared machine decides which side is the faster one.
TIE = 0.05
VARIANTS = ("converted", "fused")
_KINDS = (
    "stem", "dense RxS", "dense 1x1", "dilated", "grouped", "depthwise", "transposed", "1-D",
    "max pool", "average pool", "global average pool",
)  # fmt: skip
_DTYPES = ("float32", "bfloat16", "float16", "float64")
_PASSES = (*LAYER_PASSES, "inference", "training step")
_PASS_NAMES = {"fwd": "forward", "bwd": "backward"}
_EPILOGUE_NAMES = {"relu": "ReLU", "relu6": "ReLU6", "silu": "SiLU", "gelu": "GELU"}
_NETWORK_NAMES = {
    "resnet18": "ResNet-18",
    "resnet50": "ResNet-50",
    "resnext50_32x4d": "ResNeXt-50",
    "vgg16": "VGG-16",
    "mobilenet_v1": "MobileNetV1",
    "mobilenet_v1_dense": "MobileNetV1, dense",
    "mobilenet_v2": "MobileNetV2",
    "mobilenet_v3_large": "MobileNetV3-Large",
    "efficientnet_b0": "EfficientNet-B0",
    "convnext_tiny": "ConvNeXt-T",
    "densenet121": "DenseNet-121",
    "squeezenet1_1": "SqueezeNet 1.1",
    "unet": "U-Net",
    "wavenet": "WaveNet",
}


def grouped(rows, key):
    """{key: rows}, in the order of first appearance."""
    groups = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return groups


def family_name(family):
    """Spelled out: "grouped, 4 channels a group + bias + ReLU" for "grouped C/g=4 +bias+relu"."""
    kind, *epilogue = family.replace(" +", "+").split("+")
    kind = re.sub(r" C/g=(\d+)", r", \1 channels a group", kind)
    kind = re.sub(r"([\dR])x([\dS])", r"\1 x \2", kind).replace("C=3", "C = 3")
    return " + ".join([kind, *(_EPILOGUE_NAMES.get(name, name) for name in epilogue)])


def kind_of(family):
    """The kind of layer that a family is of: "depthwise" for "depthwise 5x5 +bias+relu"."""
    return next((kind for kind in _KINDS if family.startswith(kind)), family)


def pass_name(pass_):
    return _PASS_NAMES.get(pass_, pass_)


def network_name(model):
    return _NETWORK_NAMES.get(model, model)


def variant(row):
    """What became of a network's modules: "converted" one by one, or also "fused"."""
    return row.layer if row.layer in VARIANTS else "converted"


def _rank(value, known):
    return known.index(value) if value in known else len(known)


def _family_rank(family):
    digits = [int(number) for number in re.findall(r"\d+", family)]
    return _rank(kind_of(family), _KINDS), digits, family


def by_family(rows):
    """{family: {pass: rows}}, related families beside each other."""
    ordered = sorted(rows, key=lambda row: (_family_rank(row.family), _rank(row.pass_, _PASSES)))
    return {
        family: grouped(group, lambda row: row.pass_)
        for family, group in grouped(ordered, lambda row: row.family).items()
    }


def is_network(row):
    return row.op == "network"


def is_call(row):
    return row.op == "call"


def in_order(rows):
    """Rows of networks: each network's together, in the order of first appearance."""
    models = list(dict.fromkeys(row.model for row in rows))
    return sorted(
        rows,
        key=lambda row: (
            models.index(row.model),
            _rank(row.dtype, _DTYPES),
            _rank(variant(row), VARIANTS),
            _rank(row.pass_, _PASSES),
            row.threads or 0,
        ),
    )


class Comparison(NamedTuple):
    """What is compared with what. Only rows of the same comparison are averaged together."""

    backend: str | None  # None where no kernel of ours ran, and for networks on their own choice
    baseline: str | None
    dtype: str

    def __str__(self):
        ours = f"{self.backend}, " if self.backend else ""
        return f"{ours}{self.dtype}, against {self.baseline or 'nothing'}"


def comparisons(rows):
    """{Comparison: rows}, the largest first."""
    found = grouped(
        rows, lambda row: Comparison(row.backend or row.requested_backend, row.baseline, row.dtype)
    )
    return dict(sorted(found.items(), key=lambda item: -len(item[1])))


def own_choice(rows):
    """The rows for which no backend was asked for by name."""
    return [row for row in rows if row.requested_backend is None]


def quotable(rows):
    return [row for row in rows if row.is_quotable]


def counted(rows):
    """The rows that a mean is of: the quotable ones, or where there is none, the disturbed ones."""
    return quotable(rows) or [row for row in rows if row.has_ratio]


def wins_and_losses(ratios):
    """How many are above 1, and how many below, by more than the noise."""
    return sum(r >= 1 + TIE for r in ratios), sum(r <= 1 / (1 + TIE) for r in ratios)


@dataclass(frozen=True)
class Summary:
    """What the ratios of some rows come to."""

    lines: int
    mean: float  # geometric
    low: float
    high: float
    wins: int  # by more than the noise, as are losses
    losses: int
    is_disturbed: bool  # there is no other row

    @classmethod
    def of(cls, rows):
        """None without a ratio."""
        rows = counted(rows)
        if not rows:
            return None
        ratios = [row.x_baseline for row in rows]
        tally = wins_and_losses(ratios)
        mean, disturbed = geometric_mean(ratios), rows[0].is_disturbed
        return cls(len(ratios), mean, min(ratios), max(ratios), *tally, disturbed)

    @property
    def level(self):
        return self.lines - self.wins - self.losses


def of_layout(rows, layout):
    return [row for row in rows if row.layout == layout]


def best_layout_ratios(rows):
    """Each row's ratio with the faster of the baseline's layouts, by id(row), where both were
    timed: a user of torch may choose the layout, so that is the time to beat. Rows without a number
    of ours have a say in it; disturbed ones where there are no others."""
    best = {}
    for group in grouped(rows, _same_but_for_layout).values():
        timed = [row for row in group if row.baseline_us]
        quiet = [row for row in timed if not row.is_disturbed] or timed
        times = {row.layout: row.baseline_us for row in quiet}
        if len(times) == len(LAYOUTS):
            best |= {id(row): min(times.values()) / row.us for row in group if row.us}
    return best


def best_layout_mean(rows, best):
    """Geometric mean of best_layout_ratios of rows, None where one has none."""
    ratios = [best.get(id(row)) for row in rows]
    return None if None in ratios or not ratios else geometric_mean(ratios)


def _same_but_for_layout(row):
    named = (row.model, row.layer) if row.op in ("network", "call") else ()
    return (row.op, row.pass_, *named, row.problem, row.dtype, row.baseline, row.threads)
