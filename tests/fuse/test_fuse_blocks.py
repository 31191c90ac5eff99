"""fastconv.fuse, chain by chain: what goes into a call, what is left and why."""

import copy

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from fuse_blocks import BLOCKS, chains, lively, same

import fastconv
from fastconv.nn import FusedConv1d, FusedConv2d, FusedConvTranspose1d, FusedConvTranspose2d


@pytest.mark.parametrize("name", BLOCKS)
@pytest.mark.parametrize("trainable", [False, True])
def test_blocks(name, trainable):
    block, expected = BLOCKS[name]
    block = lively(copy.deepcopy(block))
    fused, reports = fastconv.fuse(block, trainable=trainable, report=True)
    assert chains(reports)["conv"] == expected
    x = torch.randn((2, 4, 9, 8)[: block.conv.weight.dim()], dtype=torch.float64)
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
        FusedConv1d(4, 6, 4, padding="same", dilation=3).double(),
        FusedConvTranspose1d(4, 6, 3, 2, 1, 1, dilation=2).double(),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_the_call_broadcasts_and_promotes_as_torch_adds(layer):
    x = torch.randn((2, 4, 9, 8)[: layer.weight.dim()], dtype=torch.float64)
    y = layer(x)
    assert layer._is_like_output(y, x)
    per_filter = torch.randn(6, *[1] * (x.dim() - 2))
    for residual in (torch.randn_like(y), per_filter, torch.randn_like(y).float(), 2.0,
                     torch.randn(3, *y.shape, dtype=torch.float64)):  # fmt: skip
        same(layer(x, residual, activation="relu"), torch.relu(y + residual))
    same(layer(x[0], y[0], activation="silu"), F.silu(y[0] + y[0]))


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize(
    "conv, norm, size",
    [
        (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (4, 9)),
        (nn.Conv1d(4, 6, 3), nn.BatchNorm1d(6), (4, 8)),  # six pixels: torch takes them for K
        (nn.ConvTranspose1d(4, 6, 3), nn.BatchNorm1d(6), (4, 9)),
        (nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), (4, 9, 9)),
    ],
    ids=lambda value: str(value) if isinstance(value, tuple) else type(value).__name__,
)
def test_a_norm_takes_no_unbatched_result_for_a_batch(conv, norm, size, trainable):
    model = lively(nn.Sequential(conv, norm, nn.ReLU()))
    fused, x = fastconv.fuse(model, trainable=trainable), torch.randn(size, dtype=torch.float64)
    same(fused(x[None]), model(x[None]))
    with pytest.raises((RuntimeError, ValueError), match="takes batches alone") as ours:
        fused(x)
    if size != (4, 8):
        with pytest.raises(ours.type):
            model(x)
    without_norm = nn.Sequential(conv, nn.ReLU())
    same(fastconv.fuse(without_norm, trainable=trainable)(x), without_norm(x))


def test_a_norm_of_other_axes_is_left():
    """torch's chain raises, and goes on doing so."""
    net = lively(nn.Sequential(nn.Conv1d(4, 6, 3), nn.BatchNorm2d(6)))
    fused, reports = fastconv.fuse(net, report=True)
    assert chains(reports) == {"0": ()}
    with pytest.raises(ValueError, match="expected 4D input"):
        fused(torch.randn(2, 4, 9, dtype=torch.float64))


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
