"""A network of timm, or of fastconv.bench.models where timm is not installed, computed by fastconv.

python swap.py resnet18 --image-size 224
"""

import argparse

import torch

import fastconv
from fastconv.bench.models import NETWORKS

parser = argparse.ArgumentParser()
parser.add_argument("name", nargs="?", default="resnet18")
parser.add_argument("--image-size", type=int, default=224)
options = parser.parse_args()

try:
    import timm
except ImportError:
    model = NETWORKS[options.name]()
else:
    model = timm.create_model(options.name)  # pretrained=True for trained weights
model.eval()
x = torch.randn(1, 3, options.image_size, options.image_size)

converted, layers = fastconv.convert(model, report=True)  # shares the parameters
fused = fastconv.fuse(model)  # for inference: has copies, with the BatchNorms multiplied in
print(layers.summary())
with torch.inference_mode():
    for network in (converted, fused):
        torch.testing.assert_close(network(x), model(x), rtol=1e-3, atol=1e-4)
    print(fastconv.explain(fused, x))
