"""PyTorch's own samples and error inputs for conv2d: values, gradients and second gradients."""

import pytest
import torch

import fastconv

pytest.importorskip("expecttest")
methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
OPINFO = next(op for op in methods.op_db if op.name == "nn.functional.conv2d")


def derivatives(function, sample):
    """Value, gradients of a random functional of it, gradients of a random functional of those."""
    tensors = [t for t in (sample.input, *sample.args) if isinstance(t, torch.Tensor)]
    y = function(sample.input, *sample.args, **sample.kwargs)
    torch.manual_seed(0)
    dy = torch.randn_like(y).requires_grad_()
    first = torch.autograd.grad(y, tensors, dy, create_graph=True)
    directions = [torch.randn_like(t) for t in first]
    second = torch.autograd.grad(first, [*tensors, dy], directions, allow_unused=True)
    return y, *first, *second


def test_every_sample(strict):
    samples = list(OPINFO.sample_inputs("cpu", torch.float64, requires_grad=True))
    assert len(samples) >= 20
    for sample in samples:
        got, expected = (derivatives(f, sample) for f in (fastconv.conv2d, OPINFO.op))
        for a, e in zip(got, expected):
            if e is not None and a is None:
                a = torch.zeros_like(e)  # torch spells some zero gradients out
            torch.testing.assert_close(a, e)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_every_sample_in_other_dtypes(dtype, strict):
    for sample in OPINFO.sample_inputs("cpu", dtype):
        torch.testing.assert_close(
            fastconv.conv2d(sample.input, *sample.args, **sample.kwargs),
            OPINFO.op(sample.input, *sample.args, **sample.kwargs),
        )


def test_integers_and_complex_go_to_aten():
    for dtype in (torch.int64, torch.complex64):
        for sample in OPINFO.sample_inputs("cpu", dtype):
            torch.testing.assert_close(
                fastconv.conv2d(sample.input, *sample.args, **sample.kwargs),
                OPINFO.op(sample.input, *sample.args, **sample.kwargs),
            )


def test_every_error_input_raises_torchs_error():
    errors = list(OPINFO.error_inputs("cpu"))
    assert len(errors) >= 9
    for error in errors:
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            fastconv.conv2d(sample.input, *sample.args, **sample.kwargs)
