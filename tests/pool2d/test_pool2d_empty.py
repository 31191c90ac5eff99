"""Gradients of pooling to nothing: torch's errors, where only the batch may be empty."""

import pytest
import torch
import torch.nn.functional as F

import fastconv

POOLS = ("adaptive_avg_pool2d", "adaptive_max_pool2d")


def gradient(module, pool, x, size):
    x = x.clone().requires_grad_()
    y = getattr(module, pool)(x, size)
    return torch.autograd.grad(y, x, torch.ones_like(y))[0]


@pytest.mark.parametrize("shape", [(2, 3, 4, 5), (0, 3, 4, 5), (3, 4, 5)], ids=str)
@pytest.mark.parametrize("size", [0, (0, 2), (2, 0), 2], ids=str)
@pytest.mark.parametrize("pool", POOLS)
def test_an_output_of_nothing_has_no_gradient(pool, size, shape, strict):
    x = torch.randn(shape)
    if size == 2:
        expected = gradient(F, pool, x, size)
        torch.testing.assert_close(gradient(fastconv, pool, x, size), expected)
        return
    for module in (F, fastconv):
        assert (
            getattr(module, pool)(x, size).shape[-2:] == F.adaptive_avg_pool2d(x, size).shape[-2:]
        )
        with pytest.raises(RuntimeError, match=f"{pool}_backward.*non-zero size.*being empty"):
            gradient(module, pool, x, size)


def test_no_channels():
    x = torch.randn(2, 0, 4, 5)
    for module in (F, fastconv):
        with pytest.raises(RuntimeError, match=r"adaptive_avg_pool2d_backward.*being empty"):
            gradient(module, "adaptive_avg_pool2d", x, 2)


@pytest.mark.filterwarnings("ignore:Error detected in")  # where AOT autograd traced the forward
@pytest.mark.parametrize("pool", POOLS)
def test_compiled_and_by_functional_transforms(pool):
    x = torch.randn(2, 3, 4, 5)

    def summed(x):
        return getattr(fastconv, pool)(x, (2, 0)).sum()

    with pytest.raises(RuntimeError, match="being empty"):
        torch.func.grad(summed)(x)
    with pytest.raises(RuntimeError, match="being empty"):
        torch.compile(summed, backend="aot_eager")(x.requires_grad_()).backward()
