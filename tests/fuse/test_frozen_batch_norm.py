"""fastconv.fuse(trainable=True): training with frozen BatchNorms."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from fuse_blocks import Block, chains, conv_bn_act, lively, residual_iadd, same

import fastconv
from fastconv.nn import FrozenBatchNorm2d, FusedConv2d


class Droops(nn.Module):
    """Has a dropout, so that training and evaluation differ."""

    def __init__(self):
        super().__init__()
        self.block = Block(residual_iadd)
        self.last = Block(conv_bn_act, act=nn.SiLU())

    def forward(self, x):
        x = F.dropout(self.block(x), 0.5, self.training)
        return self.last(x)


def test_frozen_norms_train_as_torchs_do_in_eval_mode():
    model = lively(Droops())
    x = torch.randn(2, 4, 9, 8, dtype=torch.float64)
    fused, reports = fastconv.fuse(model, trainable=True, report=True)
    assert chains(reports)["block.conv"] == ("block.bn", "residual", "block.act")
    unused = {f"{part}.{name}" for part in ("block", "last")
              for name in ("scale", "other.weight", "other.bias")}  # fmt: skip
    assert set(fused.state_dict()) == set(model.state_dict()) - unused
    for name, parameter in fused.named_parameters():
        assert parameter is model.get_parameter(name)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    fused.train()
    buffers = {name: buffer.clone() for name, buffer in fused.named_buffers()}
    results = []
    for network in (model, fused):
        model.zero_grad(set_to_none=True)
        torch.manual_seed(2)
        y = network(x)
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad for p in model.parameters() if p.grad is not None)])
    assert len(results[0]) == 1 + 2 * 4  # two convolutions, two BatchNorms
    for got, wanted in zip(results[1], results[0], strict=True):
        same(got, wanted)
    assert all(torch.equal(buffer, buffers[name]) for name, buffer in fused.named_buffers())
    fused.eval(), model.eval()
    same(fused(x), model(x))


def test_a_frozen_norm_alone():
    norm = nn.BatchNorm2d(4)
    model = lively(nn.Sequential(norm, nn.Conv2d(4, 4, 1)))
    fused = fastconv.fuse(model, trainable=True).train()
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    same(fused(x), model(x))
    assert any(isinstance(m, FrozenBatchNorm2d) for m in fused.modules())


@pytest.mark.gradcheck
def test_the_fused_call_is_differentiable_twice():
    layer = FusedConv2d(2, 3, 3).double()
    scale, shift = torch.rand(2, 3, dtype=torch.float64, requires_grad=True)
    tensors = [torch.randn(size, dtype=torch.float64, requires_grad=True)
               for size in ((1, 2, 5, 4), (1, 3, 3, 2))]  # fmt: skip

    def call(x, residual, scale, shift):
        return layer(x, residual, (scale, shift), "silu")

    scale, shift = scale.detach().requires_grad_(), shift.detach().requires_grad_()
    assert torch.autograd.gradcheck(call, (*tensors, scale, shift))
    assert torch.autograd.gradgradcheck(call, (*tensors, scale, shift))
