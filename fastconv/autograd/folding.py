"""vmap by folding: the batch dimension is merged into an axis along which the operator computes
every element by itself, images or groups, and is split off the result again."""

import functools

import torch


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


def with_empty_batches(rule):
    """A vmap rule that folds, made to work for a batch of length 0. An axis of length 0 does not
    tell what to split off again, and a convolution cannot have 0 groups: the rule gets a batch of
    one, filled with zeros, and its result is cut to length 0."""

    @functools.wraps(rule)
    def call(info, in_dims, *args):
        if info.batch_size != 0:
            return rule(info, in_dims, *args)
        args = [_append_zeros(arg, dim) for arg, dim in zip(args, in_dims)]
        results, out_dims = rule(info._replace(batch_size=1), in_dims, *args)
        if isinstance(results, torch.Tensor):
            return results.narrow(out_dims, 0, 0), out_dims
        return tuple(y.narrow(dim, 0, 0) for y, dim in zip(results, out_dims)), out_dims

    return call


def _append_zeros(arg, dim):
    if not isinstance(arg, torch.Tensor) or dim is None:
        return arg
    size = list(arg.shape)
    size[dim] = 1
    return torch.cat((arg, arg.new_zeros(size)), dim)
