"""MobileNetV1 (Howard et al. 2017) and MobileNetV2 (Sandler et al. 2018), the latter with
torchvision's state_dict names and initialisation; torchvision has no MobileNetV1."""

from torch import nn

from .conv_bn import conv_bn


class DepthwiseSeparable(nn.Module):
    """A depthwise 3x3, then a 1x1 to K channels: for 1/9 + 1/K of a dense 3x3's multiply-adds."""

    def __init__(self, C, K, stride):
        super().__init__()
        self.depthwise = conv_bn(C, C, stride=stride, groups=C, activation=nn.ReLU)
        self.pointwise = conv_bn(C, K, kernel=1, activation=nn.ReLU)

    def forward(self, x):
        return self.pointwise(self.depthwise(x))


def dense(C, K, stride):
    return conv_bn(C, K, stride=stride, activation=nn.ReLU)


class MobileNetV1(nn.Module):
    """(N, 3, H, W) images -> (N, num_classes) logits.

    Args:
        separable: False: one dense 3x3 convolution in the place of each depthwise separable pair,
            the paper's own comparison (its table 4).
    """

    # channels, stride
    LAYERS = (
        (64, 1),
        (128, 2),
        (128, 1),
        (256, 2),
        (256, 1),
        (512, 2),
        *[(512, 1)] * 5,
        (1024, 2),
        (1024, 1),
    )

    def __init__(self, num_classes=1000, separable=True):
        super().__init__()
        layer = DepthwiseSeparable if separable else dense
        C = 32
        layers = [conv_bn(3, C, stride=2, activation=nn.ReLU)]
        for K, stride in self.LAYERS:
            layers.append(layer(C, K, stride))
            C = K
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Linear(C, num_classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                # By fan-in: fan-out counts all of a depthwise layer's channels, each sees but one.
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))


class InvertedResidual(nn.Module):
    """1x1 to `expansion` times the channels, depthwise 3x3, 1x1 to K; + x where sizes agree."""

    def __init__(self, C, K, stride, expansion):
        super().__init__()
        hidden = C * expansion
        self.adds_input = stride == 1 and C == K
        expand = [conv_bn(C, hidden, 1, activation=nn.ReLU6)] if expansion != 1 else []
        self.conv = nn.Sequential(
            *expand,
            conv_bn(hidden, hidden, stride=stride, groups=hidden, activation=nn.ReLU6),
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
        layers = [conv_bn(3, C, stride=2, activation=nn.ReLU6)]
        for expansion, K, blocks, stride in self.STAGES:
            for block in range(blocks):
                layers.append(InvertedResidual(C, K, stride if block == 0 else 1, expansion))
                C = K
        self.features = nn.Sequential(*layers, conv_bn(C, 1280, 1, activation=nn.ReLU6))
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
