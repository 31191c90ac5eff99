"""vmap by folding: a batch dimension becomes part of an axis the operator treats independently."""


def fold(tensor, dim, size, axis):
    """Moves batch dimension `dim` (None: expanded) of length `size` before `axis` and merges it."""
    if tensor is None:
        return None
    if dim is None:
        tensor, dim = tensor.unsqueeze(0).expand(size, *tensor.shape), 0
    return tensor.movedim(dim, axis).flatten(axis, axis + 1)


def unfold(tensor, size, axis):
    """Splits the batch dimension off again; it then stands at `axis`."""
    return tensor.unflatten(axis, (size, tensor.shape[axis] // size))
