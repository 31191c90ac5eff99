"""Times for fastconv.explain: medians of some runs, and whether other programs disturbed them."""

import os
import statistics
import time

import torch

from ..bench.measure.load import DISTURBED_LIMIT, OthersLoad

# So many runs, begun within so many seconds; and where these differ much, up to so many.
_RUNS, _SECONDS = 5, 0.5
_MOST_RUNS, _MOST_SECONDS = 15, 1.5
_SPREAD = 1.25  # the median run's time over the fastest's, from which on runs differ much
_LOAD_SECONDS = 0.2  # the kernel counts CPU time in steps of 10 ms: shorter runs say nothing of it


def take_medians(run, decisions):
    """Sets the times of decisions.

    Args:
        run: run() makes the calls again and returns their Decisions.
        decisions: of a first run.

    Returns:
        The number of runs that made the same calls, and what disturbed them, "" for nothing.
    """
    samples = []
    begin = time.perf_counter()
    with OthersLoad() as load:
        for count in range(1, _MOST_RUNS + 1):
            again = run()
            if list(map(_identity, again)) == list(map(_identity, decisions)):
                samples.append([decision.time_us for decision in again])
            seconds = time.perf_counter() - begin
            is_enough = count >= _RUNS or seconds > _SECONDS
            if seconds > _MOST_SECONDS or (is_enough and _spread(samples) <= _SPREAD):
                break
    for decision, times in zip(decisions, zip(*samples)):
        decision.time_us = None if None in times else statistics.median(times)
    others = load.cpus if seconds >= _LOAD_SECONDS and _run_on_cpus(decisions) else None
    return len(samples), _disturbance(_spread(samples), others)


def _identity(decision):
    return decision.layer, decision.operator, decision.call, decision.dtype, decision.backend


def _run_on_cpus(decisions):
    return all(decision.device == "cpu" for decision in decisions)


def _spread(samples):
    """How many times as long as the fastest run half of them took or longer."""
    totals = [sum(time or 0 for time in times) for times in samples]
    return statistics.median(totals) / min(totals) if any(totals) else 1.0


def _disturbance(spread, others):
    if spread > _SPREAD:
        return f"half of the runs took {spread:.1f} times the fastest's time or longer"
    if others is not None and others + torch.get_num_threads() > _cpus() + DISTURBED_LIMIT:
        return f"other programs kept {others:.1f} of {_cpus()} CPUs busy"
    return ""


def _cpus():
    return len(os.sched_getaffinity(0))
