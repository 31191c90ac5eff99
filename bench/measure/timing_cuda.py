"""The timer of a GPU: events around CUDA graphs, inputs cold in L2.

A graph holds one call for each set of inputs; the sets together are larger than L2, so that every
call finds its inputs in memory and not in the cache, as in a network. Graphs leave out the
launches; `eager_us` has them.
"""

import time

import torch

from .timing import (
    ROUNDS,
    calls_per_round,
    in_turns,
    no_garbage_collection,
    summarise,
    warm_up,
)

# The sets of inputs together hold this many times the L2 cache.
L2_TIMES = 3
# Enough calls in a graph that an event's resolution (about 1 us) does not count.
MIN_SETS, MAX_SETS = 4, 256


def input_sets(bytes_per_set, device):
    """How many sets of inputs a side rotates through.

    Args:
        bytes_per_set: compulsory bytes of one call.
    """
    properties = torch.cuda.get_device_properties(device)
    l2 = getattr(properties, "L2_cache_size", 64 << 20)
    # A set keeps up to four times its compulsory bytes alive: x, w, y, dy, and a saved y a side.
    affordable = torch.cuda.mem_get_info(device)[0] // 2 // (4 * bytes_per_set)
    wanted = min(max(-(-L2_TIMES * l2 // bytes_per_set), MIN_SETS), MAX_SETS)
    return int(max(1, min(wanted, affordable)))


def _run_all(calls):
    for call in calls:
        call()


def _captured(side):
    """(a function that replays all of a side's calls, None), or (None, why there is no graph)."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            _run_all(side.calls)
    except RuntimeError as error:
        torch.cuda.synchronize()
        return None, str(error).strip().splitlines()[0]
    return graph.replay, None


def _elapsed_us(function):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3


def time_cuda(sides, seconds):
    """Device Timing by side name.

    The current stream must not be the default one, where no graph can be captured, and the forward
    passes whose backward is timed must have run on it.

    Args:
        sides: Sides with one call for each set of inputs.
        seconds: time to measure each side for; a fifth of it goes to the warm-up before.
    """
    runs, eager_us, note = {}, {}, ""
    for side in sides:
        with side.context():

            def run_and_wait(calls=side.calls):
                _run_all(calls)
                torch.cuda.synchronize()

            # cuDNN picks its algorithms and Triton compiles here.
            eager_us[side.name] = warm_up(run_and_wait, seconds / 5) * 1e6 / len(side.calls)
            runs[side.name], reason = _captured(side)
            note = note or (f"{side.name}: {reason}" if reason else "")
    method = "cuda events" if note else "cuda graph"
    if note:  # the same method for every side
        runs = {side.name: (lambda calls=side.calls: _run_all(calls)) for side in sides}

    counts, samples = {}, {side.name: [] for side in sides}
    for side in sides:
        with side.context():
            begin = time.perf_counter()
            _elapsed_us(runs[side.name])
            counts[side.name] = calls_per_round(seconds, time.perf_counter() - begin)
    with no_garbage_collection():
        for _, side in in_turns(sides, ROUNDS):
            with side.context():
                for _ in range(counts[side.name]):
                    sample = _elapsed_us(runs[side.name]) / len(side.calls)
                    samples[side.name].append(sample)
    return {
        name: summarise(values, method, eager_us[name], note) for name, values in samples.items()
    }
