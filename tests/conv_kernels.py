"""The convolution kernels of every backend, called as autograd calls them, and outputs that show
what was written."""

import pytest
import torch
from devices import CUDA, TRITON, device_of
from problems import integers

from fastconv.backends import BACKENDS

CPU_ALGORITHMS = [name for name in BACKENDS if name == "reference" or name.startswith("cpu:")]
CUDA_ALGORITHMS, TRITON_ALGORITHMS = (
    [
        pytest.param(name, marks=backend.marks)
        for name in BACKENDS
        if name.startswith(f"{backend.values[0]}:")
    ]
    for backend in (CUDA, TRITON)
)
ALGORITHMS = [*CPU_ALGORITHMS, *CUDA_ALGORITHMS, *TRITON_ALGORITHMS]
LAYOUTS = [False, True]
LAYOUT_IDS = ["nchw", "nhwc"]
GUARD = 64  # elements of NaN before and behind an output


def without(algorithms, *names):
    """The algorithms but for those of these names on every backend."""
    return [
        one
        for one in algorithms
        if (one if isinstance(one, str) else one.values[0]).partition(":")[2] not in names
    ]


def why_not(backend, problem, dtype=torch.float32):
    """Why a backend cannot run a problem, or None."""
    call = (problem.x_size, problem.w_size, problem.geometry)
    return BACKENDS[backend].supports("conv2d", call, dtype, device_of(backend))


def passes(backend, problem, x, w, dy, channels_last):
    """(y, dx, dw) of a backend's kernels, called as autograd calls them."""
    kernels = BACKENDS[backend]
    return (
        kernels.conv2d_fprop(x, w, None, None, problem.geometry, "none"),
        kernels.conv2d_dgrad(dy, w, x.shape, channels_last, problem.geometry),
        kernels.conv2d_wgrad(dy, x, w.shape, channels_last, problem.geometry),
    )


def tf32(allowed):
    """torch's setting, which float32 on tensor cores follows."""
    return torch.backends.cudnn.flags(enabled=True, allow_tf32=allowed)


def strided_views(device="cpu"):
    """{name: (x, w)} of the problem "strided": slices, offsets, expanded and transposed tensors."""
    big_x = integers((4, 9, 11, 20), torch.float32).to(device)
    big_w = integers((8, 9, 4, 5), torch.float32).to(device)
    return {
        "slice": (big_x[1:3, 2:6, 1:10, 3:12], big_w[1:7, 1:5, 1:4, 1:4]),
        "step": (big_x[::2, 1:9:2, 2:11, ::2][..., :9], big_w[:6, :8:2, :3, ::2]),
        "expanded": (
            big_x[:1, :1, :9, :9].expand(2, 4, 9, 9),
            big_w[:1, :4, :3, :3].expand(6, 4, 3, 3),
        ),
        "transposed": (
            big_x[:2, :4, :9, :9].transpose(2, 3),
            big_w[:6, :4, :3, :3].transpose(2, 3),
        ),
    }


def guarded_empty(buffers):
    """A stand-in for backends.memory.empty: outputs lie inside a larger buffer of NaN, which is
    added to `buffers` with the number of elements."""

    def empty(size, like, channels_last):
        count = torch.Size(size).numel()
        buffer = torch.full(
            (count + 2 * GUARD,), float("nan"), dtype=like.dtype, device=like.device
        )
        buffers.append((buffer, count))
        plain = buffer[GUARD : GUARD + count]
        if channels_last:
            n, c, h, w = size
            return plain.view(n, h, w, c).permute(0, 3, 1, 2)
        return plain.view(size)

    return empty


def assert_written_whole_and_nothing_else(buffers):
    for buffer, count in buffers:
        assert not buffer[GUARD : GUARD + count].isnan().any()
        assert buffer[:GUARD].isnan().all() and buffer[GUARD + count :].isnan().all()
