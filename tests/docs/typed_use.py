"""What a user writes, with the types that it has to have. Not run: test_typing.py gives it to type
checkers."""

import torch
from torch import Tensor, nn
from typing_extensions import assert_type

import fastconv


def networks(model: nn.Module, x: Tensor) -> None:
    assert_type(fastconv.convert(model), nn.Module)
    converted, layers = fastconv.convert(model, report=True)
    assert_type(converted, nn.Module)
    assert_type(layers.summary(), str)
    assert_type(layers[0], fastconv.LayerReport)
    assert_type(layers[0].converted, bool)
    fused, fusions = fastconv.fuse(model, trainable=True, report=True)
    assert_type(fastconv.unconvert(fused, inplace=True), nn.Module)
    assert_type(fusions[0].reason, str)
    torch.export.export(model, (x,)).run_decompositions(fastconv.export_decompositions())
    assert_type(str(fastconv.explain(model, x, measure=False)), str)
    assert_type(str(fastconv.info()["backends"]), str)


def functions(x: Tensor, w: Tensor, return_indices: bool) -> None:
    assert_type(fastconv.conv2d(x, w, stride=2, padding="valid", activation="silu"), Tensor)
    assert_type(fastconv.max_pool2d(x, 2), Tensor)
    assert_type(fastconv.max_pool2d(x, (2, 3), return_indices=True), tuple[Tensor, Tensor])
    either = fastconv.max_pool2d(x, 2, return_indices=return_indices)
    assert_type(either, Tensor | tuple[Tensor, Tensor])
    assert_type(fastconv.adaptive_max_pool2d(x, 1), Tensor)
    assert_type(fastconv.adaptive_max_pool2d(x, (1, None), True), tuple[Tensor, Tensor])
    assert_type(fastconv.avg_pool2d(x, 2, count_include_pad=False), Tensor)
    assert_type(fastconv.adaptive_avg_pool2d(x, 1), Tensor)
    assert_type(fastconv.conv1d(x, w, dilation=(2,), padding="same"), Tensor)
    assert_type(fastconv.conv_transpose1d(x, w, output_padding=(1,), stride=2), Tensor)
    assert_type(fastconv.conv3d(x, w, padding=(1, 0, 0)), Tensor)
    assert_type(fastconv.max_pool1d(x, (2,), return_indices=True), tuple[Tensor, Tensor])
    assert_type(fastconv.adaptive_max_pool1d(x, 1), Tensor)
    assert_type(fastconv.avg_pool1d(x, 2) + fastconv.adaptive_avg_pool1d(x, 1), Tensor)
    with fastconv.backend("reference"):
        fastconv.conv2d(x, w)


def layers() -> nn.Sequential:
    conv: nn.Conv2d = fastconv.Conv2d(3, 16, 3, padding="same", dtype=torch.float64)
    row: nn.Conv1d = fastconv.Conv1d(3, 16, 3)
    volume: nn.Conv3d = fastconv.Conv3d(3, 16, (1, 3, 3))
    return nn.Sequential(conv, fastconv.ConvReLU2d(16, 16, 1), fastconv.MaxPool2d(2), row, volume)


def mistakes(x: Tensor) -> None:
    """Each must be an error: a checker that sees Any everywhere would find none."""
    fastconv.conv2d(x, "w")  # wrong
    fastconv.max_pool2d(x, "2")  # wrong
    fastconv.fuse(x, report=1)  # wrong
    fastconv.backend(3)  # wrong
