"""The named convolution problems every kernel is tried on. An id reads n2c64h56w56k64r3s3, then
what differs from stride 1, padding 0, dilation 1, groups 1."""

from dataclasses import dataclass

import torch

from fastconv.geometry import Conv2dGeometry


@dataclass(frozen=True)
class Conv:
    """One problem. Sizes in elements; stride, pad and dilation are (vertical, horizontal)."""

    why: str
    N: int = 2
    C: int = 4
    H: int = 9
    W: int = 9
    K: int = 6
    R: int = 3
    S: int = 3
    stride: tuple = (1, 1)
    pad: tuple = (0, 0)
    dilation: tuple = (1, 1)
    groups: int = 1

    @property
    def geometry(self):
        return Conv2dGeometry(self.stride, self.pad, self.dilation, self.groups)

    @property
    def x_size(self):
        return self.N, self.C, self.H, self.W

    @property
    def w_size(self):
        return self.K, self.C // self.groups, self.R, self.S

    def __str__(self):
        parts = [f"n{self.N}c{self.C}h{self.H}w{self.W}k{self.K}r{self.R}s{self.S}"]
        for letter, pair, usual in (
            ("u", self.stride, 1),
            ("p", self.pad, 0),
            ("d", self.dilation, 1),
        ):
            if pair != (usual, usual):
                parts.append(f"{letter}{pair[0]}x{pair[1]}")
        if self.groups != 1:
            parts.append(f"g{self.groups}")
        return "".join(parts) + "-" + self.why.replace(" ", "_")


CONVS = [
    Conv("plain"),
    Conv("1x1", R=1, S=1),
    Conv("1x1 strided", C=35, H=9, W=8, R=1, S=1, stride=(2, 3), pad=(1, 1)),
    Conv("padded", pad=(1, 1)),
    Conv("strided", stride=(2, 2), pad=(1, 1)),
    Conv("strides differ", stride=(3, 2), pad=(1, 0), H=11),
    Conv("stride beyond kernel", R=2, S=2, stride=(3, 4), H=11, W=14),
    Conv("dilated", dilation=(2, 2), pad=(2, 2)),
    Conv("dilated and strided", dilation=(2, 3), stride=(2, 2), pad=(3, 1), H=12, W=13),
    Conv("dilation shares a factor with stride", dilation=(4, 2), stride=(2, 4), pad=(4, 2), H=12),
    Conv("padding beyond kernel", pad=(5, 4), R=2, S=3),
    Conv("R is not S", R=5, S=2, pad=(2, 0)),
    Conv("H is not W", H=5, W=17, pad=(1, 1)),
    Conv("one pixel out", H=3, W=3),
    Conv("one pixel in", H=1, W=1, pad=(1, 1)),
    Conv("one row", H=1, W=40, R=1, S=5, pad=(0, 2)),
    Conv("grouped", C=6, K=4, groups=2, pad=(1, 1)),
    Conv("grouped odd", C=9, K=15, groups=3, stride=(2, 1)),
    Conv("depthwise", C=5, K=5, groups=5, pad=(1, 1)),
    Conv("depthwise strided", C=70, K=70, groups=70, stride=(2, 2), pad=(1, 1), N=1),
    Conv("depthwise one position strided", C=3, H=1, K=3, groups=3, stride=(2, 1), pad=(2, 1)),
    Conv("depthwise multiplier", C=3, K=9, groups=3, R=5, S=5, pad=(2, 2)),
    Conv("odd C and K", C=7, K=13, pad=(1, 1)),
    Conv("one channel", C=1, K=5, pad=(1, 1)),
    Conv("one filter", K=1, pad=(1, 1)),
    Conv("stem", C=3, H=20, W=20, K=17, R=7, S=7, stride=(2, 2), pad=(3, 3)),
    Conv("several pixel tiles", N=3, C=5, H=11, W=12, K=14, pad=(1, 1)),
    Conv("long sums", N=1, C=40, H=5, W=5, K=3, pad=(1, 1)),
    Conv("many filters", N=1, C=2, H=4, W=4, K=281, pad=(1, 1)),
    Conv("many pixels", N=2, C=2, H=40, W=31, K=4, R=2, S=2),
    Conv("kernel covers input", H=4, W=5, R=4, S=5),
    Conv("channels beyond a tile", N=1, C=300, H=3, W=3, K=5, pad=(1, 1)),
    Conv("large kernel", C=2, K=2, groups=2, H=12, W=12, R=11, S=11, pad=(5, 5)),
    Conv("kernel is stride", R=3, S=2, stride=(3, 2), H=9, W=8),
]
EMPTY_BATCH = Conv("empty batch", N=0, pad=(1, 1))


def integers(size, dtype, limit=2, channels_last=False):
    """Integers in [-limit, limit]: sums of products of these are exact in the accumulators."""
    tensor = torch.randint(-limit, limit + 1, size).to(dtype)
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor


def normals(size, dtype, channels_last=False):
    tensor = torch.randn(size, dtype=torch.float64).to(dtype)
    return tensor.contiguous(memory_format=torch.channels_last) if channels_last else tensor


def drawn(make, problem, dtype, channels_last, *limit, device="cpu"):
    """x, w and dy of a problem, each from integers or normals, whose limit follows."""
    x, w = (
        make(size, dtype, *limit, channels_last=channels_last).to(device)
        for size in (problem.x_size, problem.w_size)
    )
    y = torch.nn.functional.conv2d(x.double(), w.double(), None, *problem.geometry)
    return x, w, make(y.shape, dtype, *limit, channels_last=channels_last).to(device)


def named(why):
    """The problem of CONVS that is there for this reason."""
    return next(problem for problem in CONVS if problem.why == why)
