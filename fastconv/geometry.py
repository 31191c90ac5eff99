"""How the taps of a convolution, or the windows of a pooling, lie over the input's planes: what a
call says besides its tensors. Sizes may be symbolic (torch.compile, export).

To all that follows on the checks of arguments, the operators along one axis are calls on planes of
one row: (N, C, W) is seen as (N, C, 1, W)."""

from typing import NamedTuple

import torch

from .problem import conv_out_size, conv_transpose_out_size, pool_out_size, suggests_channels_last

Pair = tuple[int, int]  # (vertical, horizontal), in pixels
Triple = tuple[int, int, int]  # (depth, vertical, horizontal), in pixels


class Conv2dGeometry(NamedTuple):
    stride: Pair
    padding: Pair  # on each side
    dilation: Pair
    groups: int

    def out_plane(self, x_size, w_size):
        """(P, Q) for x of size (..., H, W) and w of size (..., R, S); not clamped at 0."""
        return tuple(
            conv_out_size(
                x_size[i - 2], w_size[i - 2], self.stride[i], self.padding[i], self.dilation[i]
            )
            for i in range(2)
        )


class Conv3dGeometry(NamedTuple):
    stride: Triple
    padding: Triple  # on each side
    dilation: Triple
    groups: int

    def plane(self):
        """The geometry of the rows and columns."""
        return Conv2dGeometry(*(values[1:] for values in self[:3]), self.groups)

    def out_volume(self, x_size, w_size):
        """(O, P, Q) for x of size (..., D, H, W) and w of size (..., T, R, S); not clamped at 0."""
        values = zip(x_size[-3:], w_size[-3:], self.stride, self.padding, self.dilation)
        return tuple(conv_out_size(*axis) for axis in values)


class ConvTranspose2dGeometry(NamedTuple):
    stride: Pair
    padding: Pair  # on each side of the convolution's input, which is the result here
    dilation: Pair
    groups: int
    output_padding: Pair  # what the result has more at the bottom and right; in an op below stride

    def convolution(self):
        """That of the convolution whose dgrad this is."""
        return Conv2dGeometry(*self[:4])

    def out_size(self, x_size, w_size):
        """The result's size for x of size (..., C, H, W) and w of size (C, K/groups, R, S), as in
        torch.nn.ConvTranspose2d; not clamped at 0."""
        plane = (
            conv_transpose_out_size(
                x_size[i - 2],
                w_size[i - 2],
                self.stride[i],
                self.padding[i],
                self.dilation[i],
                self.output_padding[i],
            )
            for i in range(2)
        )
        return (*x_size[:-3], w_size[1] * self.groups, *plane)


class Pool2dWindows(NamedTuple):
    """Plain pooling has all but output_size, which is (); adaptive pooling has output_size alone,
    and () for the pairs."""

    kernel_size: Pair | tuple[()]
    stride: Pair | tuple[()]
    padding: Pair | tuple[()]
    dilation: Pair | tuple[()]
    ceil_mode: bool
    output_size: Pair | tuple[()]

    def out_plane(self, x_size):
        """(P, Q) for x of size (..., H, W); not clamped at 0."""
        if len(self.output_size) == 2:
            return tuple(self.output_size)
        return tuple(
            pool_out_size(
                x_size[i - 2],
                self.kernel_size[i],
                self.stride[i],
                self.padding[i],
                self.dilation[i],
                self.ceil_mode,
            )
            for i in range(2)
        )


def to_planes(tensor, axes):
    """A tensor of an operator along so many axes as planes, without a copy. None, and a tensor
    without strides, which no kernel takes, as they are."""
    if axes == 2 or tensor is None or tensor.layout != torch.strided:
        return tensor
    return tensor.unsqueeze(-2)


def image_to_planes(x, axes):
    """to_planes for a convolution's input. The result of conv2d is channels_last if x is; along one
    axis torch asks the weight alone. So the stride of H, which has one position, is here such that
    x is never channels_last."""
    x4 = to_planes(x, axes)
    if axes == 2 or x4.dim() < 4 or not suggests_channels_last(x4):
        return x4
    return x.unsqueeze(-1).transpose(-1, -2)


def from_planes(tensor, axes):
    """to_planes undone."""
    return tensor if axes == 2 or tensor is None else tensor.squeeze(-2)
