"""EfficientNet-B0 (Tan & Le 2019), with torchvision's state_dict names and initialisation."""

from torch import nn

from .conv_bn import conv_bn
from .stochastic_depth import StochasticDepth


class SqueezeExcitation(nn.Module):
    """Each channel times a factor in (0, 1) computed from all channels' means (Hu et al. 2017)."""

    def __init__(self, C, squeeze):
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(C, squeeze, 1)
        self.activation = nn.SiLU(inplace=True)
        self.fc2 = nn.Conv2d(squeeze, C, 1)
        self.scale_activation = nn.Sigmoid()

    def forward(self, x):
        scale = self.fc2(self.activation(self.fc1(self.avgpool(x))))
        return x * self.scale_activation(scale)


class MBConv(nn.Module):
    """1x1 to `expansion` times the channels, depthwise convolution, squeeze and excitation, 1x1 to
    K; + x where sizes agree.

    Args:
        depth_p: the probability that stochastic depth leaves an image's branch out.
    """

    def __init__(self, C, K, kernel, stride, expansion, depth_p):
        super().__init__()
        hidden = C * expansion
        self.adds_input = stride == 1 and C == K
        expand = [conv_bn(C, hidden, 1, activation=nn.SiLU)] if expansion != 1 else []
        self.block = nn.Sequential(
            *expand,
            conv_bn(hidden, hidden, kernel, stride, groups=hidden, activation=nn.SiLU),
            SqueezeExcitation(hidden, C // 4),
            conv_bn(hidden, K, 1),
        )
        self.stochastic_depth = StochasticDepth(depth_p)

    def forward(self, x):
        y = self.block(x)
        return self.stochastic_depth(y) + x if self.adds_input else y


class EfficientNetB0(nn.Module):
    """(N, 3, H, W) images -> (N, num_classes) logits."""

    # expansion, channels, blocks, kernel, stride of the first block
    STAGES = (
        (1, 16, 1, 3, 1),
        (6, 24, 2, 3, 2),
        (6, 40, 2, 5, 2),
        (6, 80, 3, 3, 2),
        (6, 112, 3, 5, 1),
        (6, 192, 4, 5, 2),
        (6, 320, 1, 3, 1),
    )
    # Stochastic depth: block i of B, from 0, is left out with probability DEPTH_P * i / B.
    DEPTH_P = 0.2

    def __init__(self, num_classes=1000):
        super().__init__()
        total = sum(blocks for _, _, blocks, _, _ in self.STAGES)
        depth_p = iter([self.DEPTH_P * i / total for i in range(total)])
        C = 32
        layers = [conv_bn(3, C, stride=2, activation=nn.SiLU)]
        for expansion, K, blocks, kernel, stride in self.STAGES:
            stage = []
            for block in range(blocks):
                s = stride if block == 0 else 1
                stage.append(MBConv(C, K, kernel, s, expansion, next(depth_p)))
                C = K
            layers.append(nn.Sequential(*stage))
        self.features = nn.Sequential(*layers, conv_bn(C, 1280, 1, activation=nn.SiLU))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(0.2, inplace=True), nn.Linear(1280, num_classes))
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out")
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.Linear):
                bound = module.out_features**-0.5
                nn.init.uniform_(module.weight, -bound, bound)
                nn.init.zeros_(module.bias)

    def forward(self, x):
        return self.classifier(self.avgpool(self.features(x)).flatten(1))
