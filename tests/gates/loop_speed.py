"""How fast the main loop of a kernel can be: clocks of a turn by unit, for the blocks on an SM.

python tests/gates/loop_speed.py FILE.cu|FILE.cubin|MODULE.so... [--kernel REGEX] [--arch 90a]

prints for each kernel whose name has a match: registers, blocks on an SM, warp instructions of a
turn by pipe, clocks of a turn of one block by unit, what limits it, the share of the roofline that
it can reach, and the clocks for 1000 FLOP (or, where nothing multiplies, for 1000 bytes), which is
what the gate compares.
"""

import argparse
import re
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

import cubins
import sass_loops
import sass_pipes
from shared_bytes import dynamic_shared_bytes

from fastconv.prediction.machines import MACHINE_OF_ARCH, WARP

# Kernels whose work is products; the others move data.
_MULTIPLIES = r"conv2d_(?!im2col|col2im|\w*reduce)"
_LOADS, _STORES = ("LDG", "LDGSTS"), ("STG",)
_FILLS = ("LDGSTS", "STS")  # what fills shared memory
_SPLIT_PRODUCTS = 3  # of TF32 for one of float32 (CudaMath tf32x3)


@dataclass(frozen=True)
class Side:
    """What a block does beside its main loop: once, or in a turn of a loop that fills shared memory
    or stores results."""

    instructions: int = 0  # of one warp
    clocks: float = 0  # of the SM, of the unit that is busy the longest
    bytes: int = 0  # of the block, loaded or stored


@dataclass(frozen=True)
class LoopSpeed:
    """One turn of a block's main loop, and what is beside it."""

    counts: dict  # warp instructions of one warp, by pipe
    clocks: sass_pipes.Clocks
    flop: int  # of the block: those wanted, not those that emulate a precision
    bytes: int  # of the block: from and to global memory, through L1 or past it
    l2_clocks: float  # of these bytes at the SM's share of L2
    roofline_clocks: float  # that an SM at its peaks would take
    once: Side
    load: Side
    store: Side

    @property
    def most(self):
        """Clocks of what is busy the longest: a unit of the SM, or L2."""
        return max(self.clocks.most, self.l2_clocks)

    @property
    def share(self):
        """Of the roofline, 1 at most."""
        return min(1.0, self.roofline_clocks / max(self.most, 1e-9))

    @property
    def limiter(self):
        """What is busy the longest, or "memory" where the roofline takes longer."""
        if self.roofline_clocks > self.most:
            return "memory"
        return "L2" if self.l2_clocks > self.clocks.most else self.clocks.limiter

    @property
    def clocks_per_kwork(self):
        """Clocks of the SM's units for 1000 FLOP, or without any for 1000 bytes."""
        return 1000 * self.clocks.most / max(self.flop or self.bytes, 1)


def loop_speed(kernel):
    """The LoopSpeed of a cubins.Kernel."""
    machine = MACHINE_OF_ARCH[kernel.arch]
    graph = sass_loops.Graph(kernel.code)
    multiplies = re.match(_MULTIPLIES, kernel.short_name) is not None
    main = sass_loops.main_loop(graph, multiplies)
    load = sass_loops.side_loop(graph, main, _LOADS, _FILLS) if main else None
    store = sass_loops.side_loop(graph, main, _STORES) if main else None
    turn = graph.path(main, multiplies)
    warps = -(-kernel.threads // WARP)

    def side(instructions, bases=()):
        clocks = sass_pipes.clocks(instructions, warps, machine)
        return Side(len(instructions), clocks.most, _bytes(instructions, bases, warps))

    loops = [loop for loop in (main, load, store) if loop]
    flop, on_tensor_cores = _flop(turn, kernel, warps, multiplies)
    moved = _bytes(turn, (*_LOADS, *_STORES), warps)
    return LoopSpeed(
        sass_pipes.counts(turn),
        sass_pipes.clocks(turn, warps, machine),
        flop,
        moved,
        moved / (machine.l2_bytes_per_clock / machine.sms),
        _roofline_clocks(flop, on_tensor_cores, moved, kernel, machine),
        side(graph.once(loops, multiplies) if main else []),
        side(graph.moving_path(load, _LOADS), _LOADS) if load else Side(),
        side(graph.moving_path(store, _STORES), _STORES) if store else Side(),
    )


def _bytes(instructions, bases, warps):
    return warps * WARP * sum(i.bytes_per_lane for i in instructions if i.base in bases)


def _flop(turn, kernel, warps, multiplies):
    """(wanted FLOP of a block's turn, whether tensor cores do them)"""
    tensor = sum(sass_pipes.flop(i) for i in turn if i.base in sass_pipes.TENSOR)
    if tensor:
        products = _SPLIT_PRODUCTS if "tf32x3" in kernel.short_name else 1
        return warps * tensor // products, True
    return multiplies * warps * sum(map(sass_pipes.flop, turn)), False


def _roofline_clocks(flop, on_tensor_cores, moved, kernel, machine):
    """Clocks of the useful arithmetic at its unit's peak. Operands of products come from caches,
    where a tile shares them; where nothing multiplies the bytes come from memory."""
    if not flop:
        return moved / machine.memory_bytes_per_clock
    if on_tensor_cores:
        products = 2 if "tf32" in kernel.short_name else 1
        return flop * products / machine.tensor_flop
    return flop / 2 / (machine.double_lanes if "double" in kernel.short_name else machine.fma_lanes)


def blocks_per_sm(kernel, shared_bytes):
    """How many blocks with so much shared memory an SM holds at a time."""
    machine = MACHINE_OF_ARCH[kernel.arch]
    warps = -(-kernel.threads // WARP)
    room = machine.shared_memory // (shared_bytes + machine.reserved_shared_memory)
    return min(kernel.warps_per_sm // max(warps, 1), room, machine.blocks)


def table(kernels):
    """Lines of text."""
    shared = dynamic_shared_bytes(kernel.name for kernel in kernels)
    for kernel in kernels:
        speed = loop_speed(kernel)
        dynamic = shared.get(kernel.name, 0)
        blocks = blocks_per_sm(kernel, kernel.static_smem + dynamic)
        counts = ", ".join(f"{n} {pipe}" for pipe, n in speed.counts.items() if n)
        units = ("tensor", "shared", "fma", "alu", "issue")
        clocks = ", ".join(f"{unit} {getattr(speed.clocks, unit):.0f}" for unit in units)
        clocks += f", L2 {speed.l2_clocks:.0f}"
        yield f"sm_{kernel.arch} {kernel.short_name}"
        yield (
            f"  {kernel.threads} threads, {kernel.registers} registers, "
            f"{kernel.static_smem + dynamic} bytes of shared memory, {blocks} blocks on an SM"
        )
        yield f"  a warp's turn: {sum(speed.counts.values())} instructions: {counts}"
        yield f"  a block's turn, clocks of the SM: {clocks}"
        unit = "kFLOP" if speed.flop else "kB"
        yield (
            f"  limited by {speed.limiter}, {100 * speed.share:.0f} % of the roofline, "
            f"{speed.clocks_per_kwork:.3f} clocks a {unit} ({speed.flop} FLOP, {speed.bytes} bytes)"
        )


def read(path, arch):
    """The Kernels of a .cu, which is compiled, a .cubin or a built module."""
    path = Path(path)
    if path.suffix == ".cubin":
        return cubins.read_cubin(path, path.stem, arch)
    if path.suffix == ".cu":
        with tempfile.TemporaryDirectory() as folder:
            return cubins.compile_kernels([path], [arch], folder)[arch]
    return cubins.kernels_of_module(path, [arch]).get(arch, [])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("files", nargs="+", metavar="FILE", help=".cu, .cubin or fastconv._cuda")
    parser.add_argument("--kernel", default="", metavar="REGEX", help="of the kernel's name")
    parser.add_argument("--arch", default="90a", choices=sorted(MACHINE_OF_ARCH))
    options = parser.parse_args()
    kernels = [kernel for file in options.files for kernel in read(file, options.arch)]
    chosen = [kernel for kernel in kernels if re.search(options.kernel, kernel.short_name)]
    print("\n".join(table(chosen)))
    return int(not chosen)


if __name__ == "__main__":
    sys.exit(main())
