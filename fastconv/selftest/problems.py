"""Small problems of integers, which every kernel must compute exactly: whatever the order of a sum,
nothing is rounded before its end.

Each class of problems has the operations that it tries, runs one on a backend, and holds the
results against what the reference backend computes on the CPU in float64. Memory that a result may
get is filled with NaN before, so that elements which nobody writes are seen.
"""

import functools
import itertools
import math
import zlib
from dataclasses import dataclass
from typing import ClassVar

import torch

from .._native import core
from ..activations import ACTIVATIONS, saves_result
from ..backends import BACKENDS
from ..geometry import Conv2dGeometry, Pair, Pool2dWindows
from ..problem import ConvOp, memory_format

REFERENCE = BACKENDS["reference"]


@functools.lru_cache(maxsize=256)
def integers(size, limit=2):
    """A float64 tensor of integers in [-limit, limit], the same in every process; to be read
    only."""
    generator = torch.Generator().manual_seed(zlib.crc32(repr((size, limit)).encode()))
    return torch.randint(-limit, limit + 1, size, generator=generator, dtype=torch.float64)


@dataclass(frozen=True)
class Place:
    """Where the tensors of a run live, and how."""

    dtype: torch.dtype
    device: torch.device
    channels_last: bool

    def put(self, tensor):
        """A copy; of integers in their own dtype."""
        dtype = self.dtype if tensor.is_floating_point() else tensor.dtype
        layout = memory_format(self.channels_last and tensor.dim() == 4)
        return tensor.to(self.device, dtype, copy=True).contiguous(memory_format=layout)

    def poison(self, results):
        """Takes memory of the size that each result needs, fills it with NaN (or with what is no
        place) and gives it back to the allocator, which hands it out again."""
        poisoned = [self.put(torch.full_like(result, _POISON[result.dtype])) for result in results]
        del poisoned


_POISON = {torch.float64: math.nan, torch.int64: -2, torch.int8: -2}
_ORACLE = Place(torch.float64, torch.device("cpu"), False)


def difference(name, got, expected, rounding):
    """How a result differs from the one expected, in words, or None. rounding: how many units in
    the last place of its dtype a result may be off, 0 for none."""
    right = expected.to(got.dtype)
    if got.shape != right.shape:
        return f"{name} has size {list(got.shape)} instead of {list(right.shape)}"
    if rounding:
        allowed = rounding * torch.finfo(got.dtype).eps * (1 + expected.abs())
        wrong = ~((got.double() - expected).abs() <= allowed)
    else:
        wrong = got != right
    if not wrong.any():
        return None
    first = tuple(wrong.nonzero()[0].tolist())
    return (
        f"{name}: {int(wrong.sum())} of {wrong.numel()} elements differ, the first at {first}: "
        f"{got[first].item():g} instead of {right[first].item():g}"
    )


class Problem:
    """A subclass has OPERATIONS; compute(backend, operation, place) -> {name: tensor}, which may
    lack results that a backend does not have; and reason(backend, dtype, device), why a backend
    cannot run it, or None."""

    rounding = 0
    OPERATIONS: ClassVar[tuple[str, ...]] = ()

    def wrong(self, backend, operation, place):
        """What is wrong with an operation of a backend (a backends.base.Backend), or None."""
        expected = _expected(self, operation)
        place.poison(expected.values())
        got = self.compute(backend, operation, place)
        differences = (
            difference(name, tensor.cpu(), expected[name], self.rounding)
            for name, tensor in got.items()
        )
        return next(filter(None, differences), None)

    def expected(self, operation):
        """{name: tensor}, all results that a backend may have."""
        return self.compute(REFERENCE, operation, _ORACLE)


@functools.cache
def _expected(problem, operation):
    return problem.expected(operation)


@dataclass(frozen=True)
class Convolution(Problem):
    """x (N,C,H,W), w (K,C/groups,R,S). fprop runs bare, and with bias, residual and relu."""

    name: str
    x: tuple[int, ...]
    w: tuple[int, ...]
    stride: Pair = (1, 1)
    padding: Pair = (1, 1)
    dilation: Pair = (1, 1)
    groups: int = 1

    OPERATIONS = tuple(ConvOp.__members__)

    @property
    def geometry(self):
        return Conv2dGeometry(self.stride, self.padding, self.dilation, self.groups)

    @property
    def call(self):
        return self.x, self.w, self.geometry

    @property
    def y(self):
        return (self.x[0], self.w[0], *self.geometry.out_plane(self.x, self.w))

    def reason(self, backend, dtype, device):
        return backend.supports("conv2d", self.call, dtype, device.type, device.index)

    def compute(self, backend, operation, place):
        x, w, dy = (place.put(integers(size)) for size in (self.x, self.w, self.y))
        tail = place.channels_last, self.geometry
        if operation == "dgrad":
            return {"dx": backend.conv2d_dgrad(dy, w, self.x, *tail)}
        if operation == "wgrad":
            return {"dw": backend.conv2d_wgrad(dy, x, self.w, *tail)}
        b, residual = (place.put(integers(size, 8)) for size in (self.w[:1], self.y))
        bare = backend.conv2d_fprop(x, w, None, None, self.geometry, "none")
        if place is _ORACLE:
            return {"y": bare, "y with epilogue": (bare + b.view(-1, 1, 1) + residual).relu()}
        fused = backend.conv2d_fprop(x, w, b, residual, self.geometry, "relu")
        return {"y": bare, "y with epilogue": fused}


# How max pooling tells where a maximum was: backends/pool2d.py.
_PLACES = {"indices": torch.int64, "offsets": torch.int8}


@dataclass(frozen=True)
class Pooling(Problem):
    """Windows over x (N,C,H,W). All average pools divide by a power of two."""

    name: str
    kind: str  # "max" or "avg"
    x: tuple[int, ...]
    kernel: tuple[int, ...] = ()
    stride: tuple[int, ...] = ()
    padding: tuple[int, ...] = ()
    output: tuple[int, ...] = ()  # of adaptive pooling, which has no other pairs

    OPERATIONS = tuple(core.PoolOp.__members__)

    @property
    def windows(self):
        dilation = () if self.output else (1, 1)
        pairs = (self.kernel, self.stride, self.padding, dilation)
        return Pool2dWindows(*pairs, False, self.output)

    @property
    def operator(self):
        return f"{'adaptive_' if self.output else ''}{self.kind}_pool2d"

    @property
    def call(self):
        return self.x, self.windows

    @property
    def y(self):
        return (*self.x[:2], *self.windows.out_plane(self.x))

    def reason(self, backend, dtype, device):
        return backend.supports(self.operator, self.call, dtype, device.type, device.index)

    def compute(self, backend, operation, place):
        x, dy, windows = place.put(integers(self.x)), place.put(integers(self.y)), self.windows
        if operation == "avg_fwd":
            return {"y": backend.avg_pool2d_fwd(x, windows, True, 0)}
        if operation == "avg_bwd":
            return {"dx": backend.avg_pool2d_bwd(dy, self.x, place.channels_last, windows, True, 0)}
        got = {"y": backend.max_pool2d_fwd(x, windows, None)[0]} if operation == "max_fwd" else {}
        for name, dtype in _PLACES.items():
            if dtype == torch.int8 and not backend.saves_offsets(windows):
                continue
            if operation == "max_fwd":
                got[f"y with {name}"], got[name] = backend.max_pool2d_fwd(x, windows, dtype)
            else:
                places = place.put(_expected(self, "max_fwd")[name])
                got[f"dx by {name}"] = backend.max_pool2d_bwd(
                    dy, places, self.x, place.channels_last, windows
                )
        return got

    def expected(self, operation):
        right = super().expected(operation)
        if operation == "max_fwd":
            right["y with offsets"], right["offsets"] = right["y"], self._offsets(right["indices"])
        if operation == "max_bwd":
            right["dx by offsets"] = right["dx by indices"]
        return right

    def _offsets(self, indices):
        """Offsets r * S + s within the windows, for indices h * W + w; zeros where windows differ
        in size, which have none."""
        if self.output:
            return torch.zeros_like(indices, dtype=torch.int8)
        taps = []
        for i, position in enumerate((indices // self.x[3], indices % self.x[3])):
            first = torch.arange(self.y[2 + i]) * self.stride[i] - self.padding[i]
            taps.append(position - first.view((-1, 1) if i == 0 else (1, -1)))
        return (taps[0] * self.kernel[1] + taps[1]).to(torch.int8)


@dataclass(frozen=True)
class Epilogue(Problem):
    """An activation on its own, its backward with the bias gradient, and that alone."""

    activation: str
    rounding: int = 0
    z: tuple[int, ...] = (2, 16, 5, 3)

    OPERATIONS = ("epilogue",)

    @property
    def name(self):
        return self.activation

    @property
    def call(self):
        """Of a convolution that it might end: any will do."""
        return CONVOLUTIONS[0].call

    def reason(self, backend, dtype, device):
        return backend.supports("conv2d", self.call, dtype, device.type, device.index)

    def compute(self, backend, operation, place):
        z, dy = place.put(integers(self.z, 4)), place.put(integers(self.z))
        y = backend.activation_forward(z, self.activation)
        # A backend's own y has roundings, which backward would pass on.
        saved = z
        if saves_result(self.activation):
            saved = y if place is _ORACLE else place.put(_expected(self, operation)["y"])
        dz, db = backend.epilogue_backward(dy, saved, self.activation)
        return {"y": y, "dz": dz, "db": db, "db alone": backend.bias_grad(dy)}


def _depthwise(filter_size, step, width):
    size, pad = (filter_size, filter_size), (filter_size // 2, filter_size // 2)
    name = f"depthwise {filter_size}x{filter_size} stride {step}, {width} columns"
    return Convolution(
        name, (2, 8, 7, width), (8, 1, *size), stride=(step, step), padding=pad, groups=8
    )


# Together they reach every kernel of every plan, where each also makes the plan of a device of one
# multiprocessor, for which large tiles are never too few: tests/selftest holds them to it.
CONVOLUTIONS = (
    Convolution("dense", (2, 16, 9, 8), (24, 16, 3, 3)),
    Convolution("many channels", (1, 72, 7, 6), (72, 72, 1, 1), padding=(0, 0)),
    Convolution("few filters", (1, 16, 6, 5), (24, 16, 1, 1), padding=(0, 0)),
    Convolution("few filters, more pixels", (1, 16, 12, 12), (24, 16, 1, 1), padding=(0, 0)),
    Convolution("few channels, more filters", (1, 3, 12, 12), (64, 3, 3, 3)),
    Convolution("many channels, long sums", (1, 64, 12, 12), (72, 64, 3, 3)),
    Convolution("some channels", (1, 40, 6, 5), (40, 40, 1, 1), padding=(0, 0)),
    Convolution("some channels, strided", (1, 40, 33, 33), (40, 40, 1, 1), (2, 2), (0, 0)),
    Convolution("some channels, more pixels", (1, 40, 20, 20), (40, 40, 1, 1), padding=(0, 0)),
    Convolution("some channels, more sums", (1, 40, 20, 20), (40, 40, 3, 3)),
    Convolution("long sums", (1, 64, 4, 5), (40, 64, 3, 3)),
    Convolution("strided", (2, 8, 9, 7), (16, 8, 3, 3), stride=(2, 2)),
    Convolution("odd, dilated", (1, 5, 7, 6), (7, 5, 3, 2), padding=(2, 2), dilation=(2, 2)),
    Convolution("odd, many channels", (1, 69, 9, 9), (71, 69, 1, 1), padding=(0, 0)),
    Convolution("odd, some channels", (1, 37, 6, 5), (39, 37, 1, 1), padding=(0, 0)),
    Convolution("groups of 4", (1, 40, 9, 17), (40, 4, 3, 3), groups=10),
    Convolution("groups of 8", (1, 16, 5, 5), (16, 8, 3, 3), groups=2),
    Convolution("groups of 16", (1, 32, 5, 5), (32, 16, 3, 3), groups=2),
    Convolution("groups, more filters", (1, 16, 5, 5), (32, 8, 3, 3), groups=2),
    Convolution("many pixels", (1, 8, 24, 26), (8, 8, 3, 3)),
    Convolution("many channels and pixels", (1, 72, 24, 22), (72, 72, 1, 1), padding=(0, 0)),
    Convolution("stem", (1, 3, 12, 26), (16, 3, 7, 7), stride=(2, 2), padding=(3, 3)),
    Convolution("stem, many filters", (1, 3, 10, 14), (40, 3, 7, 7), (2, 2), (3, 3)),
    Convolution("stem, few filters", (1, 2, 5, 16), (4, 2, 3, 3)),
    # Rows of 16 columns begin at whole vectors.
    *(_depthwise(*sizes) for sizes in itertools.product((3, 5, 7), (1, 2), (9, 16))),
    Convolution("depthwise, two filters a channel", (1, 3, 6, 5), (6, 1, 4, 3), groups=3),
)
POOLINGS = (
    Pooling("3x3 stride 2", "max", (2, 16, 9, 8), (3, 3), (2, 2), (1, 1)),
    Pooling("3x3 stride 2, odd", "max", (1, 5, 9, 7), (3, 3), (2, 2), (1, 1)),
    Pooling("2x2 stride 2", "max", (2, 16, 8, 6), (2, 2), (2, 2), (0, 0)),
    Pooling("overlapping", "max", (1, 8, 6, 7), (3, 2), (1, 1), (1, 0)),
    Pooling("adaptive", "max", (2, 8, 6, 7), output=(3, 2)),
    Pooling("2x2 stride 2", "avg", (2, 16, 8, 6), (2, 2), (2, 2), (0, 0)),
    Pooling("overlapping, odd", "avg", (1, 5, 7, 6), (4, 2), (1, 1), (2, 1)),
    Pooling("adaptive", "avg", (2, 8, 6, 8), output=(3, 4)),
    Pooling("global", "avg", (2, 16, 8, 8), output=(1, 1)),
)
# These, and their slopes, are integers or halves where their arguments are.
_EXACT = ("relu", "relu6", "leaky_relu(0.5)")
EPILOGUES = (
    *map(Epilogue, _EXACT),
    *(Epilogue(name, rounding=16) for name in ACTIVATIONS if name not in _EXACT),
)
