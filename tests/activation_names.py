"""The activations that tests try: each once, and those with a parameter with another one too."""

import torch.nn.functional as F

from fastconv.activations import ACTIVATIONS, by_torch

NAMES = (*ACTIVATIONS, "leaky_relu(-0.5)", "elu(0.5)")
# Their slope jumps where rounding may put z on the other side.
KINKED = ("relu", "relu6", "leaky_relu", "leaky_relu(-0.5)", "elu(0.5)")


def exactly(activation, z):
    """activation(z) by torch, with derivatives; z itself for None and "none"."""
    if activation in (None, "none"):
        return z
    # The slope of ATen's hardsigmoid is a sixth in float32, whatever the dtype.
    return F.relu6(z + 3) / 6 if activation == "hardsigmoid" else by_torch(activation, z)
