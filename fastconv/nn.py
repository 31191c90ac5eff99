"""Drop-in modules: subclasses of torch.nn's with the same constructors, state_dicts, initial
weights and attributes. A convolution overrides _conv_forward alone, which keeps pruning and
parametrisation tools working. torch.jit.script compiles torch's own functions in place of
fastconv's."""

from collections.abc import Callable, Iterable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from . import functional
from .activations import by_torch
from .fusion.fold_batch_norm import scale_and_shift, scaled_filters
from .geometry import ConvTranspose2dGeometry
from .layer import Layer
from .nn1d import AdaptiveAvgPool1d as AdaptiveAvgPool1d
from .nn1d import AdaptiveMaxPool1d as AdaptiveMaxPool1d
from .nn1d import AvgPool1d as AvgPool1d
from .nn1d import Conv1d as Conv1d
from .nn1d import ConvReLU1d as ConvReLU1d
from .nn1d import MaxPool1d as MaxPool1d
from .nn3d import Conv3d as Conv3d
from .problem import conv_out_size


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


class _InEvaluation(nn.Module):
    """A module that stays in evaluation mode when the network is set to training; its submodules
    follow the network."""

    def train(self, mode: bool = True):
        super().train(mode)
        self.training = False
        return self


class FrozenBatchNorm2d(_InEvaluation, nn.BatchNorm2d, Layer):
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

    def forward(self, input: Tensor | None = None):
        constants = self.running_mean, self.running_var, self.weight, self.bias
        if input is None:
            return scale_and_shift(*constants, self.eps)
        return F.batch_norm(input, *constants, eps=self.eps)


class _Fused(nn.modules.conv._ConvNd):
    """The call of a convolution with what follows it; its class has _convolve and _out_plane."""

    _convolve: Callable[..., Tensor]
    _out_plane: Callable[[Tensor], Iterable[int]]

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        norm: tuple[Tensor, Tensor] | None = None,
        activation: str | None = None,
        in_place: bool = False,
    ) -> Tensor:
        """Convolves, normalises, adds and activates.

        Args:
            input: (N, C, H, W) or unbatched (C, H, W).
            residual: what is added, broadcast and promoted as torch adds it; or None.
            norm: (scale, shift), each (K): the convolution's result times scale, plus shift. They
                are multiplied into the filters and the bias, with gradients; or None.
            activation: a name as in fastconv.conv2d, or None.
            in_place: the residual is added as by `+=`: the sum keeps the convolution's dtype.

        Returns:
            (N, K, P, Q) or unbatched (K, P, Q), see fastconv.conv2d and conv_transpose2d.
        """
        weight, bias = self.weight, self.bias
        if norm is not None:
            scale, shift = norm
            weight = scaled_filters(self, scale).to(weight.dtype)
            bias = (shift if bias is None else bias * scale + shift).to(weight.dtype)
        if residual is None or self._is_like_output(residual, input):
            return self._convolve(input, weight, bias, activation, residual)
        y = self._convolve(input, weight, bias)
        y = y.add_(residual) if in_place else y + residual
        return y if activation is None else by_torch(activation, y)

    def _is_like_output(self, residual, input):
        """Whether a residual has the result's size and dtype, so that the kernel can add it."""
        if torch.jit.is_tracing():
            return False  # a comparison of sizes would be recorded as a constant
        if not isinstance(residual, torch.Tensor) or residual.dim() != input.dim():
            return False
        dtype, device = input.dtype, input.device.type
        casts = device in ("cpu", "cuda") and torch.is_autocast_enabled(device)
        if casts and dtype != torch.float64:
            dtype = torch.get_autocast_dtype(device)
        size = (*input.shape[:-3], self.out_channels, *self._out_plane(input))
        return residual.dtype == dtype and tuple(residual.shape) == size


class FusedConv2d(_Fused, Conv2d):
    """A convolution that also computes what follows it, in one kernel: activation(norm(conv2d(x) +
    bias) + residual). fastconv.fuse puts it into networks; called with x alone it is a Conv2d.

    Arguments, dtypes, errors, state_dict and the formula of P and Q are torch.nn.Conv2d's.

    Shapes:
        (N, C, H, W) -> (N, K, P, Q), C and K being in_channels and out_channels; or without N.
    """

    def _out_plane(self, input):
        # torch keeps the padding in pixels here, also where it was given as "same".
        left, right, top, bottom = self._reversed_padding_repeated_twice
        pads = (top + bottom, left + right)
        return (
            conv_out_size(
                input.shape[i - 2] + pads[i],
                self.kernel_size[i],
                self.stride[i],
                0,
                self.dilation[i],
            )
            for i in range(2)
        )


class FusedConvTranspose2d(_Fused, ConvTranspose2d):  # type: ignore[misc]
    """As FusedConv2d, for a transposed convolution.

    Arguments, dtypes, errors, state_dict and the formula of P and Q are torch.nn.ConvTranspose2d's.

    Shapes:
        (N, C, H, W) -> (N, K, P, Q), C and K being in_channels and out_channels; or without N.
    """

    def _geometry(self):
        pairs = self.stride, self.padding, self.dilation
        return ConvTranspose2dGeometry(*pairs, self.groups, self.output_padding)

    def _out_plane(self, input):
        return self._geometry().out_size(input.shape, self.weight.shape)[-2:]

    def _convolve(self, input, weight, bias, activation=None, residual=None):
        stride, padding, dilation, groups, output_padding = self._geometry()
        return functional.conv_transpose2d(
            *(input, weight, bias, stride, padding, output_padding, groups, dilation),
            activation=activation,
            residual=residual,
        )


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
