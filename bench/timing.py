"""The timer of the CPU, and what the CUDA timer shares with it.

Sides (fastconv and its baselines) take turns, round by round, so that a machine that slows down
slows all of them; the median and the 20th and 80th percentile of the calls' times are kept.
"""

import ctypes
import gc
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import torch

ROUNDS = 5


@dataclass
class Side:
    """One contender: calls that do the same work, each on inputs of its own."""

    name: str
    calls: list[Callable[[], object]]
    context: Callable[[], AbstractContextManager] = nullcontext  # settings it is timed under


@dataclass(frozen=True)
class Timing:
    """Microseconds a call."""

    median_us: float
    p20_us: float
    p80_us: float
    samples: int
    method: str  # "wall", "cuda graph" or "cuda events"
    eager_us: float  # one call as a program makes it, launch included; on a CPU the median
    note: str = ""

    @property
    def spread(self):
        """Half the distance from p20 to p80, as a fraction of the median."""
        return (self.p80_us - self.p20_us) / 2 / self.median_us


def summarise(samples_us, method, eager_us=None, note=""):
    median = statistics.median(samples_us)
    p20, _, _, p80 = statistics.quantiles(samples_us, n=5, method="inclusive")
    eager = median if eager_us is None else eager_us
    return Timing(median, p20, p80, len(samples_us), method, eager, note)


def keep_pages():
    """Makes malloc keep freed memory instead of handing it back to the kernel.

    glibc maps a large tensor (32 MiB and more) anew at each allocation and unmaps it at each free:
    every call then pays a page fault per 4 KiB of output, up to three times the kernel's own time,
    and the comparison is one of allocators. With mapping and trimming off, all sides find pages
    that are there already. Holds for the whole process, so only the bench command calls it.

    Returns whether it worked: only glibc has mallopt.
    """
    M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(M_MMAP_MAX, 0) and mallopt(M_TRIM_THRESHOLD, -1))


def reserve_pages(size):
    """Puts `size` bytes of touched memory on malloc's free list, at most 1 GiB.

    A freed tensor is too small for the next of its size where malloc aligns by asking for more
    (glibc before 2.38) and its neighbour is in use: then even kept pages run out and the heap grows
    by fresh ones at every call. Carved from a larger free piece, tensors merge with it again.
    """
    torch.empty(min(size, 1 << 30), dtype=torch.uint8).fill_(0)


@contextmanager
def no_garbage_collection():
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def warm_up(call, seconds):
    """Calls for at least so many seconds (twice at least); seconds a call, from the second on."""
    call()
    begin, count = time.perf_counter(), 0
    while count == 0 or time.perf_counter() - begin < seconds:
        call()
        count += 1
    return (time.perf_counter() - begin) / count


def in_turns(sides, rounds):
    """(round, side) with the order of the sides reversed every other round."""
    for index in range(rounds):
        for side in sides if index % 2 == 0 else reversed(sides):
            yield index, side


def calls_per_round(seconds, seconds_per_call):
    """How many calls fill one of ROUNDS rounds; at least one."""
    return min(max(int(seconds / ROUNDS / seconds_per_call), 1), 2000)


def time_cpu(sides, seconds):
    """Wall-clock Timing by side name. Inputs are as warm in the caches as their size allows.

    Args:
        sides: Sides with one call each.
        seconds: time to measure each side for; a fifth of it goes to the warm-up before.
    """
    counts, samples = {}, {side.name: [] for side in sides}
    for side in sides:
        with side.context():
            counts[side.name] = calls_per_round(seconds, warm_up(side.calls[0], seconds / 5))
    with no_garbage_collection():
        for _, side in in_turns(sides, ROUNDS):
            call = side.calls[0]
            with side.context():
                for _ in range(counts[side.name]):
                    begin = time.perf_counter_ns()
                    call()
                    samples[side.name].append((time.perf_counter_ns() - begin) / 1e3)
    return {name: summarise(values, "wall") for name, values in samples.items()}
