"""Loops and paths of machine code, of listings as nvdisasm prints them."""

import sass
import sass_loops
import sass_pipes

from fastconv.prediction.machines import MACHINES


def listing(code):
    """The sass.Function of lines "label:" and "opcode operands", which may begin with @P0."""
    lines, address = ["//--- .text.f ---"], 0
    for line in map(str.strip, code.strip().splitlines()):
        if line.endswith(":"):
            lines.append(f".L_x_{line}")
        else:
            lines.append(f"        /*{address:04x}*/  {line} ;")
            address += sass.INSTRUCTION_BYTES
    return sass.read_functions("\n".join(lines))["f"]


def opcodes(instructions):
    return [i.opcode for i in instructions]


# A loop over rows around one that multiplies, with a branch that skips the load and an early end.
NESTED = """
    @P0 EXIT
    MOV R0, RZ
    1:
    IADD3 R0, R0, 0x1, RZ
    2:
    @P1 BRA `(.L_x_3)
    LDG.E.128 R4, [R2]
    STS.128 [R3], R4
    3:
    FFMA R5, R6, R7, R5
    FFMA R5, R6, R7, R5
    @P2 BRA `(.L_x_2)
    STG.E [R8], R5
    @P3 BRA `(.L_x_1)
    EXIT
"""


def test_the_main_loop_is_the_one_that_multiplies():
    graph = sass_loops.Graph(listing(NESTED))
    assert len(graph.loops) == 2
    main = sass_loops.main_loop(graph)
    assert opcodes(graph.path(main)) == ["BRA", "LDG.E.128", "STS.128", "FFMA", "FFMA", "BRA"]
    # Of a kernel that only moves data the loads of 16 bytes outweigh the store of four.
    assert sass_loops.main_loop(graph, multiplies=False) == main
    store = sass_loops.side_loop(graph, None, ("STG",))
    assert main.blocks < store.blocks and "STG.E" in opcodes(graph.moving_path(store, ("STG",)))
    assert opcodes(graph.once([store], True)) == ["EXIT", "MOV", "EXIT"]


def test_an_activation_is_on_no_path():
    """Neither what a jump table leads to and needs a special function, nor the longer way."""
    graph = sass_loops.Graph(
        listing("""
    1:
    LDS R1, [R0]
    FFMA R5, R1, R7, R5
    BRX R2 -0x20 (*"BRANCH_TARGETS .L_x_2,.L_x_3,.L_x_4"*)
    2:
    MUFU.EX2 R5, R5
    BRA `(.L_x_4)
    3:
    FMUL R5, R5, 6
    FMNMX R5, R5, R6, PT
    4:
    STG.E.64 [R8], R5
    @P3 BRA `(.L_x_1)
    EXIT
    """)
    )
    path = graph.path(sass_loops.main_loop(graph))
    assert opcodes(path) == ["LDS", "FFMA", "BRX", "STG.E.64", "BRA"]


def test_a_kernel_may_end_inside_its_loop_or_have_none():
    leaving = sass_loops.Graph(
        listing("""
    1:
    LDG.E R1, [R0]
    @P0 EXIT
    STG.E [R0], R1
    BRA `(.L_x_1)
    """)
    )
    main = sass_loops.main_loop(leaving, multiplies=False)
    assert opcodes(leaving.path(main, False)) == ["LDG.E", "EXIT", "STG.E", "BRA"]
    assert opcodes(leaving.path(None, False)) == ["LDG.E", "EXIT"]
    straight = sass_loops.Graph(listing("LDG.E R1, [R0]\nSTG.E [R0], R1\nEXIT"))
    assert sass_loops.main_loop(straight, multiplies=False) is None
    assert opcodes(straight.path(None, False)) == ["LDG.E", "STG.E", "EXIT"]


def test_clocks_of_a_block():
    code = listing("""
    LDSM.16.M88.4 R4, [R0]
    HMMA.16816.F32.BF16 R8, R4, R6, R8
    FFMA R5, R6, R7, R5
    IMAD R5, R6, R7, R5
    LOP3.LUT R5, R6, R7, R5, 0x96, !PT
    MUFU.RCP R5, R5
    LDGSTS.E.BYPASS.128 [R3], [R2.64]
    EXIT
    """).instructions
    clocks = sass_pipes.clocks(code, 8, MACHINES["a100"])
    # Eight warps, two of them on each sub-partition: mma 8, FFMA 2 and IMAD 2, LOP3 2 and MUFU 8.
    assert (clocks.tensor, clocks.fma, clocks.alu, clocks.issue) == (16, 8, 20, 16)
    assert clocks.shared == 8 * (4 + 4) and clocks.limiter == "shared"
    hopper = sass_pipes.clocks(code, 8, MACHINES["h100"])
    assert round(hopper.tensor, 2) == round(2 * 4 / 0.63, 2) and hopper.fma == 2 * (1 + 2)
    assert sass_pipes.counts(code) == {
        "tensor": 1, "shared": 2, "global": 0, "fma": 1, "integer": 3, "control": 1,
    }  # fmt: skip
