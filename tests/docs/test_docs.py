"""Every public name has a docstring that says what a caller needs: arguments, shapes, units,
dtypes, errors, and whose formula a size follows."""

import ast
import dataclasses
import inspect
import re
import textwrap

import pytest
import torch

import fastconv

# Arguments that are counted in pixels, or along one axis in positions.
PIXELS = {"kernel_size", "stride", "padding", "dilation"}
# How a function checks its arguments, besides raising by itself.
CHECKS = {"checks", "checks_pool", "checks_conv_transpose", "get_backend"}


def axes_of(value):
    """ "1d", "2d" or "3d": along how many axes a function or layer works, as its name says."""
    suffix = value.__name__[-2:]
    return suffix if suffix in ("1d", "3d") else "2d"


def has_shape(value, text):
    more = {"1d": r"", "2d": r", \w+", "3d": r", \w+, \w+"}[axes_of(value)]
    return re.search(rf"\(N, \w+, \w+{more}\)", text) is not None


def public():
    """(name, object) of all that fastconv, fastconv.functional and fastconv.nn offer, once each."""
    values = {name: getattr(fastconv, name) for name in fastconv.__all__}
    found = {id(value): (name, value) for name, value in values.items()}
    for module in (fastconv.functional, fastconv.nn):
        for name, value in vars(module).items():
            own = getattr(value, "__module__", "").startswith(module.__name__)
            if own and not name.startswith("_"):
                found.setdefault(id(value), (f"{module.__name__}.{name}", value))
    return sorted(found.values(), key=lambda pair: pair[0])


def test_help_begins_with_all_public_names():
    _, _, text = fastconv.__doc__.partition("Networks ")
    table, _, _ = text.partition("\n\n")
    assert set(fastconv.__all__) <= set(re.findall(r"\w+", table))


def sections(docstring):
    """{"": what comes first, "Args": ..., "Raises": ...}; a heading is a word and a colon."""
    first, *others = re.split(r"^(\w+):\n", inspect.cleandoc(docstring) + "\n", flags=re.MULTILINE)
    return {"": first, **dict(zip(others[::2], others[1::2]))}


def arguments(docstring):
    """{name: text} of the section Args; several names may share a text."""
    text = textwrap.dedent(sections(docstring).get("Args", ""))
    entries = re.split(r"^(\w+(?:, \w+)*):", text, flags=re.MULTILINE)[1:]
    return {
        name: entry
        for names, entry in zip(entries[::2], entries[1::2])
        for name in names.split(", ")
    }


def faults_of_arguments(function, docstring):
    """Parameters and the section Args must be the same; *args need only be named somewhere."""
    parameters = [p for p in inspect.signature(function).parameters.values() if p.name != "self"]
    several = {p.name for p in parameters if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    single = {p.name for p in parameters} - several
    described = arguments(docstring)
    yield from (f"Args lacks {name}" for name in single - described.keys())
    yield from (f"there is no argument {name}" for name in described.keys() - single - several)
    yield from (f"{name} is not named" for name in several if not named(name, docstring))


def faults_of_results_and_errors(function, docstring):
    nodes = list(ast.walk(ast.parse(textwrap.dedent(inspect.getsource(inspect.unwrap(function))))))
    found = sections(docstring)
    if any(isinstance(node, ast.Return) and node.value is not None for node in nodes):
        if "Returns" not in found:
            yield "no section Returns"
    raised = {
        ast.unparse(getattr(node.exc, "func", node.exc)).rpartition(".")[2]
        for node in nodes
        if isinstance(node, ast.Raise) and node.exc is not None
    }
    checked = CHECKS & {getattr(node, "id", getattr(node, "attr", None)) for node in nodes}
    if (raised or checked) and "Raises" not in found:
        yield "no section Raises"
    yield from (f"Raises lacks {name}" for name in raised if name not in found.get("Raises", ""))


def faults_of_operator(function, docstring):
    """What the docstring of a function of tensors lacks of what only such a function must say."""
    described, returned = arguments(docstring), sections(docstring).get("Returns", "")
    for name, text in (("input", described.get("input", "")), ("result", returned)):
        if not has_shape(function, text):
            yield f"no shape of the {name}"
    sizes = PIXELS & described.keys()
    yield from (
        f"{name} has no unit" for name in sizes if not re.search("pixel|position", described[name])
    )
    if "dtype" not in docstring:
        yield "nothing about dtypes"
    if f"torch.nn.functional.{function.__name__}" not in docstring:
        yield "does not say whose function it is"
    if not re.search(rf"torch\.nn\.[A-Z]\w+{axes_of(function)}", returned):
        yield "does not say whose formula the sizes follow"


def faults_of_function(function):
    docstring = function.__doc__
    yield from faults_of_arguments(function, docstring)
    yield from faults_of_results_and_errors(function, docstring)
    if "input" in inspect.signature(function).parameters:
        yield from faults_of_operator(function, docstring)


def faults_of_module(cls):
    """What a layer's docstring lacks. One with the constructor of torch's layer refers to that; one
    with a constructor of its own says everything itself."""
    docstring = cls.__doc__
    if not has_shape(cls, sections(docstring).get("Shapes", "")):
        yield "no section Shapes"
    theirs = next(base for base in cls.__mro__ if base.__module__.startswith("torch.nn."))
    if cls.__init__ is not theirs.__init__:
        yield from faults_of_arguments(cls.__init__, docstring)
        yield from faults_of_results_and_errors(cls.__init__, docstring)
    elif f"torch.nn.{theirs.__name__}" not in docstring:
        yield "does not say whose constructor it has"
    for word, section in {"arguments": "Args", "errors": "Raises"}.items():
        if word not in docstring.lower() and section not in sections(docstring):
            yield f"nothing about {word}"
    for word in ("dtypes", "formula"):
        if word not in docstring:
            yield f"nothing about {word}"


def faults_of_native_class(cls):
    docstring = cls.__doc__
    constructor = set(re.findall(r"(\w+): ", cls.__init__.__doc__.splitlines()[0])) - {"self"}
    described = arguments(docstring)
    yield from (f"Args lacks {name}" for name in constructor - described.keys())
    yield from (f"there is no argument {name}" for name in described.keys() - constructor)
    if "Raises" not in sections(docstring):
        yield "no section Raises"
    if "pixels" not in docstring or not re.search(r"as in torch\.nn\.\w+2d", docstring):
        yield "no unit, or no word of whose formula P and Q follow"
    for name in (name for name in dir(cls) if not name.startswith("_")):
        # pybind11 begins a method's docstring with its signature.
        own = re.sub(rf"^{name}\(.*\n", "", getattr(cls, name).__doc__ or "")
        if not own.strip() and not named(name, docstring):
            yield f"nothing about {name}"


def faults_of_class(cls):
    docstring = cls.__doc__
    if "__init__" in vars(cls) and not dataclasses.is_dataclass(cls):
        yield from faults_of_arguments(cls.__init__, docstring)
        yield from faults_of_results_and_errors(cls.__init__, docstring)
    if dataclasses.is_dataclass(cls):
        names = [field.name for field in dataclasses.fields(cls)]
        yield from (f"nothing about {name}" for name in names if not named(name, docstring))


def named(name, docstring):
    return re.search(rf"\b{name}\b", docstring) is not None


def faults(value):
    """What a public object's docstring lacks, as a list of words."""
    if not (value.__doc__ or "").strip():
        return ["no docstring"]
    if inspect.isfunction(value):
        return list(faults_of_function(value))
    if not inspect.isclass(value):
        return []
    methods = [m for name, m in vars(value).items() if inspect.isfunction(m) and name[0] != "_"]
    undocumented = [f"{m.__name__} has no docstring" for m in methods if not _inherited(value, m)]
    if issubclass(value, torch.nn.Module):
        return [*undocumented, *faults_of_module(value)]
    if type(value).__name__ == "pybind11_type":
        return list(faults_of_native_class(value))
    return [*undocumented, *faults_of_class(value)]


def _inherited(cls, method):
    return inspect.getdoc(getattr(cls, method.__name__))


@pytest.mark.parametrize("value", [pytest.param(value, id=name) for name, value in public()])
def test_docstrings(value):
    assert faults(value) == []


def test_all_that_is_public_is_looked_at():
    names = {name for name, _ in public()}
    assert names >= set(fastconv.__all__) and names >= {"conv2d", "Conv2d", "ConvProblem", "nn"}
    assert not names & {"torch", "F", "checks"}


# What the rules find


def _operator(input, stride):
    """Args:
    input: a tensor.
    padding: an int.
    """
    if stride < 1:
        raise ValueError(stride)
    return input


def _caller(*args):
    """Raises:
    TypeError: at times.
    """
    raise RuntimeError


class _Context:
    """A block."""

    def __init__(self, name):
        fastconv.dispatch.get_backend(name)

    def close(self):
        pass


class _Layer(torch.nn.Conv2d):
    """A layer, with its arguments and errors."""


class _LayerOfItsOwn(torch.nn.Conv2d):
    """dtypes, errors, formula as in torch.nn.Conv2d.

    Shapes:
        (N, C, H, W).
    """

    def __init__(self, channels):
        super().__init__(channels, channels, 1)


@dataclasses.dataclass
class _Row:
    """A name."""

    name: str
    size: int


@pytest.mark.parametrize(
    "value, expected",
    [
        (
            _operator,
            {
                *("Args lacks stride", "there is no argument padding", "padding has no unit"),
                *("no section Returns", "no section Raises", "Raises lacks ValueError"),
                *("no shape of the input", "no shape of the result", "nothing about dtypes"),
                "does not say whose function it is",
                "does not say whose formula the sizes follow",
            },
        ),
        (_caller, {"args is not named", "Raises lacks RuntimeError"}),
        (_Context, {"close has no docstring", "Args lacks name", "no section Raises"}),
        (
            _Layer,
            {
                *("no section Shapes", "does not say whose constructor it has"),
                *("nothing about dtypes", "nothing about formula"),
            },
        ),
        (_LayerOfItsOwn, {"Args lacks channels", "nothing about arguments"}),
        (_Row, {"nothing about size"}),
        (lambda x: x, {"no docstring"}),
    ],
)
def test_each_rule_finds_what_breaks_it(value, expected):
    assert set(faults(value)) == expected


def test_the_rules_for_native_classes_find_what_breaks_them():
    """This one is not public: its docstring is a line."""
    found = faults(fastconv._native.core.AdaptivePoolProblem)
    assert {"Args lacks N", "no section Raises"} <= set(found) and "nothing about P" not in found
    assert any("no unit" in fault for fault in found)
