"""SqueezeNet 1.1 (Iandola et al. 2016), with torchvision's state_dict names and initialisation."""

import torch
from torch import nn


class Fire(nn.Module):
    """1x1 to `squeeze` channels, then 1x1 and 3x3 side by side, K / 2 channels each."""

    def __init__(self, C, squeeze, K):
        super().__init__()
        self.squeeze = nn.Conv2d(C, squeeze, 1)
        self.expand1x1 = nn.Conv2d(squeeze, K // 2, 1)
        self.expand3x3 = nn.Conv2d(squeeze, K // 2, 3, padding=1)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        x = self.relu(self.squeeze(x))
        return torch.cat([self.relu(self.expand1x1(x)), self.relu(self.expand3x3(x))], 1)


def max_pool():
    return nn.MaxPool2d(3, stride=2, ceil_mode=True)


class SqueezeNet(nn.Module):
    """(N, 3, H, W) images -> (N, num_classes) logits. No batch normalisation, no linear layer."""

    def __init__(self, num_classes=1000):
        super().__init__()
        self.features = nn.Sequential(
            nn.Conv2d(3, 64, 3, stride=2),
            nn.ReLU(inplace=True),
            max_pool(),
            Fire(64, 16, 128),
            Fire(128, 16, 128),
            max_pool(),
            Fire(128, 32, 256),
            Fire(256, 32, 256),
            max_pool(),
            Fire(256, 48, 384),
            Fire(384, 48, 384),
            Fire(384, 64, 512),
            Fire(512, 64, 512),
        )
        last = nn.Conv2d(512, num_classes, 1)
        self.classifier = nn.Sequential(
            nn.Dropout(0.5), last, nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1)
        )
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                if module is last:
                    nn.init.normal_(module.weight, 0, 0.01)
                else:
                    nn.init.kaiming_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        return self.classifier(self.features(x)).flatten(1)
