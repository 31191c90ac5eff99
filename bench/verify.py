"""A result is right where its error is at most twice torch's own, element by element.

Both are measured against float64: torch's operator on the same inputs, exactly widened.
"""

from dataclasses import dataclass

import torch

from .operators import make_call, theirs

# Samples that the float64 reference takes at a time: torch's float64 convolution unfolds its whole
# input, R*S times its size.
CHUNK = {"cpu": 1, "cuda": 8}


@dataclass(frozen=True)
class Verdict:
    """Largest absolute errors, in units of the largest exact value."""

    error: float
    torch_error: float
    wrong: str | None  # what is wrong, None where nothing is


def exact_result(case, inputs):
    """The pass's result in float64, from torch's operator."""
    x, *parameters = (tensor.detach().double() for tensor in inputs.tensors)
    chunk = CHUNK[x.device.type]
    dys = [None] * len(x.split(chunk)) if inputs.dy is None else inputs.dy.double().split(chunk)
    parts = []
    for x_part, dy_part in zip(x.split(chunk), dys, strict=True):
        tensors = [x_part, *parameters]
        if dy_part is not None:
            wanted = next(i for i, t in enumerate(inputs.tensors) if t.requires_grad)
            tensors[wanted] = tensors[wanted].detach().requires_grad_()
        parts.append(make_call(theirs(case), type(inputs)(tuple(tensors), dy_part))())
    if case.pass_ == "wgrad":  # a sum over samples
        return torch.stack(parts).sum(0)
    return torch.cat(parts)


def judge(result, torch_result, exact):
    """The Verdict on a result, by elementwise comparison with float64.

    A global measure would forgive a few wrong border elements, where convolutions go wrong. Half a
    unit in the last place of the largest value is allowed on top of torch's error: rounding the
    exact result costs as much, and torch's error may be 0.
    """
    scale = max(exact.abs().max().item(), torch.finfo(torch.float64).tiny)
    if result.shape != exact.shape or result.dtype != torch_result.dtype:
        got, want = (f"{tuple(t.shape)} {t.dtype}" for t in (result, torch_result))
        return Verdict(float("nan"), float("nan"), f"got {got}, expected {want}")
    error = (result.double() - exact).abs().max().item() / scale
    torch_error = (torch_result.double() - exact).abs().max().item() / scale
    bound = 2 * torch_error + torch.finfo(result.dtype).eps / 2
    if error <= bound:  # false for NaN
        return Verdict(error, torch_error, None)
    return Verdict(error, torch_error, f"error {error:.1e} of the largest value, bound {bound:.1e}")
