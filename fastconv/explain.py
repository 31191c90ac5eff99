"""fastconv.explain: who ran each convolution and pooling of a call, by which algorithm, and why."""

import torch

from .dispatch import get_backend, recording
from .problem import ConvOp


class Explanation(list):
    """The Decisions of a call, in order; prints as a readable list."""

    def __str__(self):
        if not self:
            return "no fastconv operator was called"
        return "\n".join(line for decision in self for line in _lines(decision))


def _lines(decision):
    where = f"{decision.dtype}".removeprefix("torch.") + f" on {decision.device}"
    if decision.backend is None:
        yield f"{decision.operator} {where}: ATen"
    else:
        problem, plans = get_backend(decision.backend).explain(
            decision.operator, decision.call, decision.dtype, decision.channels_last
        )
        yield f"{decision.operator} {where}: {decision.backend}"
        yield f"  {problem!r}"
        if decision.operator == "conv2d":
            size = decision.dtype.itemsize
            flops, traffic = problem.flops(ConvOp.fprop), problem.bytes(ConvOp.fprop, size)
            yield f"  {flops / 1e9:.3g} GFLOP and at least {traffic / 1e6:.3g} MB each pass"
        for name, (algorithm, reason) in plans.items():
            yield f"  {name}: {algorithm} ({reason})"
    for name, reason in decision.rejected.items():
        yield f"  not {name}: {reason}"


def explain(function, *args, **kwargs):
    """Runs `function(*args, **kwargs)` without gradients and tells which backend and algorithm each
    fastconv operator inside it used, the problem's sizes, FLOPs and bytes, and why others were not.

    Args:
        function: fastconv.conv2d or another function of it, a module, or a whole model.

    Returns:
        Explanation: a list of dispatch.Decision that prints as text.
    """
    with torch.no_grad(), recording() as decisions:
        function(*args, **kwargs)
    return Explanation(decisions)
