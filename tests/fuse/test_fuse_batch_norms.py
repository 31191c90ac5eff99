"""fastconv.fuse of BatchNorms of every class: each is folded, or frozen, as what its forward
computes, or the report says why not."""

import copy
import io

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from fuse_blocks import Untraceable, chains, lively, same

import fastconv
from fastconv.nn import FusedConv2d


def x():
    return torch.randn(2, 4, 6, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))


class Plain(nn.BatchNorm2d):
    """torch's, with a method more."""

    def total(self):
        return self.weight.sum()


class StaysInEvaluation(nn.BatchNorm2d):
    def train(self, mode=True):
        return super().train(False)


class ChecksNothing(nn.BatchNorm2d):
    def _check_input_dim(self, input):
        pass


class WithActivation(nn.BatchNorm2d):
    """torch's forward in other words, and what follows it."""

    def __init__(self, K):
        super().__init__(K)
        self.drop, self.act = nn.Identity(), nn.ReLU(inplace=True)

    def forward(self, x):
        torch._assert(x.ndim == 4, f"expected 4D input, got {x.ndim}D")
        if self.training:
            self.num_batches_tracked.add_(1)
        y = F.batch_norm(
            x, self.running_mean, self.running_var, self.weight, self.bias, self.training,
            self.momentum, self.eps,
        )  # fmt: skip
        return self.act(self.drop(y))


class BySuper(nn.BatchNorm2d):
    def forward(self, x):
        return F.relu(super().forward(x))


class SyncBySuper(nn.SyncBatchNorm):
    def forward(self, x):
        return F.relu(super().forward(x))


class OnAnothers(nn.Module):
    """Normalises by the tensors of a BatchNorm that is not called."""

    def __init__(self, K, mode):
        super().__init__()
        self.bn, self.mode = nn.BatchNorm2d(K), mode

    def forward(self, x):
        bn = self.bn
        training = bn.training if self.mode == "the norm's" else self.training
        statistics = bn.running_mean, bn.running_var
        return F.batch_norm(x, *statistics, bn.weight, bn.bias, training, eps=bn.eps)


class OnItsOwn(nn.Module):
    """Normalises by tensors that are no BatchNorm's."""

    def __init__(self, K):
        super().__init__()
        self.register_buffer("mean", torch.randn(K))
        self.register_buffer("var", torch.rand(K) + 0.5)
        self.gain = nn.Parameter(torch.rand(K))

    def forward(self, x):
        return F.batch_norm(x, self.mean, self.var, self.gain, training=self.training, eps=1e-3)


BATCH_NORMS = {  # name: (what makes it of its channels, what a convolution takes of it)
    "plain": (Plain, ("1",)),
    "stays in evaluation": (StaysInEvaluation, ("1",)),
    "checks nothing": (ChecksNothing, ("1",)),
    "synchronised": (nn.SyncBatchNorm, ("1",)),
    "with an activation": (WithActivation, ("1", "1.act")),
    "by super": (BySuper, ("1", "relu")),
    "synchronised, by super": (SyncBySuper, ("1", "relu")),
    "on another's, its mode": (lambda K: OnAnothers(K, "the norm's"), ("1.bn",)),
    "on another's, own mode": (lambda K: OnAnothers(K, "its own"), ("1.bn",)),
    "on its own": (OnItsOwn, ("batch_norm",)),
}


def conv_and(norm):
    model = lively(nn.Sequential(nn.Conv2d(4, 4, 3, bias=False), norm))
    with torch.no_grad():
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return model


@pytest.mark.parametrize("name", BATCH_NORMS)
def test_batch_norms_are_folded_as_what_they_are(name):
    make, taken = BATCH_NORMS[name]
    model = conv_and(make(4))
    fused, reports = fastconv.fuse(model, report=True)
    assert chains(reports)["0"] == taken
    same(fused(x()), model(x()))
    assert isinstance(fused.get_submodule("0"), FusedConv2d) and not list(fused.buffers())


@pytest.mark.parametrize("around", [lambda part: part, Untraceable], ids=["traced", "untraceable"])
@pytest.mark.parametrize("name", BATCH_NORMS)
def test_batch_norms_are_frozen_as_what_they_are(name, around):
    make, taken = BATCH_NORMS[name]
    model = around(conv_and(make(4)))
    frozen, reports = fastconv.fuse(model, trainable=True, report=True)
    (found,) = chains(reports).values()
    assert [part.removeprefix("part.") for part in found] == list(
        taken if name != "on its own" else ()
    )
    assert list(frozen.state_dict()) == list(model.state_dict())
    before = {key: value.clone() for key, value in frozen.named_buffers()}
    results = []
    for each in (model, frozen.train()):
        model.zero_grad(set_to_none=True)
        y = each(x())
        y.square().sum().backward()
        results.append([y.detach(), *(parameter.grad for parameter in model.parameters())])
    for wanted, got in zip(*results, strict=True):
        same(got, wanted)
    assert all(torch.equal(value, before[key]) for key, value in frozen.named_buffers())


class OnlyByValue(nn.BatchNorm2d):
    def forward(self, x):
        return super().forward(x) if x.mean() < 1e9 else x


class Uses(nn.Module):
    """Cannot be traced, and does more with its BatchNorms than call them."""

    def __init__(self):
        super().__init__()
        self.conv, self.plain, self.other = nn.Conv2d(4, 4, 1), Plain(4), WithActivation(4)

    def forward(self, x):
        x = self.other(self.plain(self.conv(x)))
        return x * self.plain.total() if x.mean() < 1e9 else x * self.other.weight.sum()


@pytest.mark.parametrize(
    "make",
    [lambda: nn.Sequential(nn.Conv2d(4, 4, 1), OnlyByValue(4)), Uses,
     lambda: nn.Sequential(nn.Conv2d(4, 4, 1), nn.Flatten(2), nn.BatchNorm1d(4))],
    ids=["untraceable forward", "used otherwise", "of one dimension"],
)  # fmt: skip
def test_batch_norms_that_no_convolution_takes_do_not_move(make):
    model = lively(make())
    frozen, reports = fastconv.fuse(model, trainable=True, report=True)
    assert all(report.reason for report in reports if "Norm" in report.type or "Act" in report.type)
    file = io.BytesIO()
    torch.save(frozen, file)
    file.seek(0)
    for each in (frozen, copy.deepcopy(frozen), torch.load(file, weights_only=False)):
        before = {key: value.clone() for key, value in each.named_buffers()}
        same(each.train()(x()), model(x()))
        assert all(torch.equal(value, before[key]) for key, value in each.named_buffers())


class AfterItsConvolution(nn.BatchNorm2d):
    def __init__(self, K):
        super().__init__(K)
        self.conv = nn.Conv2d(K, K, 1)

    def forward(self, x):
        return super().forward(self.conv(x))


@pytest.mark.parametrize("trainable", [False, True])
@pytest.mark.parametrize("around", [nn.Sequential, Untraceable])
def test_a_batch_norm_with_a_convolution_of_its_own(around, trainable):
    model = lively(around(AfterItsConvolution(4)))
    fused, reports = fastconv.fuse(model, trainable=trainable, report=True)
    same(fused(x()), model(x()))
    if trainable:
        assert list(fused.state_dict()) == list(model.state_dict())
    (taken,) = chains(reports).values()
    assert taken == (("0",) if around is nn.Sequential else ())


class ByTheBatch(nn.BatchNorm2d):
    def forward(self, x):
        return F.batch_norm(x, self.running_mean, self.running_var, training=True)


@pytest.mark.parametrize(
    ("make", "reason"),
    [(lambda: OnlyByValue(4), "cannot be traced"),
     (lambda: nn.BatchNorm2d(4, track_running_stats=False), "no running statistics"),
     (lambda: ByTheBatch(4), "by the batch"),
     (lambda: BySuper(8), "no convolution")],
    ids=["value", "batch statistics", "always the batch's", "channels"],
)  # fmt: skip
@pytest.mark.parametrize("trainable", [False, True])
def test_what_is_left_has_its_reason(make, reason, trainable):
    norm = make()
    first = [nn.PixelShuffle(1), nn.Conv2d(4, 4, 1)]
    _, reports = fastconv.fuse(nn.Sequential(*first, norm).eval(), trainable=trainable, report=True)
    (report,) = [report for report in reports if report.name == "2"]
    assert reason in report.reason and report.type == type(norm).__name__


class ByItsOwnMode(nn.Module):
    """Cannot be traced, and normalises by a BatchNorm's tensors in a mode that is not its."""

    def __init__(self):
        super().__init__()
        self.bn = nn.BatchNorm2d(4)

    def forward(self, x):
        if x.mean() > 1e9:
            return x
        return F.batch_norm(x, self.bn.running_mean, self.bn.running_var, training=self.training)


@pytest.mark.parametrize(
    ("make", "reason"),
    [(lambda: ByTheBatch(4), "not frozen"),
     (lambda: nn.LazyBatchNorm2d(), "not frozen"),
     (lambda: torch.jit.script(nn.BatchNorm2d(4)), "not frozen"),
     (lambda: ByItsOwnMode(), "may change what bn has")],
    ids=["always the batch's", "lazy", "script", "mode"],
)  # fmt: skip
def test_what_cannot_be_frozen_is_said(make, reason):
    model = nn.Sequential(make())
    _, reports = fastconv.fuse(model, trainable=True, report=True)
    (report,) = reports
    assert report.name.startswith("0") and reason in report.reason
