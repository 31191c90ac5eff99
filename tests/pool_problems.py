"""The named windows and layouts every pooling kernel is tried on."""

import math

import torch

# The reason to try it: (kernel_size, stride, padding, dilation, ceil_mode).
WINDOWS = {
    "resnet": (3, 2, 1, 1, False),
    "vgg": (2, 2, 0, 1, False),
    "overlapping": (3, 1, 1, 1, False),
    "gaps_between_windows": (2, (3, 4), 0, 1, False),
    "ceil": (3, 2, 1, 1, True),
    "ceil_last_window_dropped": (2, 5, 1, 1, True),
    "kernel_beyond_input": ((21, 3), 2, (10, 1), 1, False),
    "one_window_for_the_plane": ((11, 13), 1, 0, 1, False),
    "dilated": ((2, 3), (2, 1), 1, (3, 2), False),
    "rectangular": ((1, 5), (2, 3), (0, 2), 1, True),
}


def _sliced(x):
    """Between NaNs, which no kernel may read."""
    within = x.new_full((2, 9, 13, 27), math.nan)
    return within[:, 2 : 2 + x.shape[1], 1:12, 1::2].copy_(x)


LAYOUTS = {
    "nchw": lambda x: x,
    "nhwc": lambda x: x.to(memory_format=torch.channels_last),
    "transposed": lambda x: x.mT.contiguous().mT,
    "sliced": _sliced,
    "expanded": lambda x: x[:, :1, :, :1].expand_as(x),
    "offset": lambda x: torch.cat([x.flatten(), x.flatten()])[3:][: x.numel()].view(x.shape),
}
