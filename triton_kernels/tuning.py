"""Which configuration a kernel runs with: the table's, or the one that was fastest when they were
tried on a problem of this kind.

With FASTCONV_AUTOTUNE=1 the first call of a key tries all configurations, on outputs that are
allocated for that. What is found is kept (tuning_cache.py), and later processes use it with or
without the variable. Configurations may cut sums
differently, so a choice can change a result's last bits; once found, it stays.

@triton.autotune cannot be used instead. A damaged file in its cache on disk makes calls fail
(json.load in triton/runtime/autotuner.py), it takes its timer from a GPU's driver, which the
interpreter has not got, and it cannot give each tile its own number of slices and their workspace.
"""

import contextlib
import functools
import importlib.util
import logging
import re
import threading

import torch
import triton
import triton.testing
from triton.compiler.errors import CompilationError
from triton.runtime.errors import OutOfResources, PTXASError

from ..variables import is_set
from .launch import IS_INTERPRETED, pixels_inner
from .tuning_cache import Tuned, TunedChoices, folder

_CANNOT_RUN = (CompilationError, OutOfResources, PTXASError, torch.OutOfMemoryError)
_KEY = re.compile(
    r"(?P<stem>(conv2d|pool2d)_\w+) \w+ (?P<dtype>float64|float32|float16|bfloat16)( \w+)? "
    r"(pixels|channels)(/(pixels|channels))?( \w+=\d{1,19})+"
)
_log = logging.getLogger(__name__)
# Two at a time would slow each other down.
_one_at_a_time = threading.RLock()


def layout(*tensors):
    """What lanes lie along in the 4-D tensors of a call; one word where it is the same in all."""
    inner = ["pixels" if pixels_inner(tensor) else "channels" for tensor in tensors]
    return inner[0] if len(set(inner)) == 1 else "/".join(inner)


def make_key(stem, op, dtype, math, layout, **extents):
    """What a choice is kept for, as text; each extent counts as the next power of two."""
    words = (stem, op, str(dtype).removeprefix("torch."), math, layout)
    sizes = (f"{name}={triton.next_power_of_2(extent)}" for name, extent in extents.items())
    return " ".join((*filter(None, words), *sizes))


def configs_for(stem, dtype):
    """The configurations of a kernel file that suit a dtype: all, unless the file says which."""
    kernel = importlib.import_module(f"{__package__}.{stem}")
    return kernel.configs(dtype) if hasattr(kernel, "configs") else kernel.CONFIGS


def candidates(key):
    """The configurations that a key chooses among; none if it is not a key of make_key()."""
    match = _KEY.fullmatch(key)
    if match is None or importlib.util.find_spec(f"{__package__}.{match['stem']}") is None:
        return ()
    return configs_for(match["stem"], getattr(torch, match["dtype"]))


@functools.cache
def _choices_of(device):
    return TunedChoices(folder(), device, triton.__version__, candidates)


def choices(index):
    """The TunedChoices of a CUDA device; None is the interpreter. Read once in a process."""
    return _choices_of(_device_name(index))


@functools.cache
def _device_name(index):
    return "interpreter" if index is None else torch.cuda.get_device_name(index)


def device_us(run):
    """Median microseconds of run() on the GPU, its second-level cache emptied before each."""
    return 1e3 * triton.testing.do_bench(run, return_mode="median")


# What measures; in the interpreter, where time means nothing, tests set another.
timer = device_us


def choose(key, table, outs, run):
    """The configuration to run a call with.

    Args:
        key: of make_key().
        table: the configuration to take where none was tuned; one of the kernel's CONFIGS.
        outs: the tensors that the call writes, the first on the device that runs it; None is
            passed over.
        run: run(config, outs) launches the call into outs.
    """
    index = outs[0].device.index
    found = choices(index).get(key)
    if found is None and _is_wanted(key, outs[0]):
        with _one_at_a_time:
            found = choices(index).get(key) or _tune(key, table, outs, run)
    return found.config if found is not None else table


# Keys for which this process could not time any configuration.
_untunable = set()


def _is_wanted(key, out):
    if key in _untunable or not is_set("FASTCONV_AUTOTUNE"):
        return False
    if IS_INTERPRETED:
        return timer is not device_us
    with torch.cuda.device(out.device):
        return not torch.cuda.is_current_stream_capturing()


def _tune(key, table, outs, run):
    def attempt(config):
        scratch = [None if out is None else torch.empty_like(out) for out in outs]
        return timer(functools.partial(run, config, scratch))

    on_device = contextlib.nullcontext() if IS_INTERPRETED else torch.cuda.device(outs[0].device)
    with on_device:
        found = fastest(table, candidates(key), attempt)
    if found is None:
        _untunable.add(key)
    else:
        _log.debug("%s: %s, %s", key, found.config, found)
        choices(outs[0].device.index).put(key, found)
    return found


def fastest(table, configs, attempt):
    """The Tuned of the configuration with the least attempt(config), of equals the table's; None
    where none can run."""
    times = {}
    for config in (table, *(c for c in configs if c != table)):
        try:
            times[config] = round(attempt(config), 3)
        except _CANNOT_RUN as error:
            _log.debug("%s: skipped, %s: %s", config, type(error).__name__, error)
    if not times:
        return None
    best = min(times, key=times.get)
    return Tuned(best, times[best], times.get(table))
