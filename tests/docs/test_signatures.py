"""Signatures can be seen: by help(), by editors and by type checkers, through every wrapper."""

import ast
import inspect
import pydoc
import re
from pathlib import Path

import pytest
from test_docs import public

import fastconv
from fastconv._native import core
from fastconv.autograd import conv2d, epilogue, pool2d

FUNCTIONS = {name: value for name, value in public() if inspect.isfunction(value)}
CLASSES = {
    name: value
    for name, value in public()
    if inspect.isclass(value) and type(value).__name__ != "pybind11_type"
}
# The callables that autograd/function.py makes of operators.
DIFFERENTIABLE = {
    name: getattr(module, name)
    for module, names in (
        (conv2d, ("fprop", "dgrad", "wgrad", "conv_transpose")),
        (epilogue, ("bias_grad", "epilogue_backward", "activation_forward")),
        (pool2d, ("max_fwd", "max_bwd", "avg_fwd", "avg_bwd")),
    )
    for name in names
}


def bare(function):
    """The names of the parameters that have no annotation."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.annotation is p.empty and p.name != "self"]


@pytest.mark.parametrize("name", [*FUNCTIONS, *DIFFERENTIABLE])
def test_parameters_and_results_are_annotated(name):
    function = (FUNCTIONS | DIFFERENTIABLE)[name]
    assert bare(function) == []
    assert inspect.signature(function).return_annotation is not inspect.Signature.empty


@pytest.mark.parametrize("name", CLASSES)
def test_parameters_of_methods_are_annotated(name):
    own = vars(CLASSES[name])
    methods = {"forward", "_conv_forward", "__init__"} & own.keys()
    assert [name for method in methods for name in bare(own[method])] == []


def test_help_shows_them():
    text = pydoc.plain(pydoc.render_doc(fastconv.conv2d))
    assert "weight: torch.Tensor" in text and "-> torch.Tensor" in text


def _stubs():
    """{class: its constructor's parameters in the stub}."""
    stub = Path(fastconv.__file__).with_name("_core.pyi")
    for node in ast.parse(stub.read_text()).body:
        for method in getattr(node, "body", ()):
            if getattr(method, "name", "") == "__init__":
                yield node.name, [parameter.arg for parameter in method.args.kwonlyargs]


@pytest.mark.parametrize("name, parameters", list(_stubs()))
def test_the_stub_of_the_core_is_true(name, parameters):
    native = getattr(core, name)
    assert parameters == re.findall(r"(\w+): ", native.__init__.__doc__.splitlines()[0])[1:]
