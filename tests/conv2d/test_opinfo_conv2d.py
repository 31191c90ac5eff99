"""PyTorch's own samples and error inputs for conv2d and conv_transpose2d: values, gradients and
second gradients."""

import pytest
import torch
from sample_derivatives import derivatives

import fastconv

pytest.importorskip("expecttest")
methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
OPINFOS = {
    name: next(op for op in methods.op_db if op.name == f"nn.functional.{name}")
    for name in ("conv2d", "conv_transpose2d")
}
SAMPLES = {"conv2d": 20, "conv_transpose2d": 12}  # at least


@pytest.mark.parametrize("name", OPINFOS)
def test_every_sample(name, strict):
    samples = list(OPINFOS[name].sample_inputs("cpu", torch.float64, requires_grad=True))
    assert len(samples) >= SAMPLES[name]
    for sample in samples:
        functions = getattr(fastconv, name), OPINFOS[name].op
        got, expected = (derivatives(f, sample) for f in functions)
        torch.testing.assert_close(got, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", OPINFOS)
def test_every_sample_in_other_dtypes(name, dtype, strict):
    """Against float64: torch's transposed convolution sums float16 in float16."""
    for sample in OPINFOS[name].sample_inputs("cpu", dtype):
        exact = sample.transform(lambda t: t.double() if isinstance(t, torch.Tensor) else t)
        expected = OPINFOS[name].op(exact.input, *exact.args, **exact.kwargs)
        got = getattr(fastconv, name)(sample.input, *sample.args, **sample.kwargs)
        torch.testing.assert_close(got, expected.to(dtype))


@pytest.mark.parametrize("name", OPINFOS)
def test_integers_and_complex_go_to_aten(name):
    for dtype in (torch.int64, torch.complex64):
        for sample in OPINFOS[name].sample_inputs("cpu", dtype):
            torch.testing.assert_close(
                getattr(fastconv, name)(sample.input, *sample.args, **sample.kwargs),
                OPINFOS[name].op(sample.input, *sample.args, **sample.kwargs),
            )


def test_every_error_input_raises_torchs_error():
    errors = list(OPINFOS["conv2d"].error_inputs("cpu"))  # conv_transpose2d has none
    assert len(errors) >= 9
    for error in errors:
        sample = error.sample_input
        with pytest.raises(error.error_type, match=error.error_regex):
            fastconv.conv2d(sample.input, *sample.args, **sample.kwargs)
