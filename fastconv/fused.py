"""What the layers that fastconv.fuse makes have in common, along one axis and two: a convolution
and what follows it as one call, and BatchNorms whose statistics are constants."""

from collections.abc import Callable, Iterable

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from .activations import by_torch
from .fusion.fold_batch_norm import scale_and_shift, scaled_filters
from .problem import conv_out_size, conv_transpose_out_size


class InEvaluation(nn.Module):
    """A module that stays in evaluation mode when the network is set to training; its submodules
    follow the network."""

    def train(self, mode: bool = True):
        super().train(mode)
        self.training = False
        return self


class FrozenBatchNorm(InEvaluation):
    """The call of a BatchNorm with constant statistics; its class has those of torch's."""

    def forward(self, input: Tensor | None = None):
        constants = self.running_mean, self.running_var, self.weight, self.bias
        if input is None:
            return scale_and_shift(*constants, self.eps)
        return F.batch_norm(input, *constants, eps=self.eps)


class Fused(nn.modules.conv._ConvNd):
    """The call of a convolution with what follows it; its class has _convolve and _out_pixels."""

    _convolve: Callable[..., Tensor]
    _out_pixels: Callable[[Tensor], Iterable[int]]
    norm_is_folded = False  # whether a BatchNorm is part of weight and bias

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
            input: (N, C, H, W) or (N, C, W); where no BatchNorm takes part also without N.
            residual: what is added, broadcast and promoted as torch adds it; or None.
            norm: (scale, shift), each (K): the convolution's result times scale, plus shift. They
                are multiplied into the filters and the bias, with gradients; or None.
            activation: a name as in fastconv.conv2d, or None.
            in_place: the residual is added as by `+=`: the sum keeps the convolution's dtype.

        Returns:
            As fastconv.conv2d, conv1d, conv_transpose2d and conv_transpose1d.

        Raises:
            ValueError, along one axis RuntimeError: a BatchNorm takes part and input has no N.
        """
        weight, bias = self.weight, self.bias
        if norm is not None or self.norm_is_folded:
            self._refuse_unbatched(input)
        if norm is not None:
            scale, shift = norm
            weight = scaled_filters(self, scale).to(weight.dtype)
            bias = (shift if bias is None else bias * scale + shift).to(weight.dtype)
        if residual is None or self._is_like_output(residual, input):
            return self._convolve(input, weight, bias, activation, residual)
        y = self._convolve(input, weight, bias)
        y = y.add_(residual) if in_place else y + residual
        return y if activation is None else by_torch(activation, y)

    def _refuse_unbatched(self, input):
        """A BatchNorm takes the first axis of its input for the batch and the second one for the
        channels: of an unbatched result the filters, and the rows of pixels. torch's chain raises,
        but for BatchNorm1d of a result with as many pixels as filters."""
        if input.dim() == self.weight.dim() - 1:
            error = RuntimeError if input.dim() == 2 else ValueError
            raise error(
                f"expected {self.weight.dim()}D input (got {input.dim()}D input): the BatchNorm "
                f"that fastconv.fuse has put into this {type(self).__name__} takes batches alone"
            )

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
        batch = input.shape[: 1 - self.weight.dim()]
        size = (*batch, self.out_channels, *self._out_pixels(input))
        return residual.dtype == dtype and tuple(residual.shape) == size


class FusedConv(Fused):
    """_out_pixels of a convolution."""

    def _out_pixels(self, input):
        # torch keeps the padding in pixels here, also where it was given as "same": that of each
        # side, the last axis first.
        sides = self._reversed_padding_repeated_twice
        pads = [sum(sides[i : i + 2]) for i in range(0, len(sides), 2)][::-1]
        axes = zip(input.shape[-len(pads) :], pads, self.kernel_size, self.stride, self.dilation)
        return (
            conv_out_size(size + pad, kernel, stride, 0, dilation)
            for size, pad, kernel, stride, dilation in axes
        )


class FusedConvTranspose(Fused):
    """A transposed convolution's; its class has the _function that computes it."""

    _function: Callable[..., Tensor]

    def _out_pixels(self, input):
        settings = self.kernel_size, self.stride, self.padding, self.dilation, self.output_padding
        sizes = input.shape[-len(self.kernel_size) :]
        return (conv_transpose_out_size(*axis) for axis in zip(sizes, *settings))

    def _convolve(self, input, weight, bias, activation=None, residual=None):
        settings = self.stride, self.padding, self.output_padding, self.groups, self.dilation
        epilogue = {"activation": activation, "residual": residual}
        return self._function(input, weight, bias, *settings, **epilogue)
