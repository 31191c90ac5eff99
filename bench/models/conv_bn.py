"""Convolution, batch normalisation, activation: what MobileNets and EfficientNets are made of."""

from torch import nn


def conv_bn(C, K, kernel=3, stride=1, groups=1, activation=None):
    """A Sequential for (N, C, H, W) -> (N, K, ceil(H / stride), ceil(W / stride)).

    Args:
        kernel: height and width in pixels, odd.
        activation: a class such as nn.ReLU, or None.
    """
    conv = nn.Conv2d(C, K, kernel, stride, padding=kernel // 2, groups=groups, bias=False)
    activations = [] if activation is None else [activation(inplace=True)]
    return nn.Sequential(conv, nn.BatchNorm2d(K), *activations)
