"""Stochastic depth (Huang et al. 2016): in training, whole residual branches are left out."""

from torch import nn


class StochasticDepth(nn.Module):
    """Zeroes each image of a batch with probability p and divides the others by 1 - p; the identity
    in eval mode. (N, C, H, W) -> (N, C, H, W).

    Raises:
        ValueError: p is not in [0, 1).
    """

    def __init__(self, p):
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"StochasticDepth: p must be at least 0 and less than 1, got {p}")
        self.p = p

    def forward(self, x):
        if self.p == 0 or not self.training:
            return x
        survival = 1 - self.p
        return x * x.new_empty(x.shape[0], 1, 1, 1).bernoulli_(survival).div_(survival)

    def extra_repr(self):
        return f"p={self.p}"
