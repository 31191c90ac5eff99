"""What is right: torch in float64, and torch's own error in the dtype under test."""

import torch
import torch.nn.functional as F


def conv_passes(problem, x, w, dy):
    """(y, dx, dw) of F.conv2d, computed in the dtype of the arguments."""
    x, w = x.detach().requires_grad_(), w.detach().requires_grad_()
    y = F.conv2d(x, w, None, *problem.geometry)
    dx, dw = torch.autograd.grad(y, (x, w), dy)
    return y.detach(), dx, dw


def assert_exact(actual, expected, what):
    """Bitwise equality of values with a float64 result that the dtype can hold exactly."""
    assert actual.shape == expected.shape, f"{what}: shape {actual.shape}, not {expected.shape}"
    wrong = actual.double() != expected.to(actual.dtype).double()
    if wrong.any():
        first = tuple(wrong.nonzero()[0].tolist())
        raise AssertionError(
            f"{what}: {int(wrong.sum())} of {wrong.numel()} elements differ, the first at {first}: "
            f"{actual[first].item()} instead of {expected[first].item()}"
        )


def conv_magnitudes(problem, x, w, dy):
    """The sums of |products| behind each element of (y, dx, dw), in float64."""
    return conv_passes(problem, x.double().abs(), w.double().abs(), dy.double().abs())


def assert_no_worse_than_torch(actual, torchs, exact, magnitude, what):
    """Elementwise |actual - exact| <= 2 * torch's error + one rounding of the result's dtype + one
    rounding of the accumulator at the size of the sum of |terms|.

    torch's error is its largest over the tensor: at one element it is a matter of luck."""
    assert actual.dtype == torchs.dtype, f"{what}: {actual.dtype}, not {torchs.dtype}"
    assert actual.shape == exact.shape, f"{what}: shape {actual.shape}, not {exact.shape}"
    if actual.numel() == 0:
        return
    # float64 has no wider judge here: `exact` is itself a float64 sum, in another order.
    float64 = actual.dtype == torch.float64
    rounding = 16 * torch.finfo(torch.float64).eps if float64 else torch.finfo(torch.float32).eps
    torch_error = (torchs.double() - exact).abs().max()
    allowed = 2 * torch_error + torch.finfo(actual.dtype).eps * exact.abs() + rounding * magnitude
    error = (actual.double() - exact).abs()
    wrong = ~(error <= allowed)
    assert not wrong.any(), (
        f"{what}: {int(wrong.sum())} elements off, by up to {error[wrong].max().item():.3e}, where "
        f"torch's largest error is {torch_error.item():.3e}"
    )
