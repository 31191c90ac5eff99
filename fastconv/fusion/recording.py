"""A fused network's call, recorded node by node: which nodes are native calls, and what their
results are like. What is recorded holds for every call with such arguments."""

from dataclasses import dataclass, field, replace
from enum import Enum, auto

import torch
import torch.fx as fx
from torch.fx.node import map_aggregate, map_arg

from .._native import core
from .in_place import is_known
from .kinds import is_layer
from .native_calls import Parameter, is_identity, is_plain, is_view, native_calls

_QUESTIONS = ("size", "dim", "ndimension", "numel", "stride", "is_contiguous", "element_size")
_ATTRIBUTES = ("shape", "ndim", "dtype", "device", "is_cuda")


class Unrecorded(Exception):
    """A call cannot be made by a program."""


class Kind(Enum):
    ARGUMENT = auto()  # a tensor that the network is given
    PARAMETER = auto()  # one that the graph reads from a module
    CALLS = auto()  # computed by native calls
    FUNCTION = auto()  # computed by Python
    IDENTITY = auto()  # its input itself
    VIEW = auto()  # all of its input, with other sizes
    CONSTANT = auto()  # no tensor, and the same in every call


@dataclass
class Value:
    """What a node gave.

    Attributes:
        inputs: the nodes of tensors that it reads, in the order of its arguments.
        like: what its tensor is like; None where that is not one whose address may be taken.
        calls: NativeCalls whose operands are nodes or Parameters.
        function: takes the values of `inputs`.
        parameter: where a PARAMETER is.
        constant: the value of a CONSTANT.
    """

    kind: Kind
    inputs: list = field(default_factory=list)
    like: object = None
    calls: list = field(default_factory=list)
    function: object = None
    parameter: object = None
    constant: object = None


class Recorder(fx.Interpreter):
    """Runs a graph once and keeps a Value of each node."""

    def __init__(self, network):
        super().__init__(network)
        self.values = {}
        self.returned = []  # nodes that the graph returns
        self.arrange = None  # their tensors -> what it returns; None where that is the only one

    def run_node(self, node):
        args, kwargs = self.fetch_args_kwargs_from_env(node)
        result = super().run_node(node)
        if node.op == "output":
            self._note_result(node)
        else:
            self.values[node] = self._value(node, args, kwargs, result)
        return result

    def _target(self, node):
        return self.fetch_attr(node.target) if node.op == "call_module" else node.target

    def _value(self, node, args, kwargs, result):
        inputs = [n for n in node.all_input_nodes if self.values[n].kind is not Kind.CONSTANT]
        like = core.TensorLike(result) if is_plain(result) else None
        if node.op == "placeholder":
            if not isinstance(result, torch.Tensor):
                return Value(Kind.CONSTANT, constant=result)
            return Value(Kind.ARGUMENT, like=like)
        if node.op == "get_attr":
            return Value(Kind.PARAMETER, like=like, parameter=_parameter(self.module, node.target))
        if not isinstance(result, torch.Tensor) and (not inputs or _asks(node)):
            return Value(Kind.CONSTANT, constant=result)
        target = self._target(node)
        if is_identity(target, args, result):
            return Value(Kind.IDENTITY, inputs[:1], like)
        if (calls := native_calls(target, args, kwargs, result)) is not None:
            by_tensor = {id(self.env[n]): n for n in inputs}
            calls = [
                replace(call, operands=[by_tensor.get(id(o), o) for o in call.operands])
                for call in calls
            ]
            return Value(Kind.CALLS, inputs, like, calls)
        function = self._function(node, target, inputs)
        kind = Kind.VIEW if is_view(target, args, result) else Kind.FUNCTION
        return Value(kind, inputs, like, function=function)

    def _note_result(self, node):
        self.returned = [
            n for n in node.all_input_nodes if self.values[n].kind is not Kind.CONSTANT
        ]
        if self.returned != [node.args[0]]:
            self.arrange = self._function(node, lambda structure: structure, self.returned)

    def _function(self, node, target, inputs):
        """A function of the values of `inputs` that does what the node does. It holds no node: a
        graph refers to its network, which is to be released before its programs."""
        numbered = {n: _Place(i) for i, n in enumerate(inputs)}
        arguments = map_arg(
            (tuple(node.args), dict(node.kwargs)),
            lambda n: numbered.get(n, self.values[n].constant),
        )
        if arguments == (tuple(numbered.values()), {}) and node.op != "call_method":
            return target
        method = node.target if node.op == "call_method" else None

        def call(*values):
            args, kwargs = fill(arguments, values)
            function = getattr(args[0], method) if method else target
            return function(*(args[1:] if method else args), **kwargs)

        return call


def is_known_network(network):
    """Whether all that a graph calls is known to depend on its inputs alone: torch's layers and
    functions, and fastconv's."""
    for node in network.graph.nodes:
        if node.op == "call_module" and not is_layer(network.get_submodule(node.target)):
            return False
        if node.op == "call_function" and not is_known(node.target):
            return False
        if node.op == "get_attr" and _parameter(network, node.target) is None:
            return False
    return True


def _parameter(network, name):
    """The Parameter that a graph reads; None where it is no parameter and no buffer."""
    owner, _, key = name.rpartition(".")
    module = network.get_submodule(owner)
    return Parameter(module, key) if key in {**module._parameters, **module._buffers} else None


@dataclass(frozen=True)
class _Place:
    """Stands for the value of a number among those that a function is given."""

    number: int


def fill(structure, values):
    """A structure of tuples, lists and dicts with values in their places."""
    return map_aggregate(structure, lambda a: values[a.number] if type(a) is _Place else a)


def _asks(node):
    """Whether a node asks a tensor for what the signature of a call tells."""
    if node.op == "call_method":
        return node.target in _QUESTIONS
    return node.op == "call_function" and node.target is getattr and node.args[1] in _ATTRIBUTES
