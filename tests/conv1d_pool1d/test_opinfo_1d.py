"""PyTorch's own samples and error inputs for convolutions and pools along one axis: values,
gradients and second gradients."""

import pytest
import torch
from sample_derivatives import derivatives

import fastconv

pytest.importorskip("expecttest")
methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
POOLS = ("max_pool1d", "avg_pool1d", "adaptive_avg_pool1d", "adaptive_max_pool1d")
OPINFOS = {
    name: next(op for op in methods.op_db if op.name == f"nn.functional.{name}")
    for name in ("conv1d", "conv_transpose1d", *POOLS)
}
parametrize_names = pytest.mark.parametrize("name", OPINFOS)


@parametrize_names
def test_every_sample(name, strict):
    samples = list(OPINFOS[name].sample_inputs("cpu", torch.float64, requires_grad=True))
    assert len(samples) >= 6
    for sample in samples:
        got, expected = (
            derivatives(f, sample) for f in (getattr(fastconv, name), OPINFOS[name].op)
        )
        torch.testing.assert_close(got[0], expected[0], check_stride=True)
        torch.testing.assert_close(got[1], expected[1])


@parametrize_names
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_every_sample_in_other_dtypes(name, dtype, strict):
    for sample in OPINFOS[name].sample_inputs("cpu", dtype):
        arguments = (sample.input, *sample.args)
        torch.testing.assert_close(
            getattr(fastconv, name)(*arguments, **sample.kwargs),
            OPINFOS[name].op(*arguments, **sample.kwargs),
            check_stride=True,
        )


@pytest.mark.parametrize("name", ["conv1d", *POOLS])  # conv_transpose1d has none
def test_every_error_input_raises_torchs_error(name):
    errors = list(OPINFOS[name].error_inputs("cpu"))
    assert len(errors) >= 2
    for error in errors:
        sample = error.sample_input
        # torch speaks of a tensor here; ours names the argument.
        regex = "output_size" if name == "adaptive_max_pool1d" else error.error_regex
        with pytest.raises(error.error_type, match=regex):
            getattr(fastconv, name)(sample.input, *sample.args, **sample.kwargs)
