"""MobileNetV2 (Sandler et al. 2018), with torchvision's state_dict names and initialisation."""

from torch import nn


def conv_bn_relu6(C, K, kernel=3, stride=1, groups=1):
    return nn.Sequential(
        nn.Conv2d(
            C, K, kernel, stride=stride, padding=(kernel - 1) // 2, groups=groups, bias=False
        ),
        nn.BatchNorm2d(K),
        nn.ReLU6(inplace=True),
    )


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise 3x3, 1x1 to K; + x where sizes agree."""

    def __init__(self, C, K, stride, expansion):
        super().__init__()
        hidden = C * expansion
        self.adds_input = stride == 1 and C == K
        expand = [conv_bn_relu6(C, hidden, 1)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_bn_relu6(hidden, hidden, stride=stride, groups=hidden),
            nn.Conv2d(hidden, K, 1, bias=False),
            nn.BatchNorm2d(K),
        )

    def forward(self, x):
        return x + self.conv(x) if self.adds_input else self.conv(x)


class MobileNetV2(nn.Module):
    """(N, 3, H, W) images -> (N, num_classes) logits."""

    # expansion, channels, blocks, stride of the first one
    STAGES = (
        (1, 16, 1, 1),
        (6, 24, 2, 2),
        (6, 32, 3, 2),
        (6, 64, 4, 2),
        (6, 96, 3, 1),
        (6, 160, 3, 2),
        (6, 320, 1, 1),
    )

    def __init__(self, num_classes=1000):
        super().__init__()
        C = 32
        layers = [conv_bn_relu6(3, C, stride=2)]
        for expansion, K, blocks, stride in self.STAGES:
            for block in range(blocks):
                layers.append(InvertedResidual(C, K, stride if block == 0 else 1, expansion))
                C = K
        self.features = nn.Sequential(*layers, conv_bn_relu6(C, 1280, 1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
            elif isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, 0, 0.01)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
