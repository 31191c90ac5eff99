"""Drop-in modules along one axis, see nn.py; each does what its twin along two axes does."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from . import functional
from .fused import FrozenBatchNorm, FusedConv, FusedConvTranspose
from .layer import Layer


class Conv1d(nn.Conv1d, Layer):
    """torch.nn.Conv1d computed by fastconv.conv1d; arguments, dtypes, errors and the formula of Q
    as in torch.nn.Conv1d.

    Shapes:
        (N, C, W) -> (N, K, Q), C and K being in_channels and out_channels; or without N.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.jit.is_scripting():
            return self._scripted(input, weight, bias)
        if self.padding_mode == "zeros":  # without a detour, whose cost would show in small layers
            return functional.conv1d(
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
        """torch.nn.Conv1d._conv_forward, which TorchScript cannot call from here."""
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return F.conv1d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        return F.conv1d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)

    def _convolve(self, input, weight, bias, activation=None, residual=None):
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return functional.conv1d(
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


class ConvReLU1d(Conv1d):
    """relu(conv1d(x) + bias) as one kernel; backward, one pass over dy for mask and bias gradient.

    Arguments, dtypes, errors, state_dict and the formula of Q are torch.nn.Conv1d's: a checkpoint
    of the convolution loads.

    Shapes:
        (N, C, W) -> (N, K, Q), C and K being in_channels and out_channels; or without N.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if not torch.jit.is_scripting():
            return self._convolve(input, weight, bias, activation="relu")
        return F.relu(self._scripted(input, weight, bias))


class ConvTranspose1d(nn.ConvTranspose1d, Layer):
    """torch.nn.ConvTranspose1d computed by fastconv.conv_transpose1d; arguments, dtypes, errors and
    the formula of Q as in torch.nn.ConvTranspose1d.

    Shapes:
        (N, C, W) -> (N, K, Q), C and K being in_channels and out_channels; or without N.
    """

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if self.padding_mode != "zeros":
            raise ValueError("Only `zeros` padding mode is supported for ConvTranspose1d")
        output_padding = self._output_padding(
            input,
            output_size,
            self.stride,  # type: ignore[arg-type]
            self.padding,  # type: ignore[arg-type]
            self.kernel_size,  # type: ignore[arg-type]
            1,
            self.dilation,  # type: ignore[arg-type]
        )
        if not torch.jit.is_scripting():
            return functional.conv_transpose1d(
                input,
                self.weight,
                self.bias,
                self.stride,  # type: ignore[arg-type]
                self.padding,  # type: ignore[arg-type]
                output_padding,  # type: ignore[arg-type]
                self.groups,
                self.dilation,  # type: ignore[arg-type]
            )
        return F.conv_transpose1d(
            input,
            self.weight,
            self.bias,
            self.stride,
            self.padding,  # type: ignore[arg-type]
            output_padding,
            self.groups,
            self.dilation,
        )


class FrozenBatchNorm1d(FrozenBatchNorm, nn.BatchNorm1d, Layer):
    """As FrozenBatchNorm2d, with the arguments, dtypes, errors, state_dict and formula of
    torch.nn.BatchNorm1d.

    Shapes:
        (N, C, W) -> (N, C, W), or without W; scale and shift: (C).
    """

    _frozen_from = nn.BatchNorm1d


class FusedConv1d(FusedConv, Conv1d):
    """As FusedConv2d, along one axis.

    Arguments, dtypes, errors, state_dict and the formula of Q are torch.nn.Conv1d's.

    Shapes:
        (N, C, W) -> (N, K, Q), C and K being in_channels and out_channels; or without N, unless a
        BatchNorm takes part.
    """


class FusedConvTranspose1d(FusedConvTranspose, ConvTranspose1d):  # type: ignore[misc]
    """As FusedConv2d, for a transposed convolution along one axis.

    Arguments, dtypes, errors, state_dict and the formula of Q are torch.nn.ConvTranspose1d's.

    Shapes:
        (N, C, W) -> (N, K, Q), C and K being in_channels and out_channels; or without N, unless a
        BatchNorm takes part.
    """

    _function = staticmethod(functional.conv_transpose1d)


class MaxPool1d(nn.MaxPool1d, Layer):
    """torch.nn.MaxPool1d computed by fastconv.max_pool1d; same arguments, dtypes, results, errors
    and formula of Q.

    Shapes:
        (N, C, W) -> (N, C, Q), with return_indices twice; or without N.
    """

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return functional.max_pool1d(
                input,
                self.kernel_size,
                self.stride,
                self.padding,
                self.dilation,
                self.ceil_mode,
                self.return_indices,
            )
        return F.max_pool1d(  # type: ignore[call-overload]
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )


class AvgPool1d(nn.AvgPool1d, Layer):
    """torch.nn.AvgPool1d computed by fastconv.avg_pool1d; same arguments, dtypes, results, errors
    and formula of Q.

    Shapes:
        (N, C, W) -> (N, C, Q); or without N.
    """

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return functional.avg_pool1d(
                input,
                self.kernel_size,
                self.stride,
                self.padding,
                self.ceil_mode,
                self.count_include_pad,
            )
        return F.avg_pool1d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
        )


class AdaptiveAvgPool1d(nn.AdaptiveAvgPool1d, Layer):
    """torch.nn.AdaptiveAvgPool1d computed by fastconv.adaptive_avg_pool1d; same arguments, dtypes,
    results, errors and formula of the windows.

    Shapes:
        (N, C, W) -> (N, C, Q), Q being output_size; or without N.
    """

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return functional.adaptive_avg_pool1d(input, self.output_size)  # type: ignore[arg-type]
        return F.adaptive_avg_pool1d(input, self.output_size)


class AdaptiveMaxPool1d(nn.AdaptiveMaxPool1d, Layer):
    """torch.nn.AdaptiveMaxPool1d computed by fastconv.adaptive_max_pool1d; same arguments, dtypes,
    results, errors and formula of the windows.

    Shapes:
        (N, C, W) -> (N, C, Q), Q being output_size, with return_indices twice; or without N.
    """

    def forward(self, input: Tensor):
        if not torch.jit.is_scripting():
            return functional.adaptive_max_pool1d(
                input,
                self.output_size,  # type: ignore[arg-type]
                self.return_indices,
            )
        return F.adaptive_max_pool1d(  # type: ignore[call-overload]
            input, self.output_size, self.return_indices
        )
