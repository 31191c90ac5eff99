"""fastconv: hand-written convolution and pooling kernels behind torch's own interfaces.

    model = fastconv.convert(model)      # swap the layers of an existing network
    model = fastconv.fuse(model)         # for inference: BatchNorm and activation into the kernels
    layer = fastconv.Conv2d(3, 64, 7)    # or use them as torch.nn's
    y = fastconv.conv2d(x, w, b, padding=1, activation="relu")

Networks    convert, unconvert, fuse, fold_batch_norm, export_decompositions
Layers      Conv2d, ConvReLU2d, MaxPool2d, AvgPool2d, AdaptiveAvgPool2d, AdaptiveMaxPool2d,
            Conv1d, ConvReLU1d, MaxPool1d, AvgPool1d, AdaptiveAvgPool1d, AdaptiveMaxPool1d,
            ConvTranspose1d, ConvTranspose2d, Conv3d
Functions   conv2d, max_pool2d, avg_pool2d, adaptive_avg_pool2d, adaptive_max_pool2d,
            conv1d, max_pool1d, avg_pool1d, adaptive_avg_pool1d, adaptive_max_pool1d,
            conv_transpose1d, conv_transpose2d, conv3d
Modules     nn, functional (the layers and functions, where torch has its own)
Insight     explain (what ran a call, and how fast), info (what this installation can do)
Choice      backend (names the backend of all calls inside a `with` block)
Memory      empty_cache (gives back what fused networks keep)
Results     ConversionReport, LayerReport, FusionReport, Explanation, ConvProblem, PoolProblem

All else is internal. Calls that go to ATen give a warning for each reason. Of logging, the logger
"fastconv" has kernels that failed their check on a GPU (WARNING), the calls to ATen that an export
expects (INFO), and what tuning chose and what passed its check (DEBUG).
"""

from importlib.metadata import version as _version

from . import functional, nn, variables
from .convert import ConversionReport, LayerReport, convert, unconvert
from .decompositions import export_decompositions
from .dispatch import backend
from .explanation.explain import Explanation, explain
from .functional import (
    adaptive_avg_pool1d,
    adaptive_avg_pool2d,
    adaptive_max_pool1d,
    adaptive_max_pool2d,
    avg_pool1d,
    avg_pool2d,
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    max_pool1d,
    max_pool2d,
)
from .fusion.fold_batch_norm import fold_batch_norm
from .fusion.fuse import fuse
from .fusion.network import empty_cache
from .fusion.report import FusionReport
from .info import info
from .nn import (
    AdaptiveAvgPool1d,
    AdaptiveAvgPool2d,
    AdaptiveMaxPool1d,
    AdaptiveMaxPool2d,
    AvgPool1d,
    AvgPool2d,
    Conv1d,
    Conv2d,
    Conv3d,
    ConvReLU1d,
    ConvReLU2d,
    ConvTranspose1d,
    ConvTranspose2d,
    MaxPool1d,
    MaxPool2d,
)
from .problem import ConvProblem, PoolProblem

variables.check()
__version__ = _version("fastconv")

__all__ = [
    "AdaptiveAvgPool1d",
    "AdaptiveAvgPool2d",
    "AdaptiveMaxPool1d",
    "AdaptiveMaxPool2d",
    "AvgPool1d",
    "AvgPool2d",
    "Conv1d",
    "Conv2d",
    "Conv3d",
    "ConvProblem",
    "ConvReLU1d",
    "ConvReLU2d",
    "ConvTranspose1d",
    "ConvTranspose2d",
    "ConversionReport",
    "Explanation",
    "FusionReport",
    "LayerReport",
    "MaxPool1d",
    "MaxPool2d",
    "PoolProblem",
    "adaptive_avg_pool1d",
    "adaptive_avg_pool2d",
    "adaptive_max_pool1d",
    "adaptive_max_pool2d",
    "avg_pool1d",
    "avg_pool2d",
    "backend",
    "conv1d",
    "conv2d",
    "conv3d",
    "conv_transpose1d",
    "conv_transpose2d",
    "convert",
    "empty_cache",
    "explain",
    "export_decompositions",
    "fold_batch_norm",
    "functional",
    "fuse",
    "info",
    "max_pool1d",
    "max_pool2d",
    "nn",
    "unconvert",
]
