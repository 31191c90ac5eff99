"""Calls for the tests of prepared calls (fastconv/prepared.py)."""

import pytest
import torch
import torch.nn.functional as F

import fastconv


def conv_tensors(*, requires_grad=False, dtype=torch.float32, size=(2, 4, 7, 9)):
    """x, w and b, the same in every call."""
    generator = torch.Generator().manual_seed(0)
    tensors = [
        torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)
        for shape in (size, (6, size[1], 3, 3), (6,))
    ]
    return [tensor.requires_grad_(requires_grad) for tensor in tensors]


CALLS = {
    "conv2d": lambda x, w, b: fastconv.conv2d(x, w, padding=1),
    "bias": lambda x, w, b: fastconv.conv2d(x, w, b, 2, (1, 0)),
    "relu": lambda x, w, b: fastconv.conv2d(x, w, b, padding=[1], activation="relu"),
    "residual": lambda x, w, b: fastconv.conv2d(
        x, w, b, padding=1, residual=x[:, :1].expand(-1, 6, -1, -1), activation="relu6"
    ),
    "plain residual": lambda x, w, b: fastconv.conv2d(
        x, w, b, padding=1, residual=x[:, :1].expand(-1, 6, -1, -1)
    ),
    "algorithm": lambda x, w, b: fastconv.conv2d(x, w, b, backend="cpu:implicit_gemm"),
    "reference": lambda x, w, b: fastconv.conv2d(x, w, b, activation="relu", backend="reference"),
    "transposed": lambda x, w, b: fastconv.conv_transpose2d(x, w[:4], b[:4], (3, 2), 1, (2, 1)),
    "grouped transposed": lambda x, w, b: fastconv.conv_transpose2d(
        x,
        w[:4, :3],
        b,
        groups=2,
        activation="relu6",
        residual=F.pad(x, (1, 1, 1, 1))[:, :1].expand(-1, 6, -1, -1),
    ),
    "max": lambda x, w, b: fastconv.max_pool2d(x, 2),
    "indices": lambda x, w, b: fastconv.max_pool2d(x, (3, 2), 2, 1, return_indices=True),
    "adaptive max": lambda x, w, b: fastconv.adaptive_max_pool2d(x, (2, None)),
    "adaptive indices": lambda x, w, b: fastconv.adaptive_max_pool2d(x, 2, True),
    "avg": lambda x, w, b: fastconv.avg_pool2d(x, 3, 2, 1, False, False),
    "divisor": lambda x, w, b: fastconv.avg_pool2d(x, 2, divisor_override=3),
    "adaptive avg": lambda x, w, b: fastconv.adaptive_avg_pool2d(x, 1),
    "conv1d": lambda x, w, b: fastconv.conv1d(x[:, :, 2], w[:, :, 0], b, padding=1),
    "conv1d, residual": lambda x, w, b: fastconv.conv1d(
        x[:, :, 2], w[:, :, 0], b, 2, activation="relu", residual=x[:, :1, 0, :4].expand(-1, 6, -1)
    ),
    "transposed conv1d": lambda x, w, b: fastconv.conv_transpose1d(
        x[:, :, 2], w[:4, :, 0], b[:4], 2, 1, 1, activation="relu"
    ),
    "max of rows": lambda x, w, b: fastconv.max_pool1d(x[:, :, 2], 2),
    "indices of rows": lambda x, w, b: fastconv.max_pool1d(x[:, :, 2], 2, return_indices=True),
    "adaptive max of rows": lambda x, w, b: fastconv.adaptive_max_pool1d(x[:, :, 2], 2),
    "avg of rows": lambda x, w, b: fastconv.avg_pool1d(x[:, :, 2], 3, 2, 1),
    "adaptive avg of rows": lambda x, w, b: fastconv.adaptive_avg_pool1d(x[:, :, 2], 2),
}
parametrize_calls = pytest.mark.parametrize("name", CALLS)


def on_the_long_road():
    """`with on_the_long_road():` no call is looked for among those that were met, and none is
    remembered."""
    return fastconv.backend("cpu")


def as_tuple(result):
    return result if isinstance(result, tuple) else (result,)


def same_bits(a, b):
    return a.stride() == b.stride() and torch.equal(a, b)
