"""PyTorch's own constructor arguments and inputs of every module that fastconv.convert swaps: what
torch tests of its modules, of fastconv's."""

import contextlib
import copy
import io

import pytest
import torch

import fastconv
from fastconv.convert import CONVERTED_TYPES

pytest.importorskip("expecttest")
common = pytest.importorskip("torch.testing._internal.common_modules")
INFOS = {info.module_cls: info for info in common.module_db}
parametrize_kinds = pytest.mark.parametrize("kind", CONVERTED_TYPES, ids=lambda kind: kind.__name__)


def inputs(kind, training=True, **options):
    """torch's ModuleInputs for a class."""
    options = {"device": "cpu", "dtype": torch.float64, "requires_grad": True, **options}
    info = INFOS[kind]
    found = info.module_inputs_func(info, training=training, **options)
    assert len(found) >= 2
    return found


def built(kind, sample, **options):
    torch.manual_seed(3)
    arguments = sample.constructor_input
    return kind(*arguments.args, **arguments.kwargs, **options)


def call(layer, sample):
    """The first of the layer's results, and all of them."""
    arguments = sample.forward_input
    results = layer(*arguments.args, **arguments.kwargs)
    return (results if isinstance(results, tuple) else (results,))[0], results


def derivatives(layer, sample):
    """(results, gradients of a random functional of the first, gradients of one of those)."""
    tensors = [*sample.forward_input.args, *layer.parameters()]
    y, results = call(layer, sample)
    torch.manual_seed(0)
    dy = torch.randn_like(y).requires_grad_()
    first = torch.autograd.grad(y, tensors, dy, create_graph=True)
    directions = [torch.randn_like(t) for t in first]
    second = torch.autograd.grad(
        first, [*tensors, dy], directions, allow_unused=True, materialize_grads=True
    )
    return results, first, second


@pytest.mark.parametrize("training", [True, False])
@parametrize_kinds
def test_results_and_derivatives_are_torchs(kind, training, strict):
    for sample in inputs(kind, training):
        ours = built(CONVERTED_TYPES[kind], sample, **factory(kind)).train(training)
        torchs = built(kind, sample, **factory(kind)).train(training)
        assert repr(ours) == f"fastconv.{torchs!r}"
        torchs.load_state_dict(ours.state_dict())
        with by_ours(kind):
            got = derivatives(ours, sample)
        expected = derivatives(torchs, sample)
        torch.testing.assert_close(got[:2], expected[:2], check_stride=True)
        torch.testing.assert_close(got[2], expected[2])
        if sample.reference_fn is not None:
            with by_ours(kind):
                y = sample.reference_fn(ours, *sample.forward_input.args)
            torch.testing.assert_close(got[0], y)


def by_ours(kind):
    """By itself conv3d leaves calls as small as these to torch."""
    return fastconv.backend("cpu") if kind is torch.nn.Conv3d else contextlib.nullcontext()


def factory(kind):
    """The keywords that make a module's parameters float64; a pool has none."""
    return {"dtype": torch.float64} if "Conv" in kind.__name__ else {}


@pytest.mark.gradcheck
@parametrize_kinds
def test_finite_differences(kind):
    for sample in inputs(kind):
        layer = built(CONVERTED_TYPES[kind], sample, **factory(kind))
        tensors = (*sample.forward_input.args, *layer.parameters())

        def function(*_, layer=layer, sample=sample):
            return call(layer, sample)[0]

        for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
            assert check(function, tensors, fast_mode=True)


@parametrize_kinds
def test_copies_compute_the_same(kind):
    for sample in inputs(kind, requires_grad=False):
        layer, file = built(CONVERTED_TYPES[kind], sample, **factory(kind)), io.BytesIO()
        torch.save(layer, file)
        file.seek(0)
        for other in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
            assert type(other) is type(layer)
            torch.testing.assert_close(call(other, sample), call(layer, sample), rtol=0, atol=0)


@pytest.mark.parametrize("kind", [kind for kind in CONVERTED_TYPES if "Conv" in kind.__name__])
def test_parameters_are_made_where_and_as_asked(kind):
    for sample in inputs(kind):
        layer = built(CONVERTED_TYPES[kind], sample, device="meta", dtype=torch.float16)
        for parameter in layer.parameters():
            assert (parameter.device.type, parameter.dtype) == ("meta", torch.float16)


@pytest.mark.parametrize("kind", [k for k in CONVERTED_TYPES if INFOS[k].module_error_inputs_func])
def test_error_inputs(kind):
    info = INFOS[kind]
    options = {"device": "cpu", "dtype": torch.float64, "requires_grad": False, "training": True}
    for error in info.module_error_inputs_func(info, **options):
        sample = error.module_error_input
        # Of an input with other dimensions torch says what is expected, ours also what was given.
        regex = error.error_regex.removeprefix("non-empty ").removesuffix(" expected for input")
        with pytest.raises(error.error_type, match=regex):
            call(built(CONVERTED_TYPES[kind], sample), sample)


def test_every_class_has_inputs():
    assert INFOS.keys() >= CONVERTED_TYPES.keys()
    assert set(CONVERTED_TYPES.values()) <= {getattr(fastconv, n) for n in fastconv.__all__}
