"""Each derivative formula has two users: the autograd.Function that eager code calls, without the
dispatcher's overhead, and the torch.library op for compilers, dispatch modes and torch.func."""

import functools
import inspect
from collections.abc import Callable

import torch
from torch._functorch.utils import enable_single_level_autograd_function
from torch.autograd.forward_ad import _set_fwd_grad_enabled

from ..dispatch import is_inference, runs_eagerly
from ..ops.library import Arguments, Op, Result, library
from .folding import with_empty_batches


def differentiable(
    op: Op[Arguments, Result], *, setup_context, backward, jvp, vmap
) -> Callable[Arguments, Result]:
    """A callable with the parameters of op.run that can be differentiated.

    Args:
        op: ops.library.Op.
        setup_context(ctx, inputs, output), backward(ctx, *grads), jvp(ctx, *tangents),
            vmap(info, in_dims, *inputs): as in torch.autograd.Function, in_dims being those of the
            tensors; they call differentiable callables themselves, which is where double backward
            comes from.
    """
    register_rules(op, setup_context=setup_context, backward=backward, jvp=jvp, vmap=vmap)
    function = _function(op.name, op.run, setup_context, backward, jvp)
    # Function.apply asks for the signature in every call; without this attribute it would be worked
    # out anew, which takes longer than a small convolution.
    function.forward.__signature__ = inspect.signature(op.run)

    @functools.wraps(op.run)
    def call(*args):  # no keywords: they would cost time
        tensors = args[: op.tensor_count]
        if not runs_eagerly(*tensors):
            return op.dispatch(*args)
        return op.run(*args) if is_inference(*tensors) else function.apply(*args)

    return call


def register_rules(op, *, setup_context, backward, jvp, vmap):
    """Tells the dispatcher the derivatives and the vmap of an op; arguments as in differentiable.

    torch.library.register_autograd would not do: it takes no jvp and fails under torch.func."""

    def forward(*args_and_modes):
        # Derivatives are switched off while an autograd.Function's forward runs. The transforms of
        # torch.func that are left, to which the op goes next, need them as they were.
        *args, grad_mode, forward_mode = args_and_modes
        with (
            torch._C._AutoDispatchBelowAutograd(),
            torch.set_grad_enabled(grad_mode),
            _set_fwd_grad_enabled(forward_mode),
        ):
            return op.dispatch(*args)

    function = _function(
        op.name,
        forward,
        lambda ctx, inputs, output: setup_context(ctx, inputs[:-2], output),
        lambda ctx, *grads: (*backward(ctx, *grads), None, None),
        lambda ctx, *tangents: jvp(ctx, *tangents[:-2]),
    )
    # Under nested transforms of torch.func the dispatcher calls this once for each of them, and
    # each call is to handle one. Function.apply would start again with all of them; its base
    # class's apply does not.
    apply = super(torch.autograd.Function, function).apply

    @op.schema.adapt
    def differentiate(*args):
        with enable_single_level_autograd_function():
            return apply(*args, torch.is_grad_enabled(), torch._C._is_fwd_grad_enabled())

    def batched(info, in_dims, *args):
        return vmap(info, in_dims[: op.tensor_count], *op.schema.packed(args))

    library.impl(op.name, differentiate, "Autograd")
    torch.library.register_vmap(op.overload._name, with_empty_batches(batched))


def _function(name, forward, setup_context, backward, jvp):
    rules = dict(forward=forward, setup_context=setup_context, backward=backward, jvp=jvp)
    rules = {rule: staticmethod(formula) for rule, formula in rules.items()}
    return type(name, (torch.autograd.Function,), rules)


def save(ctx, *tensors):
    """Keeps tensors for backward and jvp; backward gets None, not zeros, for a result that has no
    gradient."""
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(*tensors)
    ctx.save_for_forward(*tensors)
