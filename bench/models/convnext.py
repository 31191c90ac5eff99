"""ConvNeXt-Tiny (Liu et al. 2022), with torchvision's state_dict names and initialisation."""

import torch
import torch.nn.functional as F
from torch import nn

from .stochastic_depth import StochasticDepth

NORM_EPS = 1e-6


class LayerNorm2d(nn.LayerNorm):
    """Layer normalisation over the channels of each pixel of (N, C, H, W)."""

    def forward(self, x):
        x = x.permute(0, 2, 3, 1)
        x = F.layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)
        return x.permute(0, 3, 1, 2)


class Permute(nn.Module):
    def __init__(self, *axes):
        super().__init__()
        self.axes = axes

    def forward(self, x):
        return x.permute(self.axes)


class Block(nn.Module):
    """y = x + layer_scale * mlp(norm(depthwise 7x7(x))), the MLP over the channels of each pixel.

    Args:
        depth_p: the probability that stochastic depth leaves an image's branch out.
    """

    LAYER_SCALE = 1e-6  # at the start

    def __init__(self, C, depth_p):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((C, 1, 1), self.LAYER_SCALE))
        self.block = nn.Sequential(
            nn.Conv2d(C, C, 7, padding=3, groups=C),
            Permute(0, 2, 3, 1),
            nn.LayerNorm(C, eps=NORM_EPS),
            nn.Linear(C, 4 * C),
            nn.GELU(),
            nn.Linear(4 * C, C),
            Permute(0, 3, 1, 2),
        )
        self.stochastic_depth = StochasticDepth(depth_p)

    def forward(self, x):
        return self.stochastic_depth(self.layer_scale * self.block(x)) + x


def stem(K):
    return nn.Sequential(nn.Conv2d(3, K, 4, stride=4), LayerNorm2d(K, eps=NORM_EPS))


def downsampling(C, K):
    return nn.Sequential(LayerNorm2d(C, eps=NORM_EPS), nn.Conv2d(C, K, 2, stride=2))


class ConvNeXtTiny(nn.Module):
    """(N, 3, H, W) images -> (N, num_classes) logits."""

    # channels, blocks
    STAGES = ((96, 3), (192, 3), (384, 9), (768, 3))
    # Stochastic depth: block i of B, from 0, is left out with probability DEPTH_P * i / (B - 1).
    DEPTH_P = 0.1

    def __init__(self, num_classes=1000):
        super().__init__()
        total = sum(blocks for _, blocks in self.STAGES)
        depth_p = iter([self.DEPTH_P * i / (total - 1) for i in range(total)])
        layers, C = [], None
        for K, blocks in self.STAGES:
            layers.append(stem(K) if C is None else downsampling(C, K))
            layers.append(nn.Sequential(*(Block(K, next(depth_p)) for _ in range(blocks))))
            C = K
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            LayerNorm2d(C, eps=NORM_EPS), nn.Flatten(1), nn.Linear(C, num_classes)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)))
