"""One derivative formula, two users: the autograd.Function that eager code runs (with forward-mode
AD, and without torch.library's overhead), and the torch.library op that compilers see."""

import inspect

import torch

from ..dispatch import is_inference, runs_eagerly


def differentiable(op, *, setup_context, backward, jvp, vmap):
    """A callable that runs `op` and can be differentiated.

    Args:
        op: ops.library.Op.
        setup_context(ctx, inputs, output), backward(ctx, *grads), vmap(info, in_dims, *inputs): as
            in torch.autograd.Function; they call differentiable callables themselves, which is
            where double backward comes from.
        jvp(ctx, *tangents): the same, forward mode; eager only.
    """

    function = type(
        op.name,
        (torch.autograd.Function,),
        {
            "forward": staticmethod(op.run),
            "setup_context": staticmethod(setup_context),
            "backward": staticmethod(backward),
            "jvp": staticmethod(jvp),
            "vmap": staticmethod(vmap),
        },
    )
    torch.library.register_autograd(op.overload._name, backward, setup_context=setup_context)
    torch.library.register_vmap(op.overload._name, vmap)

    # Function.apply asks for it in every call; inspecting takes longer than a small convolution.
    function.forward.__signature__ = inspect.signature(op.run)

    def call(*args):
        tensors = [arg for arg in args if isinstance(arg, torch.Tensor)]
        if not runs_eagerly(*tensors):
            return op.overload(*args)
        return op.run(*args) if is_inference(*tensors) else function.apply(*args)

    call.__name__ = op.name
    return call


def save(ctx, *tensors):
    """Keeps tensors for backward and jvp; gradients that nobody computed stay None."""
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
