"""A result is right where its largest elementwise error is at most twice torch's own, and what the
order of a sum may cost.

Both errors are differences from float64: torch's operator on the same inputs, exactly widened.
Where results are float64 too, this reference rounds as they do, and its rounding is allowed for.
"""

from dataclasses import dataclass, replace

import torch

from ..cases.operators import PER_SAMPLE, make_call, theirs

# Samples that the float64 reference takes at a time: torch's float64 convolution unfolds its whole
# input, R*S times its size.
CHUNK = {"cpu": 1, "cuda": 8}
# What two float64 sums of the same terms in different orders may differ by: roundings at the size
# of the sum of the terms' magnitudes.
ROUNDINGS = 16
# What two float32 sums may: the tests of the kernels allow as much (tests/oracles.py).
ROUNDINGS_OF_FLOAT32 = 1


@dataclass(frozen=True)
class Verdict:
    """Largest absolute errors, in units of the largest exact value."""

    error: float
    torch_error: float
    wrong: str | None  # what is wrong, None where nothing is


def exact_result(case, inputs):
    """The pass's result in float64, from torch's operator; indices as they are."""
    exact = [tensor.detach().double() for tensor in inputs.tensors]
    chunk = CHUNK[exact[0].device.type]
    parts = []
    for begin in range(0, len(exact[0]), chunk):
        samples = slice(begin, begin + chunk)
        tensors = [t[samples] if i in PER_SAMPLE else t for i, t in enumerate(exact)]
        dy = None if inputs.dy is None else inputs.dy[samples].double()
        if dy is not None:
            wanted = next(i for i, t in enumerate(inputs.tensors) if t.requires_grad)
            tensors[wanted] = tensors[wanted].detach().requires_grad_()
        parts.append(make_call(theirs(case), type(inputs)(tuple(tensors), dy))())
    if case.pass_ in ("wgrad", "bgrad"):  # a sum over samples
        return torch.stack(parts).sum(0)
    if isinstance(parts[0], tuple):
        return tuple(map(torch.cat, zip(*parts)))
    return torch.cat(parts)


def rounding_of_sums(case, inputs):
    """What the order of a float32 or float64 sum may cost: absolute, at the size of the largest sum
    of magnitudes. 0 for 16 bits, whose results round more than their sums."""
    dtype = inputs.tensors[0].dtype
    if dtype.itemsize == 2:
        return 0.0
    dy = None if inputs.dy is None else inputs.dy.abs()
    magnitudes = exact_result(case, replace(inputs, tensors=_magnitudes(inputs.tensors), dy=dy))
    largest = magnitudes[0] if isinstance(magnitudes, tuple) else magnitudes
    roundings = ROUNDINGS if dtype == torch.float64 else ROUNDINGS_OF_FLOAT32
    return roundings * torch.finfo(dtype).eps * largest.abs().max().item()


def _magnitudes(tensors):
    return tuple(t.detach().abs().requires_grad_(t.requires_grad) for t in tensors)


def judge(result, torch_result, exact, rounding=lambda: 0.0):
    """The Verdict on a result, by its largest elementwise error against float64.

    A norm would forgive a few wrong border elements, where convolutions go wrong. Half a
    unit in the last place of the largest value is allowed on top of torch's error: rounding the
    exact result costs as much, and torch's error may be 0. Indices, the second of a pair, must be
    torch's.

    Args:
        rounding: () -> what the order of a sum may cost (rounding_of_sums); asked for only where a
            result would be wrong without it.
    """
    if isinstance(exact, tuple):
        return _judge_pair(result, torch_result, exact, rounding)
    scale = max(exact.abs().max().item(), torch.finfo(torch.float64).tiny)
    if result.shape != exact.shape or result.dtype != torch_result.dtype:
        got, want = (f"{tuple(t.shape)} {t.dtype}" for t in (result, torch_result))
        return Verdict(float("nan"), float("nan"), f"got {got}, expected {want}")
    error = (result.double() - exact).abs().max().item() / scale
    torch_error = (torch_result.double() - exact).abs().max().item() / scale
    bound = 2 * torch_error + torch.finfo(result.dtype).eps / 2
    if error > bound:
        bound += rounding() / scale
    if error <= bound:  # false for NaN
        return Verdict(error, torch_error, None)
    return Verdict(error, torch_error, f"error {error:.1e} of the largest value, bound {bound:.1e}")


def _judge_pair(result, torch_result, exact, rounding):
    if not isinstance(result, tuple) or len(result) != len(exact):
        return Verdict(float("nan"), float("nan"), f"got no pair but {type(result).__name__}")
    verdict = judge(result[0], torch_result[0], exact[0], rounding)
    if verdict.wrong is None and not torch.equal(result[1], torch_result[1]):
        return replace(verdict, wrong="the indices are not torch's")
    return verdict
