"""Drop-in modules along three axes, see nn.py; each does what its twin along two axes does."""

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from . import functional
from .layer import Layer


class Conv3d(nn.Conv3d, Layer):
    """torch.nn.Conv3d computed by fastconv.conv3d, which leaves to ATen what torch computes faster;
    arguments, dtypes, errors and the formula of the result's size as in torch.nn.Conv3d.

    Shapes:
        (N, C, D, H, W) -> (N, K, O, P, Q), C and K being channels in and out; or without N.
    """

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        if torch.jit.is_scripting():
            return self._scripted(input, weight, bias)
        padding = self.padding
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return functional.conv3d(
            input,
            weight,
            bias,
            self.stride,  # type: ignore[arg-type]
            padding,  # type: ignore[arg-type]
            self.dilation,  # type: ignore[arg-type]
            self.groups,
        )

    def _scripted(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """torch.nn.Conv3d._conv_forward, which TorchScript cannot call from here."""
        if self.padding_mode != "zeros":
            input = F.pad(input, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            return F.conv3d(input, weight, bias, self.stride, 0, self.dilation, self.groups)
        return F.conv3d(input, weight, bias, self.stride, self.padding, self.dilation, self.groups)
