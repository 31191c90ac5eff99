"""Fixtures of the tests of prepared calls (fastconv/prepared.py). They import fastconv when they
run: tests/conftest.py first decides which CUDA module it has."""

import sys

import pytest

# Module of fastconv.functional -> what it does with calls that were not met before.
LONG_ROADS = {
    "conv1d": ("_conv1d",),
    "conv2d": ("_conv2d",),
    "conv_transpose1d": ("_conv_transpose1d",),
    "conv_transpose2d": ("_conv_transpose2d",),
    "pool1d": ("_max_pool1d", "_avg_pool1d", "_adaptive_max_pool1d", "_adaptive_avg_pool1d"),
    "pool2d": ("_max_pool2d", "_avg_pool2d", "_adaptive_max_pool2d", "_adaptive_avg_pool2d"),
}


@pytest.fixture(params=["as torch has it", "older torch"], scope="module")
def torch_functions(request):
    """Older versions of torch have neither DLPack's exchange nor the compiler's allocation."""
    from fastconv import prepared

    older = {"exchange": None, "empty_strided": prepared._empty_strided}
    prepared.core.connect_torch(prepared.TORCH | (older if "older" in request.param else {}))
    yield
    prepared.core.connect_torch(prepared.TORCH)


@pytest.fixture
def long_calls(monkeypatch):
    """The operators of the calls that took the long road."""
    taken = []

    def watched(name, function):
        def call(*args, **kwargs):
            taken.append(name)
            return function(*args, **kwargs)

        return call

    for module_name, names in LONG_ROADS.items():
        # Not an attribute of the package: there it is the function.
        module = sys.modules[f"fastconv.functional.{module_name}"]
        for name in names:
            monkeypatch.setattr(module, name, watched(name, getattr(module, name)))
    return taken
