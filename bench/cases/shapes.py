"""The problems that are timed: convolution layers and pools of known networks.

layers.csv and pools.csv hold one row a layer and batch (N = 32 and 128, sizes for a GPU); their
`stride`, `pad` and `dilation` hold for both axes. Letters as everywhere: x (N,C,H,W),
w (K,C/groups,R,S), y (N,K,P,Q).
"""

import csv
from dataclasses import dataclass, fields, replace
from pathlib import Path

from ...problem import ConvOp, ConvProblem, PoolProblem

HERE = Path(__file__).parent


class Shape:
    """What layers and pools have in common."""

    @property
    def layer(self):
        return f"{self.model} {self.name}"

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
    stride: int
    pad: int
    dilation: int
    groups: int

    @property
    def family(self):
        """The kind of convolution whose speeds are comparable: one mean in the summary."""
        if self.groups > 1:
            if self.groups == self.C:
                return f"depthwise {self.R}x{self.S}"
            return f"grouped C/g={self.C // self.groups}"
        if self.C <= 4:
            return "stem (C=3)"
        if self.dilation > 1:
            return "dilated"
        return "dense 1x1" if self.R == self.S == 1 else "dense RxS"

    @property
    def problem(self):
        """For example n8c64h56k128r3s2p1: N, C, H, K, R, stride, pad; w, d and g where they differ
        from H, 1 and 1."""
        text = f"n{self.N}c{self.C}h{self.H}" + (f"w{self.W}" if self.W != self.H else "")
        text += f"k{self.K}r{self.R}" + (f"x{self.S}" if self.S != self.R else "")
        text += f"s{self.stride}p{self.pad}"
        text += f"d{self.dilation}" if self.dilation != 1 else ""
        return text + (f"g{self.groups}" if self.groups != 1 else "")

    def _core(self):
        return ConvProblem(
            **{letter: getattr(self, letter) for letter in "NCHWKRS"},
            **{f"stride_{axis}": self.stride for axis in "hw"},
            **{f"pad_{axis}": self.pad for axis in "hw"},
            **{f"dilation_{axis}": self.dilation for axis in "hw"},
            groups=self.groups,
        )

    def out_size(self):
        """(N, K, P, Q)"""
        return self._core().out_size()

    def flops(self):
        """FLOPs of any one pass, two a multiply-add."""
        return self._core().flops(ConvOp.fprop)

    def bytes(self, element_size):
        """Compulsory bytes of any one pass: x, w and y cross memory once."""
        return self._core().bytes(ConvOp.fprop, element_size)


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
    stride: int
    pad: int

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
        width = f"w{self.W}" if self.W != self.H else ""
        return f"n{self.N}c{self.C}h{self.H}{width}r{self.R}s{self.stride}p{self.pad}"

    def _core(self):
        return PoolProblem(
            **{letter: getattr(self, letter) for letter in "NCHWR"},
            S=self.R,
            **{f"stride_{axis}": self.stride for axis in "hw"},
            **{f"pad_{axis}": self.pad for axis in "hw"},
        )

    def out_size(self):
        """(N, C, P, Q)"""
        return self._core().out_size()

    def flops(self):
        """One operation a window element."""
        return self._core().flops()

    def bytes(self, element_size):
        """Compulsory bytes of a pass: x and y (or their gradients), no indices."""
        return self._core().bytes(element_size)


def _read(path, kind):
    types = {field.name: field.type for field in fields(kind)}
    with open(path, newline="") as file:
        return [
            kind(**{name: types[name](row[name]) for name in types}) for row in csv.DictReader(file)
        ]


def load_layers():
    """The rows of layers.csv."""
    return _read(HERE / "layers.csv", Layer)


def load_pools():
    """The rows of pools.csv."""
    return _read(HERE / "pools.csv", Pool)
