"""Drop-in modules: subclasses of torch.nn's with the same constructors, state_dicts, initial
weights and attributes. A convolution overrides _conv_forward alone, which keeps pruning and
parametrisation tools working. torch.jit.script compiles torch's own functions in place of
fastconv's."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from . import functional
from .fused import FrozenBatchNorm, FusedConv, FusedConvTranspose
from .layer import Layer
from .nn1d import AdaptiveAvgPool1d as AdaptiveAvgPool1d
from .nn1d import AdaptiveMaxPool1d as AdaptiveMaxPool1d
from .nn1d import AvgPool1d as AvgPool1d
from .nn1d import Conv1d as Conv1d
from .nn1d import ConvReLU1d as ConvReLU1d
from .nn1d import ConvTranspose1d as ConvTranspose1d
from .nn1d import FrozenBatchNorm1d as FrozenBatchNorm1d
from .nn1d import FusedConv1d as FusedConv1d
from .nn1d import FusedConvTranspose1d as FusedConvTranspose1d
from .nn1d import MaxPool1d as MaxPool1d
from .nn3d import Conv3d as Conv3d


class Conv2d(nn.Conv2d, Layer):
    """torch.nn.Conv2d computed by fastconv.conv2d; arguments, dtypes, errors and the formula of P
    and Q as in torch.nn.Conv2d.

    Shapes:
        (N, C, H, W) -> (N, K, P, Q), C and K being in_channels and out_channels; or without N.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.jit.is_scripting():
            return self._scripted(input, weight, bias)
        if self.padding_mode == "zeros":  # without a detour, whose cost would show in small layers
            return functional.conv2d(
                input,
                weight,
                bias,
                self.stride,  # type: ignore[arg-type]
                self.padding,  # type: ignore[arg-type]
                self.dilation,  # type: ignore[arg-type]
                self.groups,
            )
        return self._convolve(input, weight, bias)

    def _scripted(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """torch.nn.Conv2d._conv_forward, which TorchScript cannot call from here."""
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return F.conv2d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        return F.conv2d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def _convolve(self, input, weight, bias, activation=None, residual=None):
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return functional.conv2d(
            input,
            weight,
            bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            activation=activation,
            residual=residual,
        )


class ConvReLU2d(Conv2d):
    """relu(conv2d(x) + bias) as one kernel; backward, one pass over dy for mask and bias gradient.

    Arguments, dtypes, errors, state_dict and the formula of P and Q are torch.nn.Conv2d's: a
    checkpoint of the convolution loads.

    Shapes:
        (N, C, H, W) -> (N, K, P, Q), C and K being in_channels and out_channels; or without N.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not torch.jit.is_scripting():
            return self._convolve(input, weight, bias, activation="relu")
        return F.relu(self._scripted(input, weight, bias))


class ConvTranspose2d(nn.ConvTranspose2d, Layer):
    """torch.nn.ConvTranspose2d computed by fastconv.conv_transpose2d; arguments, dtypes, errors and
    the formula of P and Q as in torch.nn.ConvTranspose2d.

    Shapes:
        (N, C, H, W) -> (N, K, P, Q), C and K being in_channels and out_channels; or without N.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for ConvTranspose2d")
        output_padding = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            2,
            self.dilation,  # type: ignore[arg-type]
        )
        if not torch.jit.is_scripting():
            return functional.conv_transpose2d(
                input,
                self.weight,
                self.bias,
                self.stride,  # type: ignore[arg-type]
                self.padding,  # type: ignore[arg-type]
                output_padding,  # type: ignore[arg-type]
                self.groups,
                self.dilation,  # type: ignore[arg-type]
            )
        return F.conv_transpose2d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            output_padding,
            self.groups,
            self.dilation,
        )


class FrozenBatchNorm2d(FrozenBatchNorm, nn.BatchNorm2d, Layer):
    """A BatchNorm that treats its running statistics as constants, in training mode too: scale * x
    + shift. Called without x it returns (scale, shift), which FusedConv2d multiplies into its
    filters.

    Arguments, dtypes, errors and state_dict are torch.nn.BatchNorm2d's, as is the formula in eval
    mode (Ioffe and Szegedy 2015, algorithm 2):

        scale = weight / sqrt(running_var + eps), shift = bias - running_mean * scale

    Gradients reach weight and bias; no buffer changes.

    Shapes:
        (N, C, H, W) -> (N, C, H, W); scale and shift: (C).
    """

    _frozen_from = nn.BatchNorm2d


class FusedConv2d(FusedConv, Conv2d):
    """A convolution that also computes what follows it, in one kernel: activation(norm(conv2d(x) +
    bias) + residual). fastconv.fuse puts it into networks; called with x alone it is a Conv2d.

    Arguments, dtypes, errors, state_dict and the formula of P and Q are torch.nn.Conv2d's.

    Shapes:
        (N, C, H, W) -> (N, K, P, Q), C and K being in_channels and out_channels; or without N.
    """


class FusedConvTranspose2d(FusedConvTranspose, ConvTranspose2d):  # type: ignore[misc]
    """As FusedConv2d, for a transposed convolution.

    Arguments, dtypes, errors, state_dict and the formula of P and Q are torch.nn.ConvTranspose2d's.

    Shapes:
        (N, C, H, W) -> (N, K, P, Q), C and K being in_channels and out_channels; or without N.
    """

    _function = staticmethod(functional.conv_transpose2d)


class MaxPool2d(nn.MaxPool2d, Layer):
    """torch.nn.MaxPool2d computed by fastconv.max_pool2d; same arguments, dtypes, results, errors
    and formula of P and Q.

    Shapes:
        (N, C, H, W) -> (N, C, P, Q), with return_indices twice; or without N.
    """

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return functional.max_pool2d(
                input,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                self.ceil_mode,
                self.return_indices,
            )
        return F.max_pool2d(  # type: ignore[call-overload]
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )


class AvgPool2d(nn.AvgPool2d, Layer):
    """torch.nn.AvgPool2d computed by fastconv.avg_pool2d; same arguments, dtypes, results, errors
    and formula of P and Q.

    Shapes:
        (N, C, H, W) -> (N, C, P, Q); or without N.
    """

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return functional.avg_pool2d(
                input,
                self.kernel_size,
                self.stride,
                self.padding,
                self.ceil_mode,
                self.count_include_pad,
                self.divisor_override,
            )
        return F.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d, Layer):
    """torch.nn.AdaptiveAvgPool2d computed by fastconv.adaptive_avg_pool2d; same arguments, dtypes,
    results, errors and formula of the windows.

    Shapes:
        (N, C, H, W) -> (N, C, P, Q), (P, Q) being output_size; or without N.
    """

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return functional.adaptive_avg_pool2d(input, self.output_size)  # type: ignore[arg-type]
        return F.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveMaxPool2d(nn.AdaptiveMaxPool2d, Layer):
    """torch.nn.AdaptiveMaxPool2d computed by fastconv.adaptive_max_pool2d; same arguments, dtypes,
    results, errors and formula of the windows.

    Shapes:
        (N, C, H, W) -> (N, C, P, Q), (P, Q) being output_size, with return_indices twice; or
        without N.
    """

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return functional.adaptive_max_pool2d(
                input,
                self.output_size,  # type: ignore[arg-type]
                self.return_indices,
            )
        return F.adaptive_max_pool2d(  # type: ignore[call-overload]
            input, self.output_size, self.return_indices
        )
