"""How busy other programs keep the CPUs, by /proc/stat.

It matters here: torch's OpenMP threads wait for each other at a barrier after every operator, so a
thread that another program has pushed aside costs torch a scheduler's slice (8 ms), where kernels
that hand out small tasks lose little. A busy machine would flatter us by factors.
"""

import os
import time

# CPUs' worth of other programs above which a time is not to be quoted. /proc/stat counts in steps
# of 10 ms, so a line of --quick is known to some 0.1 CPUs.
DISTURBED_LIMIT = 0.2


def _busy_seconds():
    """Seconds that our CPUs were at work for anybody since boot; None without /proc/stat."""
    try:
        names = {f"cpu{index}" for index in os.sched_getaffinity(0)}
        with open("/proc/stat") as file:
            lines = [line.split() for line in file if line.startswith("cpu")]
        ticks = 0
        for name, *times in lines:
            if name in names:
                user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, times[:8])
                ticks += user + nice + system + irq + softirq + steal
        return ticks / os.sysconf("SC_CLK_TCK")
    except (AttributeError, OSError, ValueError):
        return None


class OthersLoad:
    """`with OthersLoad() as load: ...`, then load.cpus: how many CPUs other programs kept busy
    inside, or None where that cannot be known."""

    cpus = None

    def __enter__(self):
        self._begin = _busy_seconds(), time.process_time(), time.perf_counter()
        return self

    def __exit__(self, *exception):
        end = _busy_seconds(), time.process_time(), time.perf_counter()
        if end[0] is not None and self._begin[0] is not None:
            busy, own, wall = (b - a for a, b in zip(self._begin, end, strict=True))
            self.cpus = max(0.0, (busy - own) / wall)
