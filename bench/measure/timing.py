"""The timer of the CPU, and what the CUDA timer shares with it.

Sides (fastconv and its baselines) take turns, round by round, so that a machine that slows down
slows all of them; the median and the 20th and 80th percentile of the calls' times are kept.
"""

import ctypes
import gc
import resource
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

ROUNDS = 5
# Page faults (of 4 KiB) of one round that do not count, and rounds after which settling gives up:
# without mallopt there is no end to faults.
SETTLED_FAULTS, SETTLING_ROUNDS = 16, 20


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
    page_faults: float | None = None  # a call, on the CPU; see keep_pages


def summarise(samples_us, method, eager_us=None, note="", page_faults=None):
    median = statistics.median(samples_us)
    p20, _, _, p80 = statistics.quantiles(samples_us, n=5, method="inclusive")
    eager = median if eager_us is None else eager_us
    return Timing(median, p20, p80, len(samples_us), method, eager, note, page_faults)


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


def page_faults():
    """Pages that this process has touched for the first time since it began."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt


def settle(sides):
    """Calls the sides in turns until the heap has stopped growing: no call takes fresh pages.

    With pages kept, a heap still grows during the first ten calls or so, until its free pieces fit
    what is asked for in turns; those calls would be timed with their page faults.
    """
    for _ in range(SETTLING_ROUNDS):
        before = page_faults()
        for side in sides:
            with side.context():
                side.calls[0]()
        if page_faults() - before < SETTLED_FAULTS:
            return


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
    settle(sides)
    faults = dict.fromkeys(samples, 0)
    with no_garbage_collection():
        for _, side in in_turns(sides, ROUNDS):
            call, times = side.calls[0], samples[side.name]
            before = page_faults()
            with side.context():
                for _ in range(counts[side.name]):
                    begin = time.perf_counter_ns()
                    call()
                    times.append((time.perf_counter_ns() - begin) / 1e3)
            faults[side.name] += page_faults() - before
    return {
        name: summarise(times, "wall", page_faults=faults[name] / len(times))
        for name, times in samples.items()
    }
