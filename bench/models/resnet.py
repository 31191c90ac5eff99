"""ResNet-18 and ResNet-50 (He et al. 2015), with torchvision's state_dict names and initialisation.

ResNet-50 is the "v1.5" of later implementations: a bottleneck's stride is at its 3x3, where the
paper has it at the first 1x1.
"""

from torch import nn


def conv1x1(C, K, stride=1):
    return nn.Conv2d(C, K, 1, stride=stride, bias=False)


def conv3x3(C, K, stride=1):
    return nn.Conv2d(C, K, 3, stride=stride, padding=1, bias=False)


def projection(C, K, stride):
    """The shortcut's 1x1 convolution, or None where sizes and channels agree without it."""
    if stride == 1 and C == K:
        return None
    return nn.Sequential(conv1x1(C, K, stride), nn.BatchNorm2d(K))


class BasicBlock(nn.Module):
    """y = relu(bn2(conv2(relu(bn1(conv1(x))))) + shortcut(x)), C -> width channels."""

    expansion = 1

    def __init__(self, C, width, stride):
        super().__init__()
        self.conv1 = conv3x3(C, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.downsample = projection(C, width, stride)

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        return self.relu(self.bn2(self.conv2(y)) + shortcut)


class Bottleneck(nn.Module):
    """1x1 to `width` channels, 3x3, 1x1 to 4 * width, each with batch normalisation; + shortcut(x)
    before the last ReLU."""

    expansion = 4

    def __init__(self, C, width, stride):
        super().__init__()
        K = width * self.expansion
        self.conv1 = conv1x1(C, width)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = conv1x1(width, K)
        self.bn3 = nn.BatchNorm2d(K)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = projection(C, K, stride)

    def forward(self, x):
        shortcut = x if self.downsample is None else self.downsample(x)
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        return self.relu(self.bn3(self.conv3(y)) + shortcut)


def stage(block, C, width, blocks, stride):
    """`blocks` blocks, the first of them from C channels and with the stride."""
    K = width * block.expansion
    rest = [block(K, width, 1) for _ in range(blocks - 1)]
    return nn.Sequential(block(C, width, stride), *rest)


class ResNet(nn.Module):
    """(N, 3, H, W) images -> (N, num_classes) logits.

    Args:
        block: BasicBlock or Bottleneck.
        blocks: how many of them each of the four stages has.
    """

    def __init__(self, block, blocks, num_classes):
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = stage(block, 64, 64, blocks[0], 1)
        self.layer2 = stage(block, 64 * block.expansion, 128, blocks[1], 2)
        self.layer3 = stage(block, 128 * block.expansion, 256, blocks[2], 2)
        self.layer4 = stage(block, 256 * block.expansion, 512, blocks[3], 2)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(512 * block.expansion, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def forward(self, x):
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(self.avgpool(x).flatten(1))


class ResNet18(ResNet):
    def __init__(self, num_classes=1000):
        super().__init__(BasicBlock, (2, 2, 2, 2), num_classes)


class ResNet50(ResNet):
    def __init__(self, num_classes=1000):
        super().__init__(Bottleneck, (3, 4, 6, 3), num_classes)
