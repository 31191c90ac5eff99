"""The arguments of a transposed convolution, read as torch reads them."""

from ..geometry import ConvTranspose2dGeometry
from .checks import by, per_axis, raise_unless_positive


def geometry(stride, padding, output_padding, groups, dilation, axes):
    """ConvTranspose2dGeometry; along one axis that of planes of one row. RuntimeError unless
    stride, dilation and groups are positive, the paddings are not negative, and output_padding is
    below stride or dilation."""
    function = _function(axes)
    stride = per_axis("stride", stride, function, axes)
    if isinstance(padding, str):
        raise TypeError(f"{function}(): padding must be an int or a tuple of ints, got {padding!r}")
    padding = per_axis("padding", padding, function, axes)
    output_padding = per_axis("output_padding", output_padding, function, axes)
    dilation = per_axis("dilation", dilation, function, axes)
    raise_unless_positive(stride, padding, dilation, groups, function)
    if min(output_padding) < 0:
        raise RuntimeError(
            f"{function}(): negative output_padding is not supported, got "
            f"output_padding={list(output_padding)}"
        )
    if any(o >= s and o >= d for o, s, d in zip(output_padding, stride, dilation)):
        raise RuntimeError(
            f"{function}(): output padding must be smaller than either stride or dilation, but "
            f"got output_padding={list(output_padding)}, stride={list(stride)}, "
            f"dilation={list(dilation)}"
        )
    if axes == 1:
        stride, padding, dilation = (1, *stride), (0, *padding), (1, *dilation)
        output_padding = (0, *output_padding)
    return ConvTranspose2dGeometry(stride, padding, dilation, groups, output_padding)


def channels(x, w, b, groups):
    """RuntimeError unless channels, filters, groups and bias fit together."""
    size = list(w.shape)
    if w.shape[0] < groups:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be at least {groups} at dimension 0, but "
            f"got weight of size {size} instead"
        )
    if w.shape[0] % groups != 0:
        raise RuntimeError(
            f"Given groups={groups}, expected weight to be divisible by {groups} at dimension 0, "
            f"but got weight of size {size} instead"
        )
    found = x.shape[1 - w.dim()]
    if found != w.shape[0]:
        raise RuntimeError(
            f"Given transposed=1, weight of size {size}, expected input{list(x.shape)} to have "
            f"{w.shape[0]} channels, but got {found} channels instead"
        )
    results = w.shape[1] * groups
    if b is not None and (b.dim() != 1 or b.shape[0] != results):
        raise RuntimeError(
            f"Given transposed=1, weight of size {size}, expected bias to be 1-dimensional with "
            f"{results} elements, but got bias of size {list(b.shape)} instead"
        )


def sizes(x, w, size):
    """RuntimeError unless kernel, input and result, which gets this size, have pixels; an empty
    batch needs none."""
    axes = w.dim() - 2
    if min(w.shape[1:]) <= 0:
        raise RuntimeError(
            f"{_function(axes)}(): weight of size {list(w.shape)} has an empty kernel or no filters"
        )
    if is_empty_batch(x, axes):
        return
    if 0 in x.shape[-axes:]:
        raise RuntimeError(
            "Only zero batch or zero channel inputs are supported, but got input shape: "
            f"{list(x.shape)}"
        )
    pixels = size[-axes:]
    if any(count <= 0 for count in pixels):
        raise RuntimeError(
            f"Given input size per channel: ({by(x.shape[-axes:])}). Calculated output size per "
            f"channel: ({by(pixels)}). Output size is too small"
        )
    if any(count >= 2**63 for count in pixels):
        raise RuntimeError(
            f"{_function(axes)}(): the output size per channel, ({by(pixels)}), does not fit into "
            "64 bits"
        )


def is_empty_batch(x, axes):
    return x.dim() == axes + 2 and x.shape[0] == 0


def _function(axes):
    return f"conv_transpose{axes}d"
