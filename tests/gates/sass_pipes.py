"""Which unit of an SM an instruction occupies, and for how long.

Counts are of warp instructions. Clocks are those that the unit of one sub-partition is busy, or for
shared memory and L1, which the four sub-partitions share, of the SM. Latencies are not here: a
unit that is kept busy hides them.
"""

from collections import Counter
from dataclasses import dataclass

from sass import Instruction

from fastconv.prediction.machines import SUB_PARTITIONS, WARP, Machine

# FLOP of a warp's instruction by its shape, and how many of TF32 the tensor cores' 16-bit rate is.
TENSOR = {"HMMA": {"16816": 4096, "1688": 2048, "1684": 1024}}
_TF32_COST = 2
FMAS = ("FFMA", "HFMA2", "DFMA")
_FMA_FLOP = {"FFMA": 2, "HFMA2": 4, "DFMA": 2}  # of a lane

_SHARED = ("LDSM", "LDS", "STS", "LDGSTS")
_GLOBAL = ("LDG", "STG", "LD", "ST", "LDL", "STL", "ATOMG", "RED")
_FLOAT = ("FFMA", "FMUL", "FADD", "FFMA32I", "FMUL32I", "FADD32I")
_HALF = ("HFMA2", "HADD2", "HMUL2", "HSET2", "HSETP2", "HMNMX2")
_MULTIPLY = ("IMAD", "IMUL", "IDP", "IDP4A")
_DOUBLE = ("DFMA", "DMUL", "DADD", "DSETP", "DMNMX")
_SPECIAL = ("MUFU", "F2F", "F2I", "I2F", "FRND", "POPC", "FLO", "BREV")
_INTEGER = """
    IADD3 IADD VIADD VIADDMNMX VIMNMX VIMNMX3 IMNMX IABS ISETP ISCADD LOP3 LOP PLOP3 LEA SHF SHL SHR
    BMSK SGXT PRMT MOV MOV32I SEL FSEL FSETP FSET FMNMX FCHK P2R R2P F2FP I2FP I2IP
""".split()
_PIPES = {
    **dict.fromkeys(TENSOR, "tensor"),
    **dict.fromkeys(_SHARED, "shared"),
    **dict.fromkeys(_GLOBAL, "global"),
    **dict.fromkeys((*_FLOAT, *_HALF, *_DOUBLE), "fma"),
    **dict.fromkeys((*_INTEGER, *_MULTIPLY, *_SPECIAL), "integer"),
}
PIPES = ("tensor", "shared", "global", "fma", "integer", "control")


def pipe_of(instruction):
    """One of PIPES. Control is what only takes a place in the issue: branches, barriers, uniform
    instructions, and what is not listed here. KeyError for a matrix product that is not."""
    base = instruction.base
    if base not in _PIPES and base.endswith("MMA"):
        raise KeyError(f"tests/gates/sass_pipes.py does not know the clocks of {base}")
    return _PIPES.get(base, "control")


def flop(instruction):
    """FLOP that a warp's instruction does on tensor cores or as FMAs, two a multiply-add."""
    if shapes := TENSOR.get(instruction.base):
        return next(shapes[m] for m in instruction.modifiers if m in shapes)
    return WARP * _FMA_FLOP.get(instruction.base, 0)


@dataclass(frozen=True)
class Clocks:
    """Clocks of an SM's units for all warps of a block, each of which runs the same instructions
    once. All are per SM: a block's warps are spread over the sub-partitions."""

    tensor: float = 0
    shared: float = 0
    fma: float = 0
    alu: float = 0
    issue: float = 0

    @property
    def most(self):
        return max(self.tensor, self.shared, self.fma, self.alu, self.issue)

    @property
    def limiter(self):
        names = ("tensor", "shared", "fma", "alu", "issue")
        return max(names, key=lambda name: getattr(self, name))


def clocks(instructions: list[Instruction], warps: int, machine: Machine):
    """Clocks of a block of so many warps."""
    sub = WARP * SUB_PARTITIONS
    float_, integer = sub / machine.fma_lanes, sub / machine.integer_lanes
    tensor = shared = fma = alu = 0.0
    for i in instructions:
        pipe = pipe_of(i)
        if pipe == "tensor":
            rate = machine.tensor_flop * machine.mma_sync_share / SUB_PARTITIONS
            tensor += flop(i) / rate * (_TF32_COST if "TF32" in i.modifiers else 1)
        elif pipe in ("shared", "global"):
            shared += max(1, WARP * i.bytes_per_lane / machine.shared_bytes_per_clock)
        elif i.base in _FLOAT:
            fma += float_
        elif i.base in _HALF:
            fma += 1
        elif i.base in _DOUBLE:
            fma += sub / machine.double_lanes
        elif i.base in _MULTIPLY:
            fma += integer
        elif i.base in _SPECIAL:
            alu += sub / machine.special_lanes
        elif pipe == "integer":
            alu += integer
    share = warps / SUB_PARTITIONS
    return Clocks(
        tensor * share, shared * warps, fma * share, alu * share, len(instructions) * share
    )


def counts(instructions):
    """{pipe: warp instructions}"""
    found = Counter(map(pipe_of, instructions))
    return {pipe: found[pipe] for pipe in PIPES}
