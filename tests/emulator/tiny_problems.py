"""Every CUDA kernel on problems of a few blocks, each result compared with the reference backend.
sanitize.py starts this with the emulated module and a sanitizer in the process; on a GPU it runs
under compute-sanitizer (bench/accept)."""

import contextlib
import random
import sys
import time
from dataclasses import dataclass
from unittest import mock

import torch

import fastconv
from fastconv import _native
from fastconv.backends import BACKENDS
from fastconv.backends.cuda.launch import DEVICE

DTYPES = [torch.float32, torch.float16, torch.bfloat16, torch.float64]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 1e-2, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def place(backend):
    """The type of device whose tensors a backend takes."""
    return "cpu" if backend == "reference" else DEVICE


@dataclass(frozen=True)
class Conv:
    """A convolution of a few tiles, with every kind of border."""

    name: str
    x: tuple
    w: tuple
    stride: int = 1
    padding: int = 1
    dilation: int = 1
    groups: int = 1
    activation: str | None = None

    def run(self, backend, dtype, channels_last):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        generator = torch.Generator().manual_seed(0)

        def leaf(size):
            values = torch.randn(size, generator=generator).to(place(backend), dtype)
            return values.to(memory_format=layout) if len(size) == 4 else values

        x, w, b = (leaf(size).requires_grad_() for size in (self.x, self.w, self.w[:1]))
        b.requires_grad_(self.activation is not None)  # the epilogue's kernels are a case apart
        geometry = (self.stride, self.padding, self.dilation, self.groups)
        with self.planned(backend):
            y = fastconv.conv2d(x, w, b, *geometry, activation=self.activation, backend=backend)
            y.backward(leaf(y.shape))
        return {"y": y, "dx": x.grad, "dw": w.grad} | ({"db": b.grad} if b.requires_grad else {})

    def planned(self, backend):
        """The context of the call."""
        return contextlib.nullcontext()


class ConvInTurn(Conv):
    """Planned for one multiprocessor: blocks that share the tiles take several in turn."""

    def planned(self, backend):
        planned = BACKENDS[backend]
        if backend != "reference":
            planned = planned.planned_for(1)
        return mock.patch.dict(BACKENDS, {backend: planned})


@dataclass(frozen=True)
class Pool:
    name: str
    function: str
    arguments: tuple
    channels: int = 8  # a vector, where they are adjacent

    def run(self, backend, dtype, channels_last):
        layout = torch.channels_last if channels_last else torch.contiguous_format
        generator = torch.Generator().manual_seed(0)
        x = torch.randn((2, self.channels, 9, 7), generator=generator).to(place(backend), dtype)
        x = x.to(memory_format=layout).requires_grad_()
        y = getattr(fastconv, self.function)(x, *self.arguments, backend=backend)
        y.backward(torch.randn(y.shape, generator=generator).to(place(backend), dtype))
        return {"y": y, "dx": x.grad}


CONVS = [
    Conv("plain", (1, 8, 7, 6), (9, 8, 3, 3)),
    Conv("strided", (1, 3, 9, 8), (5, 3, 3, 3), stride=2),
    Conv("1x1", (2, 16, 4, 4), (8, 16, 1, 1), padding=0),
    Conv("dilated", (1, 4, 7, 7), (4, 4, 3, 2), dilation=2, padding=2),
    Conv("grouped", (1, 8, 5, 5), (8, 4, 3, 3), groups=2),
    Conv("split_gemm_k", (1, 64, 4, 5), (40, 64, 3, 3)),
    Conv("stem", (1, 3, 20, 17), (16, 3, 7, 7), stride=2, padding=3),
    Conv("depthwise", (1, 6, 7, 9), (6, 1, 3, 3), groups=6, stride=2),
    Conv("depthwise_3x3", (2, 16, 7, 8), (16, 1, 3, 3), groups=16),
    Conv("depthwise_5x5", (1, 16, 9, 11), (16, 1, 5, 5), groups=16, padding=2),
    Conv("depthwise_7x7", (1, 16, 9, 12), (16, 1, 7, 7), groups=16, stride=2, padding=3),
    Conv("depthwise_multiplier", (1, 3, 6, 5), (6, 1, 4, 3), groups=3),
    Conv("epilogue", (1, 4, 6, 5), (6, 4, 3, 3), activation="silu"),
]
GEMM_CONVS = [  # of the implicit GEMM alone
    ConvInTurn("stem_in_turn", (2, 3, 17, 20), (8, 3, 3, 3)),
    ConvInTurn("grouped_in_turn", (2, 16, 17, 20), (16, 4, 3, 3), groups=4),
    Conv("1x1_dilated", (1, 8, 4, 5), (8, 8, 1, 1), padding=0, dilation=2**27),
]
POOLS = [
    Pool("max", "max_pool2d", (3, 2, 1)),
    Pool("max_odd", "max_pool2d", (3, 2, 1), channels=5),
    Pool("max_2x2", "max_pool2d", (2,)),
    Pool("max_overlapping", "max_pool2d", (3, 1, 1)),
    Pool("avg", "avg_pool2d", (3, 2, 1)),
    Pool("avg_overlapping", "avg_pool2d", (2, 1)),
    Pool("adaptive", "adaptive_avg_pool2d", ((4, 3),)),
    Pool("adaptive_max", "adaptive_max_pool2d", ((4, 3),)),
    Pool("global", "adaptive_avg_pool2d", (1,)),
]


def cases():
    """(name, problem, backend, dtype, channels_last)"""
    algorithms = [f"cuda:{name}" for name in _native.core.CudaAlgorithm.__members__]
    for kind, problems, backends in (
        ("conv", CONVS, algorithms),
        ("conv", GEMM_CONVS, ["cuda:implicit_gemm"]),
        ("pool", POOLS, ["cuda"]),
    ):
        for problem in problems:
            for backend in backends:
                for dtype in DTYPES:
                    for channels_last in (False, True):
                        layout = "nhwc" if channels_last else "nchw"
                        short = str(dtype).removeprefix("torch.")
                        name = f"{kind}-{problem.name}-{backend}-{short}-{layout}"
                        yield name, problem, backend, dtype, channels_last


def wrong(problem, got, dtype, channels_last):
    expected = problem.run("reference", torch.float64, channels_last)
    for key, value in got.items():
        error = (value.cpu().double() - expected[key]).abs().max().item()
        limit = TOLERANCE[dtype] * max(1.0, expected[key].abs().max().item())
        if not error <= limit:
            return f"{key} is off by {error:.3g}"
    return None


def main(part, only_list, seconds):
    """Runs the cases whose names hold `part`; all of them, or as many as begin within so many
    seconds, then in an order that has some of each kind among the first."""
    chosen = [case for case in cases() if part in case[0]]
    if only_list:
        print("\n".join(case[0] for case in chosen))
        return 0
    if seconds is not None:
        random.Random(0).shuffle(chosen)
    end = time.perf_counter() + (float("inf") if seconds is None else seconds)
    ran = failed = skipped = 0
    for name, problem, backend, dtype, channels_last in chosen:
        start = time.perf_counter()
        if start > end:
            break
        try:
            got = problem.run(backend, dtype, channels_last)
            error = wrong(problem, got, dtype, channels_last)
        except NotImplementedError as reason:
            skipped += 1
            print(f"skip {name}: {str(reason).splitlines()[0]}", flush=True)
            continue
        except RuntimeError as reason:
            error = reason
        ran += 1
        failed += error is not None
        took = time.perf_counter() - start
        print(
            f"{'ok  ' if error is None else 'FAIL'} {name} {took:.1f} s {error or ''}",
            flush=True,
        )
    print(f"{ran} ran, {failed} failed, {len(chosen) - ran - skipped} left for want of time")
    return 0 if ran > 0 and failed == 0 else 1


if __name__ == "__main__":
    limit = next((a.partition("=")[2] for a in sys.argv if a.startswith("--seconds=")), None)
    raise SystemExit(main(sys.argv[1], "--list" in sys.argv, limit and float(limit)))
