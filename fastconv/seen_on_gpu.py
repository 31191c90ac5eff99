"""The algorithms that were seen to compute what they should on a GPU, for each compute capability.
The others prove themselves at their first use (first_use.py).

An entry is made from the results of a run of `fastconv selftest` and of the benchmark on such a
GPU, of the commit named, and names the CSV of bench/results that shows it."""

from typing import NamedTuple


class Seen(NamedTuple):
    capability: tuple[int, int]
    family: str  # "cuda" or "triton"
    algorithm: str  # as fastconv.explain calls it
    commit: str
    evidence: str  # the path of a CSV under bench/results


SEEN: tuple[Seen, ...] = ()


def is_seen(capability: tuple[int, int], family: str, algorithm: str) -> bool:
    """Whether an algorithm of a family of backends is listed for a compute capability."""
    return any(seen[:3] == (capability, family, algorithm) for seen in SEEN)
