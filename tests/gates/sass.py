"""Machine code as nvdisasm prints it, as instructions.

read_functions() gives each function's instructions in order, with the addresses that a branch may
go to. What a branch is predicated on and which registers an instruction takes is left out: nobody
asks for it.
"""

import re
from dataclasses import dataclass, field

INSTRUCTION_BYTES = 16

_SECTION = re.compile(r"//-+ \.(nv\.info|text)\.(\S+) +-+")
_LABEL = re.compile(r"(\.L_x_\d+):")
_INSTRUCTION = re.compile(r"\s+/\*([0-9a-f]+)\*/\s+(@!?\w+ +)?([A-Z][\w.]*)(.*)")
_WORD = re.compile(r"\.word\s+0x([0-9a-f]+)")
_TARGET = re.compile(r"\.L_x_\d+")


@dataclass(frozen=True)
class Instruction:
    address: int
    opcode: str  # with its modifiers: "LDG.E.128"
    predicated: bool = False
    targets: tuple = ()  # labels that it names
    operands: str = ""

    @property
    def base(self):
        """The opcode without modifiers: "LDG"."""
        return self.opcode.partition(".")[0]

    @property
    def modifiers(self):
        return self.opcode.split(".")[1:]

    @property
    def bytes_per_lane(self):
        """Of an access to memory: by its modifiers, else four."""
        if self.base == "LDSM":
            return 4 * int(self.modifiers[-1]) if self.modifiers[-1].isdigit() else 4
        for modifier in self.modifiers:
            if modifier in _WIDTHS:
                return _WIDTHS[modifier]
        return 4


_WIDTHS = {"U8": 1, "S8": 1, "8": 1, "U16": 2, "S16": 2, "16": 2, "64": 8, "128": 16}


@dataclass
class Function:
    threads: int = 0  # __launch_bounds__; 0 without
    instructions: list = field(default_factory=list)
    labels: dict = field(default_factory=dict)  # label -> address

    @property
    def code_bytes(self):
        return self.instructions[-1].address + INSTRUCTION_BYTES if self.instructions else 0


def read_functions(text):
    """{mangled name: Function} of what nvdisasm printed of a cubin."""
    functions, words = {}, None
    function, pending = None, []  # labels that the next instruction has
    for line in text.splitlines():
        if match := _SECTION.match(line):
            function, words = functions.setdefault(match[2], Function()), None
        elif function is None:
            continue
        elif "nvinfo :" in line:
            words = [] if "EIATTR_MAX_THREADS" in line else None
        elif words is not None and (match := _WORD.search(line)):
            words.append(int(match[1], 16))
            if len(words) == 3:
                function.threads = words[0] * words[1] * words[2]
        elif match := _LABEL.match(line):
            pending.append(match[1])
        elif match := _INSTRUCTION.match(line):
            address = int(match[1], 16)
            function.labels.update((label, address) for label in pending)
            pending = []
            targets = tuple(_TARGET.findall(match[4]))
            function.instructions.append(
                Instruction(address, match[3], match[2] is not None, targets, match[4].strip(" ;"))
            )
    return {name: f for name, f in functions.items() if f.instructions}
