"""The arguments of a transposed convolution, read as torch reads them."""

from ..geometry import ConvTranspose2dGeometry
from .checks import per_axis, raise_unless_positive

_FUNCTION = "conv_transpose2d"


def geometry(stride, padding, output_padding, groups, dilation):
    """ConvTranspose2dGeometry. RuntimeError unless stride, dilation and groups are positive, the
    paddings are not negative, and output_padding is below stride or dilation."""
    stride = per_axis("stride", stride, _FUNCTION, 2)
    if isinstance(padding, str):
        raise TypeError(
            f"{_FUNCTION}(): padding must be an int or a tuple of ints, got {padding!r}"
        )
    padding = per_axis("padding", padding, _FUNCTION, 2)
    output_padding = per_axis("output_padding", output_padding, _FUNCTION, 2)
    dilation = per_axis("dilation", dilation, _FUNCTION, 2)
    raise_unless_positive(stride, padding, dilation, groups, _FUNCTION)
    if min(output_padding) < 0:
        raise RuntimeError(
            f"{_FUNCTION}(): negative output_padding is not supported, got "
            f"output_padding={list(output_padding)}"
        )
    if any(o >= s and o >= d for o, s, d in zip(output_padding, stride, dilation)):
        raise RuntimeError(
            f"{_FUNCTION}(): output padding must be smaller than either stride or dilation, but "
            f"got output_padding={list(output_padding)}, stride={list(stride)}, "
            f"dilation={list(dilation)}"
        )
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
    if x.shape[-3] != w.shape[0]:
        raise RuntimeError(
            f"Given transposed=1, weight of size {size}, expected input{list(x.shape)} to have "
            f"{w.shape[0]} channels, but got {x.shape[-3]} channels instead"
        )
    results = w.shape[1] * groups
    if b is not None and (b.dim() != 1 or b.shape[0] != results):
        raise RuntimeError(
            f"Given transposed=1, weight of size {size}, expected bias to be 1-dimensional with "
            f"{results} elements, but got bias of size {list(b.shape)} instead"
        )


def sizes(x, w, geometry):
    """RuntimeError unless kernel, input and result have pixels; an empty batch needs none."""
    if min(w.shape[1:]) <= 0:
        raise RuntimeError(
            f"{_FUNCTION}(): weight of size {list(w.shape)} has an empty kernel or no filters"
        )
    if is_empty_batch(x):
        return
    if 0 in x.shape[-2:]:
        raise RuntimeError(
            "Only zero batch or zero channel inputs are supported, but got input shape: "
            f"{list(x.shape)}"
        )
    P, Q = geometry.out_size(x.shape, w.shape)[-2:]
    if P <= 0 or Q <= 0:
        raise RuntimeError(
            f"Given input size per channel: ({x.shape[-2]} x {x.shape[-1]}). Calculated output "
            f"size per channel: ({P} x {Q}). Output size is too small"
        )
    if P >= 2**63 or Q >= 2**63:
        raise RuntimeError(
            f"{_FUNCTION}(): the output size per channel, ({P} x {Q}), does not fit into 64 bits"
        )


def is_empty_batch(x):
    return x.dim() == 4 and x.shape[0] == 0
