"""The problems that are timed: convolution layers and pools of known networks.

layers.csv and pools.csv hold one row a layer and batch (N = 32 and 128, sizes for a GPU; of the
U-Net, whose planes are large, 32 alone). `stride`, `pad` and `dilation` are one number for both
axes, or (vertical, horizontal), in the files as 1x2. Letters as everywhere: x (N,C,H,W), w
(K,C/groups,R,S), y (N,K,P,Q). A layer along one axis has H = R = 1. A transposed one has its own x
and y too, with w (C,K/groups,R,S).
"""

import csv
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ...explanation.rows import work
from ...geometry import Conv2dGeometry, ConvTranspose2dGeometry
from ...problem import AdaptivePoolProblem, ConvOp, ConvProblem, PoolProblem

HERE = Path(__file__).parent


def pair(value):
    """(vertical, horizontal) of one number for both axes, or of such a pair."""
    return value if isinstance(value, tuple) else (value, value)


def _text(value):
    """As `explain` writes it: "3", or where the axes differ "3x1", vertical first."""
    vertical, horizontal = pair(value)
    return f"{vertical}" if vertical == horizontal else f"{vertical}x{horizontal}"


def _by_axis(name, value):
    vertical, horizontal = pair(value)
    return {f"{name}_h": vertical, f"{name}_w": horizontal}


class Shape:
    """What layers and pools have in common."""

    @property
    def input_text(self):
        """For example n8c64h56; with w where W differs from H."""
        return f"n{self.N}c{self.C}h{self.H}" + (f"w{self.W}" if self.W != self.H else "")

    @property
    def layer(self):
        """Its name: the network's and the layer's there, or of a shape that a user gave its
        problem."""
        return f"{self.model} {self.name or self.problem}"

    def in_size(self):
        """(N, C, H, W)"""
        return (self.N, self.C, self.H, self.W)

    def with_batch(self, N):
        return replace(self, N=N)


@dataclass(frozen=True)
class Layer(Shape):
    model: str
    name: str
    N: int
    C: int
    H: int
    W: int
    K: int
    R: int
    S: int
    stride: int | tuple
    pad: int | tuple
    dilation: int | tuple
    groups: int
    transposed: bool = False  # in the file 0 or 1

    @property
    def family(self):
        """The kind of convolution whose speeds are comparable: one mean in the summary."""
        if self.transposed:
            return f"transposed {self.R}x{self.S}"
        if self.groups > 1:
            if self.groups == self.C:
                return f"depthwise {self.R}x{self.S}"
            return f"grouped C/g={self.C // self.groups}"
        if self.C <= 4:
            return "stem (C=3)"
        if self.H == self.R == 1:
            return "1-D dilated" if pair(self.dilation)[1] > 1 else f"1-D 1x{self.S}"
        if max(pair(self.dilation)) > 1:
            return "dilated"
        return "dense 1x1" if self.R == self.S == 1 else "dense RxS"

    @property
    def problem(self):
        """For example n8c64h56k128r3s2p1: N, C, H, K, R, stride, pad; w, d and g where they differ
        from H, 1 and 1."""
        text = f"{self.input_text}k{self.K}r{_text((self.R, self.S))}"
        text += f"s{_text(self.stride)}p{_text(self.pad)}"
        text += f"d{_text(self.dilation)}" if pair(self.dilation) != (1, 1) else ""
        return text + (f"g{self.groups}" if self.groups != 1 else "")

    def geometry(self):
        """A Conv2dGeometry."""
        pairs = map(pair, (self.stride, self.pad, self.dilation))
        return Conv2dGeometry(*pairs, self.groups)

    def filter_size(self):
        """The size of w."""
        C, K = (self.K, self.C) if self.transposed else (self.C, self.K)
        return (K, C // self.groups, self.R, self.S)

    def call(self):
        """(x size, w size, Conv2dGeometry) of the convolution; of a transposed layer those of the
        convolution whose dgrad it is."""
        x_size = self.out_size() if self.transposed else self.in_size()
        return x_size, self.filter_size(), self.geometry()

    def core(self):
        """The ConvProblem of call(). ValueError where the groups do not divide the channels."""
        (N, C, H, W), (K, *_), _ = self.call()
        return ConvProblem(
            **dict(N=N, C=C, H=H, W=W, K=K, R=self.R, S=self.S, groups=self.groups),
            **_by_axis("stride", self.stride),
            **_by_axis("pad", self.pad),
            **_by_axis("dilation", self.dilation),
        )

    def out_size(self):
        """(N, K, P, Q)"""
        if not self.transposed:
            return self.core().out_size()
        transposed = ConvTranspose2dGeometry(*self.geometry(), (0, 0))
        return transposed.out_size(self.in_size(), self.filter_size())

    def terms(self):
        """How many products an element of y sums, at a stride of a transposed layer on average."""
        vertical, horizontal = pair(self.stride) if self.transposed else (1, 1)
        return max(1, self.C // self.groups * self.R * self.S // (vertical * horizontal))

    def flops(self):
        """FLOPs of any one pass, two a multiply-add."""
        return self.core().flops(ConvOp.fprop)

    def bytes(self, element_size):
        """Compulsory bytes of any one pass: x, w and y cross memory once."""
        return self.core().bytes(ConvOp.fprop, element_size)


@dataclass(frozen=True)
class Pool(Shape):
    model: str
    name: str
    kind: str  # "max", "avg", or "gap", "gmp": adaptive average, maximum to 1x1
    N: int
    C: int
    H: int
    W: int
    R: int
    stride: int | tuple
    pad: int | tuple
    S: int | None = None  # None: as R
    dilation: int | tuple = 1

    @property
    def kernel_size(self):
        return (self.R, self.R if self.S is None else self.S)

    @property
    def output_size(self):
        """Of the adaptive kinds."""
        return (1, 1)

    @property
    def family(self):
        return {
            "max": "max pool",
            "avg": "average pool",
            "gap": "global average pool",
            "gmp": "global max pool",
        }[self.kind]

    @property
    def problem(self):
        text = f"{self.input_text}r{_text(self.kernel_size)}"
        text += f"s{_text(self.stride)}p{_text(self.pad)}"
        return text + (f"d{_text(self.dilation)}" if pair(self.dilation) != (1, 1) else "")

    def core(self):
        return PoolProblem(
            **{letter: getattr(self, letter) for letter in "NCHWR"},
            S=self.kernel_size[1],
            **_by_axis("stride", self.stride),
            **_by_axis("pad", self.pad),
            **_by_axis("dilation", self.dilation),
        )

    def out_size(self):
        """(N, C, P, Q)"""
        return self.core().out_size()

    def flops(self):
        """One operation a window element."""
        return self.core().flops()

    def bytes(self, element_size):
        """Compulsory bytes of a pass: x and y (or their gradients), no indices."""
        return self.core().bytes(element_size)


@dataclass(frozen=True)
class AdaptivePool(Shape):
    """An adaptive pool to any size; those of the networks are Pools, over the whole plane."""

    model: str
    name: str
    kind: str  # "gap" or "gmp", as of a Pool
    N: int
    C: int
    H: int
    W: int
    P: int
    Q: int

    @property
    def family(self):
        return {"gap": "adaptive average pool", "gmp": "adaptive max pool"}[self.kind]

    @property
    def problem(self):
        """For example "n8c64h56 to 7x7"."""
        return f"{self.input_text} to {self.P}x{self.Q}"

    @property
    def output_size(self):
        return (self.P, self.Q)

    def core(self):
        return AdaptivePoolProblem(**{letter: getattr(self, letter) for letter in "NCHWPQ"})

    def out_size(self):
        """(N, C, P, Q)"""
        return (self.N, self.C, self.P, self.Q)

    def flops(self):
        """One operation a window element."""
        return work(self.core(), 1)[0]

    def bytes(self, element_size):
        """Compulsory bytes of a pass: x and y (or their gradients), no indices."""
        return work(self.core(), element_size)[1]


def _value(field, text):
    if field.type is str:
        return text
    numbers = tuple(map(int, text.split("x")))
    return numbers if len(numbers) > 1 else numbers[0]


def _read(path, kind):
    with open(path, newline="") as file:
        return [
            kind(**{f.name: _value(f, row[f.name]) for f in fields(kind) if f.name in row})
            for row in csv.DictReader(file)
        ]


def load_layers():
    """The rows of layers.csv."""
    return _read(HERE / "layers.csv", Layer)


def load_pools():
    """The rows of pools.csv."""
    return _read(HERE / "pools.csv", Pool)
