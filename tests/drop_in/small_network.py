"""A small network with every kind of layer, and all that it computes."""

import torch
import torch.nn as nn


def network(seed=0, norm=nn.Identity):
    """(N, 3, H, W) -> (N, 5), of torch's layers; one has more than 1 MiB of float64 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1, bias=False),
        norm(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(64, 64, 3, stride=2, padding=1, groups=64),
        nn.SiLU(),
        nn.Conv2d(64, 256, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Conv2d(256, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def images(count):
    return torch.randn(count, 3, 15, 13, generator=torch.Generator().manual_seed(1))


def answers(net, x):
    """Output, gradients of input and parameters, and buffers after a forward and backward pass."""
    net.zero_grad()
    x = x.detach().requires_grad_()
    y = net(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape))
    return [y.detach(), x.grad, *(p.grad.clone() for p in net.parameters()), *net.buffers()]


def equal(some, others):
    """Bit by bit."""
    return len(some) == len(others) and all(map(torch.equal, some, others))
