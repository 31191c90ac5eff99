"""The program of a recorded call: which tensors lie in the arena, and the steps that a native call
runs one after the other (csrc/bindings/prepared/program.h)."""

from dataclasses import replace

import torch.nn as nn

from .._native import core
from .kinds import why_not_plain
from .memory_plan import plan
from .native_calls import Parameter
from .recording import Kind, Recorder, Unrecorded, is_known_network

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_GLOBAL_HOOKS = [getattr(nn.modules.module, f"_global{name}") for name in _HOOKS]


def record(network, arguments):
    """(what the network returns for these arguments, the core.Program of such calls). A program
    without steps stands for calls that have to be made layer by layer."""
    if not is_known_network(network):
        return network.forward(*arguments), core.Program()
    program, layer_by_layer = core.Program(), core.Program()
    for guarded in (program, layer_by_layer):
        _guard(guarded, network)
    recorder = Recorder(network)
    result = recorder.run(*arguments)
    try:
        _Assembly(program, recorder).run()
    except Unrecorded:
        return result, layer_by_layer
    return result, program


def is_hooked(network):
    """Whether a call of a network is more than its forward."""
    return any(_GLOBAL_HOOKS) or why_not_plain(network) is not None


def _guard(program, network):
    """The program is for a network whose calls lead to the same modules, in the same state."""
    _guard_hooks(program, network)
    for hooks in _GLOBAL_HOOKS:
        program.guard(hooks, {})
    guarded = set()
    for node in network.graph.nodes:
        if node.op not in ("call_module", "get_attr"):
            continue
        module = network
        *parents, last = node.target.split(".")
        for name in parents if node.op == "get_attr" else (*parents, last):
            if (id(module), name) not in guarded:
                guarded.add((id(module), name))
                program.guard(module._modules, {name: module._modules[name]})
            module = module._modules[name]
        if node.op == "call_module" and id(module) not in guarded:
            guarded.add(id(module))
            _guard_hooks(program, module)
            program.guard(vars(module), vars(module))
            program.guard_class(module)
            absent = [name for name, tensor in module._parameters.items() if tensor is None]
            program.guard(module._parameters, dict.fromkeys(absent))


def _guard_hooks(program, module):
    for name in _HOOKS:
        program.guard(getattr(module, name), {})


class _Assembly:
    """Turns a recording into the steps of a program."""

    def __init__(self, program, recorder):
        self.program, self.recorder, self.values = program, recorder, recorder.values
        self.fresh = self._find_fresh()
        self.within = self._join_concatenations()  # node -> (node whose memory holds its, offset)
        self.last_reads = self._find_last_reads()
        self.numbers = {}  # node, or (id of a module, name) of a parameter -> number of a tensor
        self.is_open = False  # whether the last step takes more calls
        self.held = {}  # node of a tensor that a step made -> the position of its last read

    def run(self):
        self._number()
        self._plan_memory()
        for position, (node, value) in enumerate(self.values.items()):
            if value.kind is Kind.CALLS:
                self._add_calls(node, value)
            elif value.kind is Kind.FUNCTION:
                self._add_function(node, value)
                self._close(position)
        self._close(len(self.values))
        self.program.tensor_count = len(self.numbers)
        returned = [self.numbers[self._base(node)] for node in self.recorder.returned]
        self.program.set_result(returned, self.recorder.arrange)

    def _find_fresh(self):
        """Nodes of native calls whose results leave the arena: they are returned, or read by a
        function of Python. A view that is so is made by such a function."""
        needed, fresh = set(self.recorder.returned), set()
        for node, value in reversed(self.values.items()):
            if value.kind is Kind.VIEW and node in needed:
                value.kind = Kind.FUNCTION
            if value.kind is Kind.FUNCTION or (value.kind is Kind.IDENTITY and node in needed):
                needed.update(value.inputs)
            if value.kind is Kind.CALLS and node in needed:
                fresh.add(node)
        return fresh

    def _join_concatenations(self):
        """Lets convolutions write into the concatenated tensor that alone reads their results: the
        copies are dropped. Returns {node: (node of the concatenation, offset in bytes)}."""
        within = {}
        for node, value in self.values.items():
            if value.kind is not Kind.CALLS or node in self.fresh:
                continue
            for copy in [call for call in value.calls if call.result_strides is not None]:
                (read,) = copy.operands
                writer = self._only_call(read)
                reads = sum(read in call.operands for call in value.calls)
                if writer is None or len(read.users) != 1 or reads != 1:
                    continue
                joined = writer.call.with_result_strides(copy.result_strides)
                if joined is not None:
                    self.values[read].calls = [replace(writer, call=joined)]
                    value.calls.remove(copy)
                    within[read] = node, copy.offset
        return within

    def _only_call(self, node):
        """The native call that computes all of a node's result, in the arena; or None."""
        value = self.values[node]
        alone = value.kind is Kind.CALLS and node not in self.fresh and len(value.calls) == 1
        return value.calls[0] if alone else None

    def _base(self, node):
        """The node in whose memory a node's result lies."""
        while self.values[node].kind in (Kind.IDENTITY, Kind.VIEW) or node in self.within:
            node = self.within[node][0] if node in self.within else self.values[node].inputs[0]
        return node

    def _find_last_reads(self):
        """{node: position of the last node that reads its memory}."""
        last = {}
        for position, (node, value) in enumerate(self.values.items()):
            if value.kind in (Kind.CALLS, Kind.FUNCTION):
                for read in (node, *value.inputs):
                    last[self._base(read)] = position
        last.update((self._base(node), len(self.values) + 1) for node in self.recorder.returned)
        return last

    def _number(self):
        """Numbers the program's tensors, see program.h."""
        by_kind = {kind: [n for n, v in self.values.items() if v.kind is kind] for kind in Kind}
        for node in by_kind[Kind.ARGUMENT]:
            self.program.add_argument(self._like(node))
            self.numbers[node] = len(self.numbers)
        for node in by_kind[Kind.PARAMETER]:
            self.numbers[node] = self._add_parameter(self.values[node].parameter)
        for node in by_kind[Kind.CALLS]:
            for call in self.values[node].calls:
                for operand in call.operands:
                    if isinstance(operand, Parameter) and self._key(operand) not in self.numbers:
                        self.numbers[self._key(operand)] = self._add_parameter(operand)
        for node in (*self.fresh, *by_kind[Kind.FUNCTION]):
            self.numbers[node] = len(self.numbers)

    def _key(self, parameter):
        return id(parameter.module), parameter.name

    def _add_parameter(self, parameter):
        """The number of a parameter's tensor."""
        module, name = parameter.module, parameter.name
        dictionary = module._parameters if name in module._parameters else module._buffers
        self.program.add_parameter(dictionary, name, core.TensorLike(dictionary[name]))
        return len(self.numbers)

    def _like(self, node):
        if self.values[node].like is None:
            raise Unrecorded(f"{node} is no tensor whose address may be taken")
        return self.values[node].like

    def _plan_memory(self):
        first = {}  # node whose memory lies in the arena -> position of the first node that writes
        for position, (node, value) in enumerate(self.values.items()):
            if value.kind is Kind.CALLS and node not in self.fresh:
                first.setdefault(self._base(node), position)
        offsets, self.program.arena_bytes = plan(
            [(self._like(node).extent, first[node], self.last_reads[node]) for node in first]
        )
        self.offsets = dict(zip(first, offsets))

    def _place(self, operand):
        """(number of a tensor, or -1 for the arena; offset)."""
        if isinstance(operand, Parameter):
            return self.numbers[self._key(operand)], 0
        base = self._base(operand)
        _, offset = self.within.get(operand, (base, 0))
        if base in self.offsets:
            return -1, self.offsets[base] + offset
        self._like(base)
        return self.numbers[base], offset

    def _add_calls(self, node, value):
        self._open()
        if node in self.fresh:
            self.program.allocate(self.numbers[node], self._like(node))
            self.held[node] = self.last_reads[node]
        number, offset = self._place(node)
        for call in value.calls:
            operands = [self._place(operand) for operand in call.operands]
            self.program.add_call(call.call, operands, [(number, offset + call.offset)])

    def _add_function(self, node, value):
        self._open()
        inputs = [self.numbers[self._base(read)] for read in value.inputs]
        self.program.set_function(value.function, inputs, self.numbers[node], value.like)
        self.held[node] = self.last_reads[node]

    def _open(self):
        if not self.is_open:
            self.program.add_step()
            self.is_open = True

    def _close(self, position):
        """Ends the step; tensors that nothing after this position reads are released."""
        if self.is_open:
            for node in [node for node, last in self.held.items() if last <= position]:
                self.program.release(self.numbers[node])
                del self.held[node]
            self.is_open = False
