"""A residual block as two calls of kernels: bias, residual and activation are part of the
convolutions, forward and backward.

python epilogue.py
"""

import torch
import torch.nn as nn
import torch.nn.functional as F

import fastconv


class Block(nn.Module):
    """silu(conv2(silu(conv1(x))) + x); (N, C, H, W) -> (N, C, H, W)."""

    def __init__(self, channels):
        super().__init__()
        self.conv1 = fastconv.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = fastconv.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x):
        first, second = self.conv1, self.conv2
        y = fastconv.conv2d(x, first.weight, first.bias, padding=1, activation="silu")
        return fastconv.conv2d(
            y, second.weight, second.bias, padding=1, activation="silu", residual=x
        )


def by_torch(block, x):
    first, second = block.conv1, block.conv2
    y = F.silu(F.conv2d(x, first.weight, first.bias, padding=1))
    return F.silu(F.conv2d(y, second.weight, second.bias, padding=1) + x)


torch.manual_seed(0)
block = Block(16).double()
x = torch.randn(2, 16, 12, 12, dtype=torch.float64, requires_grad=True)
inputs = [x, *block.parameters()]
ours, torchs = block(x), by_torch(block, x)
torch.testing.assert_close(ours, torchs)
for pair in zip(
    torch.autograd.grad(ours.square().sum(), inputs),
    torch.autograd.grad(torchs.square().sum(), inputs),
    strict=True,
):
    torch.testing.assert_close(*pair)
print(fastconv.explain(block, x))
