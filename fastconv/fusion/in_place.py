"""Which nodes of a graph may change a tensor that they are given."""

import operator

import torch

from .kinds import is_layer, why_not_plain
from .tracer import IN_PLACE_ARITHMETIC

_OPERATORS = (*IN_PLACE_ARITHMETIC, operator.setitem, operator.delitem)
# Functions of these packages work in place only where their name or an argument says so.
_KNOWN_PACKAGES = (None, "torch", "_operator", "math", "builtins")


def works_in_place(node, module):
    """Whether a node may change its arguments; `module` is the one that it calls, or None."""
    if node.op == "call_method":
        return node.target.endswith("_") and not node.target.endswith("__")
    if node.op == "call_function":
        name = getattr(node.target, "__name__", "")
        by_name = name.endswith("_") and not name.endswith("__")
        known = node.target in _OPERATORS or by_name or _asks_in_place(node)
        return known or not is_known(node.target) or "out" in node.kwargs
    if node.op == "call_module":
        plain = is_layer(module) and why_not_plain(module) is None
        return not plain or getattr(module, "inplace", False)
    return False


def is_known(function):
    """Whether a function is of a known package, and no operator of torch's dispatcher: those, like
    users' functions, may change their arguments under any name."""
    if isinstance(function, (torch._ops.OpOverload, torch._ops.OpOverloadPacket)):
        return False
    package = getattr(function, "__module__", None)
    return (package and package.split(".")[0]) in _KNOWN_PACKAGES


def _asks_in_place(node):
    """Whether a call may have inplace=True, by keyword or as any of its positional arguments."""
    if "inplace" in node.kwargs:
        return bool(node.kwargs["inplace"])
    return any(argument is True for argument in node.args)
