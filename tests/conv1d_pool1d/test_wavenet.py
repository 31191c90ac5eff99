"""A network along one axis: converted it infers and trains as before."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

import fastconv
from fastconv.bench.models.wavenet import WaveNet


def small():
    return WaveNet(levels=5, C=6, skip=7, stacks=2, layers=3).double()


def step(net, x):
    """One of training by the loss of the next samples: logits, loss, the gradients and Parameters
    of all that has one."""
    parameters = list(net.parameters())
    y = net(x)
    loss = F.cross_entropy(y[..., :-1], x.argmax(1)[..., 1:])
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    used = [(p, g) for p, g in zip(parameters, gradients) if g is not None]
    with torch.no_grad():
        for parameter, gradient in used:
            parameter -= 0.1 * gradient
    return y, loss, used


def one_hot(N, W):
    return F.one_hot(torch.randint(5, (N, W)), 5).double().transpose(1, 2)


def test_trains_as_before_and_converts_back(strict):
    net = small()
    ours, report = fastconv.convert(copy.deepcopy(net), report=True)
    assert all(layer.converted for layer in report) and len(report) == 2 * 3 * 3 + 3
    for x in (one_hot(2, 40).contiguous(), one_hot(2, 40)):  # channels inner: the latter
        for _ in range(5):  # from the second one on calls are prepared
            torch.testing.assert_close(step(ours, x), step(net, x))
    assert not any(isinstance(m, fastconv.Conv1d) for m in fastconv.unconvert(ours).modules())


def test_fused(strict):
    net, x = small().eval(), one_hot(2, 40)
    fused = fastconv.fuse(net)
    assert not any(type(m) is nn.Conv1d for m in fused.modules())
    with torch.no_grad():
        for _ in range(3):  # the third call runs a program
            torch.testing.assert_close(fused(x), net(x))


def test_no_logit_sees_a_later_sample():
    net = fastconv.convert(small())
    x = one_hot(1, 30).requires_grad_()
    (dx,) = torch.autograd.grad(net(x)[..., :20].square().sum(), x)
    # Each stack reaches 1 + 2 + 4 samples back, the first convolution one.
    assert dx[..., 20:].count_nonzero() == 0 and dx[..., 4:20].count_nonzero(1).all()
