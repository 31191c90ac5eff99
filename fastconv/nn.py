"""Drop-in modules: subclasses of torch.nn's with the same constructors, state_dicts, initial
weights and attributes. A convolution overrides _conv_forward alone, which keeps pruning,
quantisation, fusion and parametrisation tools working."""

import torch.nn as nn
import torch.nn.functional as F

from . import functional


class Conv2d(nn.Conv2d):
    """torch.nn.Conv2d computed by fastconv.conv2d.

    Shapes: (N, C_in, H, W) -> (N, C_out, P, Q), or unbatched; arguments, errors and the formula of
    P and Q as in torch.nn.Conv2d.
    """

    def _conv_forward(self, input, weight, bias):
        return self._convolve(input, weight, bias)

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

    Constructor and state_dict are torch.nn.Conv2d's: a checkpoint of the convolution loads.
    """

    def _conv_forward(self, input, weight, bias):
        return self._convolve(input, weight, bias, activation="relu")


class MaxPool2d(nn.MaxPool2d):
    """torch.nn.MaxPool2d computed by fastconv.max_pool2d; same arguments, results and errors."""

    def forward(self, input):
        return functional.max_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.dilation,
            ceil_mode=self.ceil_mode,
            return_indices=self.return_indices,
        )


class AvgPool2d(nn.AvgPool2d):
    """torch.nn.AvgPool2d computed by fastconv.avg_pool2d; same arguments, results and errors."""

    def forward(self, input):
        return functional.avg_pool2d(
            input,
            self.kernel_size,
            self.stride,
            self.padding,
            self.ceil_mode,
            self.count_include_pad,
            self.divisor_override,
        )


class AdaptiveAvgPool2d(nn.AdaptiveAvgPool2d):
    """torch.nn.AdaptiveAvgPool2d computed by fastconv.adaptive_avg_pool2d."""

    def forward(self, input):
        return functional.adaptive_avg_pool2d(input, self.output_size)


class AdaptiveMaxPool2d(nn.AdaptiveMaxPool2d):
    """torch.nn.AdaptiveMaxPool2d computed by fastconv.adaptive_max_pool2d."""

    def forward(self, input):
        return functional.adaptive_max_pool2d(input, self.output_size, self.return_indices)
