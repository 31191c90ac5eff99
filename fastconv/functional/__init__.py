"""Functions with the signatures of torch.nn.functional."""

from .conv2d import conv2d
from .conv_transpose2d import conv_transpose2d
from .pool2d import adaptive_avg_pool2d, adaptive_max_pool2d, avg_pool2d, max_pool2d

__all__ = [
    "adaptive_avg_pool2d",
    "adaptive_max_pool2d",
    "avg_pool2d",
    "conv2d",
    "conv_transpose2d",
    "max_pool2d",
]
