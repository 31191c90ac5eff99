"""Plain networks of torch's own layers, randomly initialised; fastconv.convert swaps the layers.

They need torch alone, and torch.fx can trace them. Where torchvision has the network too, the
names and shapes of the state_dict are torchvision's, so its checkpoints load."""

from functools import partial

from .convnext import ConvNeXtTiny
from .efficientnet import EfficientNetB0
from .mobilenet import MobileNetV1, MobileNetV2
from .resnet import ResNet18, ResNet50
from .squeezenet import SqueezeNet
from .unet import UNet
from .wavenet import WaveNet

# Callables of no argument: 1000 classes, (N, 3, H, W) images.
NETWORKS = {
    "resnet18": ResNet18,
    "resnet50": ResNet50,
    "mobilenet_v1": MobileNetV1,
    "mobilenet_v1_dense": partial(MobileNetV1, separable=False),
    "mobilenet_v2": MobileNetV2,
    "squeezenet1_1": SqueezeNet,
    "efficientnet_b0": EfficientNetB0,
    "convnext_tiny": ConvNeXtTiny,
}
# Callables of no argument: 2 classes for each pixel of (N, 1, H, W) images, whose H and W are
# multiples of 16; 256 for each of (N, 256, W) samples.
DENSE_NETWORKS = {"unet": UNet, "wavenet": WaveNet}
