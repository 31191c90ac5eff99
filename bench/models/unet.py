"""U-Net (Ronneberger, Fischer and Brox 2015, figure 1), for images that keep their size: its 3 x 3
convolutions are padded by one pixel, the paper's are not."""

import torch
from torch import nn

DEPTH = 4  # of poolings


def double_conv(C, K):
    return nn.Sequential(
        nn.Conv2d(C, K, 3, padding=1),
        nn.ReLU(inplace=True),
        nn.Conv2d(K, K, 3, padding=1),
        nn.ReLU(inplace=True),
    )


class UNet(nn.Module):
    """(N, channels, H, W) images -> (N, num_classes, H, W) logits; H and W are multiples of 16.

    Args:
        width: channels of the first level; each level below has twice as many. 64 in the paper.
    """

    def __init__(self, num_classes=2, channels=1, width=64):
        super().__init__()
        widths = [width << level for level in range(DEPTH + 1)]
        self.down = nn.ModuleList(map(double_conv, [channels, *widths], widths))
        self.pool = nn.MaxPool2d(2)
        self.up = nn.ModuleList(
            nn.ConvTranspose2d(2 * K, K, 2, stride=2) for K in reversed(widths[:-1])
        )
        self.merge = nn.ModuleList(double_conv(2 * K, K) for K in reversed(widths[:-1]))
        self.last = nn.Conv2d(width, num_classes, 1)

    def forward(self, x):
        skipped = []
        for level in self.down:
            if skipped:
                x = self.pool(x)
            x = level(x)
            skipped.append(x)
        for up, merge, skip in zip(self.up, self.merge, reversed(skipped[:-1])):
            x = merge(torch.cat([skip, up(x)], 1))
        return self.last(x)
