"""WaveNet (van den Oord et al. 2016, figure 4), without conditioning."""

import torch
import torch.nn.functional as F
from torch import nn


def causal(conv, x):
    """conv(x), with W positions: none depends on a later one of x."""
    (dilation,), (S,) = conv.dilation, conv.kernel_size
    return conv(F.pad(x, (dilation * (S - 1), 0)))


class Block(nn.Module):
    """Gated and residual: (x + residual, skip) of x."""

    def __init__(self, C, skip, dilation):
        super().__init__()
        self.gated = nn.Conv1d(C, 2 * C, 2, dilation=dilation)
        self.residual = nn.Conv1d(C, C, 1)
        self.skip = nn.Conv1d(C, skip, 1)

    def forward(self, x):
        values, gates = causal(self.gated, x).chunk(2, 1)
        z = torch.tanh(values) * torch.sigmoid(gates)
        return x + self.residual(z), self.skip(z)


class WaveNet(nn.Module):
    """(N, levels, W) samples, one-hot -> (N, levels, W) logits of the next ones. Each stack has
    `layers` blocks, whose dilation is doubled from one to the next: up to 512, as in the paper's
    section 2.1."""

    def __init__(self, levels=256, C=64, skip=128, stacks=2, layers=10):
        super().__init__()
        self.first = nn.Conv1d(levels, C, 2)
        self.blocks = nn.ModuleList(
            Block(C, skip, 2**layer) for _ in range(stacks) for layer in range(layers)
        )
        self.last = nn.Sequential(
            nn.ReLU(), nn.Conv1d(skip, skip, 1), nn.ReLU(), nn.Conv1d(skip, levels, 1)
        )

    def forward(self, x):
        x, total = causal(self.first, x), 0
        for block in self.blocks:
            x, skip = block(x)
            total = total + skip
        return self.last(total)
