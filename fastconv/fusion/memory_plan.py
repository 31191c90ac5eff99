"""Where the inner results of a network lie in the arena that they share."""

ALIGNMENT = 64  # bytes


def plan(blocks):
    """Offsets of blocks of memory of which no two that live at a time overlap: the largest block is
    placed first, each into the smallest gap that it fits into.

    Args:
        blocks: (bytes, first step, last step) of each.

    Returns:
        ([offset in bytes of each], bytes of the arena).
    """
    offsets, placed, end = [0] * len(blocks), [], 0
    for index in sorted(range(len(blocks)), key=lambda i: -blocks[i][0]):
        size, first, last = blocks[index]
        size = -(-size // ALIGNMENT) * ALIGNMENT
        neighbours = sorted(place for place, born, dies in placed if born <= last and first <= dies)
        offset, smallest, at = None, None, 0
        for begin, length in neighbours:
            gap = begin - at
            if gap >= size and (smallest is None or gap < smallest):
                offset, smallest = at, gap
            at = max(at, begin + length)
        offset = at if offset is None else offset
        offsets[index] = offset
        placed.append(((offset, size), first, last))
        end = max(end, offset + size)
    return offsets, end
