"""The loops of a kernel's machine code, and the path that its main loop takes.

A loop is a natural one: a backward edge to a block that dominates its source, and all blocks that
reach the edge without passing that block. The main loop is the one whose own blocks, without those
of loops inside it, do the most work in a turn: HMMA first, then FMAs, then bytes of memory; of
equals the first. Of kernels that only move data FMAs are no work, and bytes of global memory alone
are. A kernel without a loop that works is one turn of a loop: the path from its entry to its end.

Not all of a loop's instructions run in a turn. Of the paths from its first block back to it the
one is counted that calls nothing and needs no special function (those are activations), multiplies
and moves the most, and is the longest among these: the shorter ones are for places outside of the
tensors. Where a jump table chooses an activation it is the shortest, without one. Loads from global
memory are not asked for where the loop has its operands from shared memory and puts nothing there:
then they are an epilogue's. (Which loop is the main one is decided by paths that do not prefer
FMAs, since the most of those may lie in an activation.)
"""

from collections import Counter
from dataclasses import dataclass
from itertools import pairwise

from sass_pipes import FMAS, TENSOR

SHARED_READS = ("LDS", "LDSM")
SHARED = (*SHARED_READS, "STS", "LDGSTS")
GLOBAL = ("LDG", "STG", "LDGSTS")
_JUMP_TABLES = ("BRX", "BRXU")
_ENDS = ("BRA", *_JUMP_TABLES, "EXIT", "RET", "BSYNC", "JMP")


@dataclass(frozen=True)
class Loop:
    head: int  # index of a block
    blocks: frozenset  # indices, those of loops inside it too
    latches: frozenset  # the blocks that go back to the head


class Graph:
    """The basic blocks of a sass.Function that can be reached from its entry."""

    def __init__(self, function):
        self.blocks, self.successors = _split(function)
        self.order = _reverse_postorder(self.successors)
        self.rank = {block: rank for rank, block in enumerate(self.order)}
        self.predecessors = {block: [] for block in self.order}
        for block in self.order:
            for successor in self.successors[block]:
                self.predecessors[successor].append(block)
        self._dominators = self._find_dominators()
        self.loops = self._find_loops()

    def _find_dominators(self):
        """{block: its immediate dominator}, by the algorithm of Cooper, Harvey and Kennedy."""
        rank, entry = self.rank, self.order[0]
        found = {entry: entry}
        changed = True
        while changed:
            changed = False
            for block in self.order[1:]:
                known = [b for b in self.predecessors[block] if b in found]
                common = known[0]
                for other in known[1:]:
                    while common != other:
                        if rank[common] > rank[other]:
                            common = found[common]
                        else:
                            other = found[other]
                if found.get(block) != common:
                    found[block], changed = common, True
        return found

    def _dominates(self, head, block):
        while self.rank[block] > self.rank[head]:
            block = self._dominators[block]
        return block == head

    def _find_loops(self):
        latches = {}
        for block in self.order:
            for head in self.successors[block]:
                if self._dominates(head, block):
                    latches.setdefault(head, set()).add(block)
        loops = []
        for head, ends in latches.items():
            inside, stack = {head}, list(ends)
            while stack:
                if (block := stack.pop()) not in inside:
                    inside.add(block)
                    stack += self.predecessors[block]
            loops.append(Loop(head, frozenset(inside), frozenset(ends)))
        return sorted(loops, key=lambda loop: loop.head)

    def path(self, loop=None, multiplies=True):
        """The instructions of one turn of a loop, or of the whole kernel, each loop inside it taken
        once.

        Args:
            loop: a Loop of this graph, None for the kernel.
            multiplies: whether FMAs are the kernel's work.
        """
        inside = self._instructions(loop.blocks if loop else self.order)
        work = (FMAS, _moves(inside)) if multiplies else ((), GLOBAL)
        return self._instructions(self._best_path(loop, inside, work))

    def own_path(self, loop, multiplies):
        """The same without loops inside it, and preferring no FMAs."""
        inside = self._instructions(loop.blocks)
        moves = _moves(inside) if multiplies else GLOBAL
        inner = [o.blocks for o in self.loops if o.head != loop.head and o.head in loop.blocks]
        skipped = frozenset().union(*inner)
        blocks = self._best_path(loop, inside, ((), moves))
        return self._instructions(block for block in blocks if block not in skipped)

    def moving_path(self, loop, bases):
        """The instructions of a turn of a loop that shall move as much as it can by opcodes of
        `bases` and touch global memory no more than that."""
        blocks = self._best_path(loop, self._instructions(loop.blocks), ((), (*bases, *SHARED)))
        return self._instructions(blocks)

    def once(self, loops, multiplies):
        """The instructions on the kernel's path that are in none of some loops."""
        inside = self._instructions(self.order)
        work = ((), _moves(inside) if multiplies else GLOBAL)
        skipped = frozenset().union(*(loop.blocks for loop in loops))
        blocks = self._best_path(None, inside, work)
        return self._instructions(block for block in blocks if block not in skipped)

    def _instructions(self, blocks):
        return [i for block in blocks for i in self.blocks[block]]

    def _best_path(self, loop, inside, work):
        blocks = loop.blocks if loop else frozenset(self.order)
        head = loop.head if loop else self.order[0]
        length = -1 if any(i.base in _JUMP_TABLES for i in inside) else 1
        best = {}  # block -> (score of the best path from there to an end, its blocks)
        for block in sorted(blocks, key=self.rank.get, reverse=True):
            onward = [
                best[s]
                for s in self.successors[block]
                if s in blocks and self.rank[s] > self.rank[block] and s in best
            ]
            # A kernel may end by leaving its loop for good: there the EXIT is a conditional one.
            leaves = not onward and self.blocks[block][-1].base in ("EXIT", "RET")
            if block in loop.latches if loop else leaves:
                onward.append(((0,) * 5, ()))
            if onward:
                score, rest = max(onward, key=lambda pair: pair[0])
                own = _score(self.blocks[block], work, length)
                best[block] = tuple(a + b for a, b in zip(own, score)), (block, *rest)
        return best[head][1]


def main_loop(graph, multiplies=True):
    """The Loop that does the most work; None where none does any."""
    best, most = None, (0, 0, 0)
    for loop in graph.loops:
        own = graph.own_path(loop, multiplies)
        tensor, fmas = (sum(i.base in bases for i in own) for bases in (TENSOR, FMAS))
        work = (
            tensor,
            fmas * multiplies,
            _bytes(own, (*SHARED, *GLOBAL) if multiplies else GLOBAL),
        )
        if work > most:
            best, most = loop, work
    return best


def side_loop(graph, main, bases, into=None):
    """The Loop, other than the main one, those around it and those inside it, that moves the most
    bytes by opcodes of `bases`, and has one of `into` where that is given; None where none moves
    any."""
    others = [
        loop
        for loop in graph.loops
        if main is None or (main.head not in loop.blocks and loop.head not in main.blocks)
    ]
    paths = {loop: graph.moving_path(loop, bases) for loop in others}
    moved = {
        loop: _bytes(path, bases)
        for loop, path in paths.items()
        if into is None or any(i.base in into for i in path)
    }
    best = max(moved, key=moved.get, default=None)
    return best if best is not None and moved[best] > 0 else None


def _moves(instructions):
    """The accesses to memory that a path should have, for a loop of these instructions."""
    bases = Counter(i.base for i in instructions)
    from_shared = any(bases[base] for base in SHARED_READS) and not bases["STS"]
    return (*SHARED, "STG") if from_shared else (*SHARED, *GLOBAL)


def _score(instructions, work, length):
    fma_work, moves = work
    rare = tensor = fmas = moved = 0
    for i in instructions:
        rare += i.base in ("MUFU", "CALL")
        tensor += i.base in TENSOR
        fmas += i.base in fma_work
        moved += i.bytes_per_lane * (i.base in moves)
    return -rare, tensor, fmas, moved, length * len(instructions)


def _bytes(instructions, bases):
    return sum(i.bytes_per_lane for i in instructions if i.base in bases)


def _split(function):
    """(instructions of each block, successors of each block): blocks are numbered in the order of
    their addresses."""
    code, labels = function.instructions, function.labels
    starts = {code[0].address, *labels.values()}
    starts |= {b.address for a, b in pairwise(code) if a.base in _ENDS}
    blocks, number = [], {}
    for instruction in code:
        if instruction.address in starts:
            number[instruction.address] = len(blocks)
            blocks.append([])
        blocks[-1].append(instruction)
    meeting_points = _meeting_points(code)
    successors = []
    for index, block in enumerate(blocks):
        last = block[-1]
        names = meeting_points.get(last.address, ()) if last.base == "BSYNC" else last.targets
        jumps = last.base in ("BRA", *_JUMP_TABLES, "BSYNC", "JMP")
        to = [number[labels[name]] for name in names if name in labels] if jumps else []
        always = jumps or last.base in ("EXIT", "RET")
        conditional = last.predicated or (last.base == "BRA" and _has_condition(last))
        if (not always or conditional or (last.base == "BSYNC" and not to)) and index + 1 < len(
            blocks
        ):
            to.append(index + 1)
        successors.append(tuple(dict.fromkeys(to)))
    return blocks, successors


def _has_condition(branch):
    """Whether a BRA has a predicate among its operands: BRA P1, `(.L_x_1). A branch of uniform
    threads (BRA.U UP0, ...) has one there as well."""
    return not branch.operands.startswith("`")


def _meeting_points(code):
    """{address of a BSYNC: the label where its threads go on}, which the last BSSY before it with
    the same barrier names."""
    barriers, found = {}, {}
    for instruction in code:
        barrier = instruction.operands.partition(",")[0]
        if instruction.base == "BSSY":
            barriers[barrier] = instruction.targets
        elif instruction.base == "BSYNC":
            found[instruction.address] = barriers.get(barrier, ())
    return found


def _reverse_postorder(successors):
    order, seen, stack = [], {0}, [(0, iter(successors[0]))]
    while stack:
        block, rest = stack[-1]
        for successor in rest:
            if successor not in seen:
                seen.add(successor)
                stack.append((successor, iter(successors[successor])))
                break
        else:
            order.append(block)
            stack.pop()
    return order[::-1]
