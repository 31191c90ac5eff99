"""What a backend tells about one pass of a call."""

from typing import NamedTuple


class PassPlan(NamedTuple):
    """The algorithm of a pass and why; the tile of sums it works on at a time, "" where it has none
    or none is known."""

    algorithm: str
    reason: str
    tile: str = ""
