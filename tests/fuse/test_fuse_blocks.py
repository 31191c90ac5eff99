"""fastconv.fuse, chain by chain: what goes into a call, what is left and why."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from fuse_blocks import BLOCKS, chains, lively, same

import fastconv
from fastconv.nn import FusedConv2d, FusedConvTranspose2d


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("trainable", [False, True])
def test_blocks(name, trainable):
    block, expected = BLOCKS[name]
    block = lively(copy.deepcopy(block))
    fused, reports = fastconv.fuse(block, trainable=trainable, report=True)
    assert chains(reports)["conv"] == expected
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    ours, theirs = fused(x), block(x)
    for got, wanted in zip(*(r if isinstance(r, tuple) else (r,) for r in (ours, theirs))):
        same(got, wanted)


def test_what_is_left_has_a_reason():
    for name, part in (
        ("read twice", "read by bn and mean"),
        ("called twice", "called 2 times"),
        ("softplus", "followed by act"),
        ("input changed between", "changed before"),
        ("two results", "read by act and the network's caller"),
    ):
        _, reports = fastconv.fuse(lively(copy.deepcopy(BLOCKS[name][0])), report=True)
        report = next(r for r in reports if r.name == "conv")
        assert part in report.reason and report.reason in str(report)
    _, reports = fastconv.fuse(lively(copy.deepcopy(BLOCKS["norm first"][0])), report=True)
    (report,) = [r for r in reports if r.type == "BatchNorm2d"]
    assert report.name == "bn" and report.reason


@pytest.mark.parametrize("name", ["residual", "plus a broadcast", "functions"])
def test_dtypes_under_autocast_are_torchs(name):
    model = lively(copy.deepcopy(BLOCKS[name][0])).float()
    x = torch.randn(2, 4, 9, 8)
    fused = fastconv.fuse(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        same(fused(x), model(x), 2**-6)  # x is float32
        same(fused(x.bfloat16()), model(x.bfloat16()), 2**-6)


@pytest.mark.parametrize(
    "layer",
    [
        FusedConv2d(4, 6, (3, 2), stride=2, padding="valid").double(),
        FusedConvTranspose2d(4, 6, (3, 2), 2, 1, (1, 0), dilation=2).double(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_the_call_broadcasts_and_promotes_as_torch_adds(layer):
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    y = layer(x)
    assert layer._is_like_output(y, x)
    for residual in (torch.randn_like(y), torch.randn(6, 1, 1), torch.randn_like(y).float(), 2.0,
                     torch.randn(3, *y.shape, dtype=torch.float64)):  # fmt: skip
        same(layer(x, residual, activation="relu"), torch.relu(y + residual))
    same(layer(x[0], y[0], activation="silu"), F.silu(y[0] + y[0]))


def test_errors():
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module, got int"):
        fastconv.fuse(3)
    conv = nn.Conv2d(4, 4, 3)
    with pytest.raises(ValueError, match="no running statistics"):
        fastconv.fold_batch_norm(conv, nn.BatchNorm2d(4, track_running_stats=False))
    with pytest.raises(ValueError, match="5 channels, conv has 4"):
        fastconv.fold_batch_norm(conv, nn.BatchNorm2d(5))
    with pytest.raises(ValueError, match="activation"):
        FusedConv2d(4, 4, 3)(torch.randn(1, 4, 5, 5), activation="sine")
