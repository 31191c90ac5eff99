"""First and second derivatives of a call by a SampleInput of torch's OpInfo."""

import torch


def derivatives(function, sample):
    """(values and gradients of a random functional of them, gradients of one of those)."""
    tensors = [t for t in (sample.input, *sample.args) if isinstance(t, torch.Tensor)]
    results = function(sample.input, *sample.args, **sample.kwargs)
    results = results if isinstance(results, tuple) else (results,)
    torch.manual_seed(0)
    dy = torch.randn_like(results[0]).requires_grad_()
    first = torch.autograd.grad(results[0], tensors, dy, create_graph=True)
    directions = [torch.randn_like(t) for t in first]
    second = torch.autograd.grad(
        first, [*tensors, dy], directions, allow_unused=True, materialize_grads=True
    )
    return (*results, *first), second
