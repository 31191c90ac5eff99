"""triton_kernels/README.md, "Adding a kernel": its template, added by the recipe, is run by the
tests of all algorithms; a place of the recipe that is left out is named."""

import re
from pathlib import Path

import pytest
from copied_tree import CopiedTree, Insertion
from devices import needs_triton

from fastconv._native import core

TEMPLATE = Path(__file__).parent / "template" / "conv2d_fprop_toy.py"
ENTRIES = """
    ("toy", "fprop"): "conv2d_fprop_toy",
    ("toy", "dgrad"): "conv2d_gather_direct",
    ("toy", "wgrad"): "conv2d_wgrad_direct",
"""
# Each place of the recipe, and what is said where it is left out.
PLACES = {
    Insertion(
        "triton_kernels/conv2d_fprop_toy.py", "", TEMPLATE.read_text()
    ): "No module named .*conv2d_fprop_toy",
    Insertion("triton_kernels/plan.py", "_KERNELS = {\n", ENTRIES): r"KeyError: \('toy', 'fprop'\)",
    Insertion(
        "fastconv/backends/triton/conv2d.py", 'ALGORITHMS = ("direct", ', '"toy", '
    ): "backend must be None or one of .* got 'triton:toy'",
}
CALL = """
import torch, fastconv
x, w, b = torch.randn(2, 4, 5, 6), torch.randn(6, 2, 3, 3), torch.randn(6)
call = dict(padding=1, groups=2, activation="silu")
y = fastconv.conv2d(x, w, b, backend="triton:toy", **call)
torch.testing.assert_close(y, fastconv.conv2d(x, w, b, backend="reference", **call))
"""
pytestmark = needs_triton


@pytest.fixture(scope="module")
def tree(tmp_path_factory, request):
    """Python alone changes, so that the installed core will do."""
    if not request.config.getoption("--exhaustive"):
        pytest.skip("runs tests of a copy of the tree: --exhaustive tries it")
    tree = CopiedTree(tmp_path_factory.mktemp("triton"))
    (tree.root / "fastconv" / Path(core.__file__).name).symlink_to(core.__file__)
    return tree


def test_the_recipe_is_complete(tree):
    tree.follow(PLACES)
    status, output = tree.python(CALL)
    assert status == 0, output
    tests = "tests/conv2d/test_conv2d_kernels.py", "-k", "triton and toy and exactly"
    status, output = tree.pytest(*tests)
    assert status == 0 and " passed" in output, output


@pytest.mark.parametrize("place", PLACES, ids=str)
def test_a_place_left_out_is_named(tree, place):
    tree.follow([one for one in PLACES if one is not place])
    status, output = tree.python(CALL)
    assert status != 0 and re.search(PLACES[place], output), output
