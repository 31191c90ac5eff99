"""What a module that cannot be traced does with its submodules, found out from its source. Only a
submodule that it does nothing with but call it, without optional arguments, may be replaced by a
fused one."""

import ast
import inspect
import textwrap
import types

import torch.nn as nn

from .kinds import WRAPPERS, computes_as, is_list

# Attributes by which code can reach a module's parts without naming them.
_LEADS_TO_PARTS = {
    "__dict__", "_modules", "children", "named_children", "modules", "named_modules",
    "get_submodule", "add_module", "register_module", "apply",
}  # fmt: skip
_PLAIN_VALUES = (bool, int, float, str, types.NoneType)


def replaceable_parts(module):
    """Names of the parts of a module that it does nothing with but call them."""
    if "forward" in vars(module):
        return set()
    if is_list(module) or computes_as(module, nn.Sequential, *WRAPPERS):
        return set(module._modules)
    try:
        return set(module._modules) - _Reading(module).used_otherwise
    except _Unreadable:
        return set()


class _Unreadable(Exception):
    """There is no source, or the module passes itself to other code."""


class _Reading:
    """Reads __call__ and forward, and all methods that they use."""

    def __init__(self, module):
        self.module = module
        self.used_otherwise = set()
        self.seen, self.waiting = set(), ["__call__", "forward"]
        while self.waiting:
            name = self.waiting.pop()
            if name not in self.seen:
                self.seen.add(name)
                for function in self._definitions(name):
                    self._read(function)

    def _definitions(self, name):
        """All definitions of a method in the module's class and its bases: an overridden one may be
        called by super()."""
        for kind in type(self.module).__mro__:
            if kind in (nn.Module, object) or name not in vars(kind):
                continue
            found = vars(kind)[name]
            found = found.fget if isinstance(found, property) else found
            if isinstance(found, types.FunctionType):
                yield inspect.unwrap(found)
            elif not isinstance(found, (staticmethod, *_PLAIN_VALUES)):
                raise _Unreadable

    def _read(self, function):
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
        except (OSError, TypeError, SyntaxError):
            raise _Unreadable from None
        if not isinstance(tree.body[0], ast.FunctionDef) or not tree.body[0].args.args:
            raise _Unreadable
        self.tree, own_name = tree, tree.body[0].args.args[0].arg
        self.parents = {
            child: parent for parent in ast.walk(tree) for child in ast.iter_child_nodes(parent)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Name) and node.id == own_name:
                self._read_self(node)
            elif isinstance(node, ast.Attribute) and _is_call_of(node.value, "super"):
                self.waiting.append(node.attr)

    def _read_self(self, node):
        use = self.parents[node]
        if _is_call_of(use, "super"):
            return
        if not isinstance(use, ast.Attribute) or use.attr in _LEADS_TO_PARTS:
            raise _Unreadable
        part = self.module._modules.get(use.attr)
        if part is None:
            self.waiting.append(use.attr)
        elif is_list(part):
            if not self._is_fine_of_list(use, part):
                self.used_otherwise.add(use.attr)
        elif not self._is_fine(use, [part]):
            self.used_otherwise.add(use.attr)

    def _is_fine(self, use, parts):
        """Whether an expression whose value is one of these parts is only called, compared by `is`
        or asked for a plain value."""
        parent = self.parents[use]
        if isinstance(parent, ast.Call) and parent.func is use:
            return all(_takes(part, parent) for part in parts)
        if isinstance(parent, ast.Attribute):
            values = [getattr(part, parent.attr, self) for part in parts]
            return all(isinstance(value, _PLAIN_VALUES) for value in values)
        return isinstance(parent, ast.Compare) and all(
            isinstance(operation, (ast.Is, ast.IsNot)) for operation in parent.ops
        )

    def _is_fine_of_list(self, use, part):
        """Whether an expression whose value is a ModuleList or ModuleDict is only indexed, iterated
        over or measured, and its parts are used as _is_fine demands."""
        parts, parent = list(part.children()), self.parents[use]
        if isinstance(parent, ast.Subscript):
            return self._is_fine(parent, parts)
        if _is_call_of(parent, "len"):
            return True
        if isinstance(parent, ast.Attribute) and parent.attr == "values":
            use = self.parents[parent]
            parent = self.parents[use]
        enumerated = _is_call_of(parent, "enumerate")
        if enumerated:
            use, parent = parent, self.parents[parent]
        if not isinstance(parent, (ast.For, ast.comprehension)) or parent.iter is not use:
            return False
        target = parent.target
        if enumerated and isinstance(target, ast.Tuple):
            target = target.elts[-1]
        return isinstance(target, ast.Name) and all(
            self._is_fine(node, parts)
            for node in ast.walk(self.tree)
            if isinstance(node, ast.Name) and node.id == target.id and node is not target
        )


def _is_call_of(node, name):
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == name


def _takes(part, call):
    """Whether a call gives a part its required arguments and no other."""
    parameters = inspect.signature(part.forward).parameters.values()
    required = [p.name for p in parameters if p.default is p.empty]
    plain = all(p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)
    starred = any(isinstance(argument, ast.Starred) for argument in call.args)
    names = [keyword.arg for keyword in call.keywords]  # None: **
    return (
        plain
        and not starred
        and len(call.args) + len(names) == len(required)
        and set(names) <= set(required)
    )
