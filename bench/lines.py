"""Which lines a command of `fastconv bench` asks for: the parts, what each of them measures, and
for how long."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from ..dispatch import get_backend
from .cases.calls import select_calls
from .cases.selection import LAYOUTS, select_cases, select_shapes
from .measure import networks
from .measure.baselines import Baseline, baselines, why_impossible
from .measure.calls import measure_call
from .measure.measure import measure
from .options import KNOWN_PASSES


@dataclass(frozen=True)
class Part:
    """One part of the bench and its file of results."""

    measure: Callable  # measure.measure or one with its arguments
    seconds: float  # measuring time for each side of a line
    quick_seconds: float
    batches: dict  # device -> values of N; None: those of the CSVs
    quick_batches: dict
    layouts: tuple = tuple(LAYOUTS)
    threads: int | None = None  # None: torch's
    has_roofline: bool = True  # whether its times are held against the device's ceilings


PARTS = {
    "layers": Part(measure, 0.4, 0.1, {"cpu": [1, 8], "cuda": None}, {"cpu": [1], "cuda": [32]}),
    "pools": Part(measure, 0.4, 0.1, {"cpu": [1, 8], "cuda": None}, {"cpu": [1], "cuda": [32]}),
    "ops": Part(measure, 0.4, 0.1, {"cpu": [8], "cuda": [32]}, {"cpu": [1], "cuda": [32]}),
    "shapes": Part(measure, 0.4, 0.1, {"cpu": [], "cuda": []}, {"cpu": [], "cuda": []}),
    "models": Part(
        networks.measure_network,
        4,
        0.3,
        {"cpu": [8], "cuda": [8]},
        {"cpu": [1], "cuda": [1]},
        has_roofline=False,
    ),
    "calls": Part(
        measure_call,
        0.2,
        0.1,
        {"cpu": [1], "cuda": [1]},
        {"cpu": [1], "cuda": [1]},
        layouts=("nchw",),
        threads=1,
        has_roofline=False,
    ),
}


@dataclass(frozen=True)
class Line:
    """A case of a part and what it is to be held against."""

    part: str
    case: object
    threads: int
    against: list[Baseline]


class BadRequest(Exception):
    """What cannot be done, in one line that names the argument."""


def _cases(part, device, options):
    quick, defaults = options.quick, PARTS[part]
    batches = options.batch or (defaults.quick_batches if quick else defaults.batches)[device]
    layouts = options.layout or defaults.layouts
    passes = options.passes or KNOWN_PASSES
    words = [word.strip() for word in options.filter.split(",") if word.strip()]
    wanted = (layouts, passes, options.dtype, words, quick)
    if part == "models":
        return networks.select_networks(batches, options.image_size, *wanted)
    if part == "calls":
        return select_calls(batches, *wanted)
    if part == "shapes":
        return select_shapes(options.shape, *wanted[:-1])
    return select_cases(batches, *wanted, [part])


def plan_lines(device, options):
    """All Lines that are asked for. Raises BadRequest where one of them is impossible."""
    parts = list(dict.fromkeys(options.parts or ([] if options.shape else ("layers", "pools"))))
    parts += ["shapes"] * bool(options.shape)
    if parts == ["shapes"] and options.batch:
        raise BadRequest("--batch: a --shape has its own n")
    if "onnxruntime" in (options.baseline or ()) and {*parts} != {"models"}:
        raise BadRequest("--baseline onnxruntime: of whole networks alone, fastconv bench models")
    if "models" in parts and (other := set(options.dtype) - set(networks.DTYPES)):
        raise BadRequest(f"--dtype {min(other)}: models take {' and '.join(networks.DTYPES)} only")
    try:
        get_backend(options.backend)
    except ValueError as error:
        raise BadRequest(f"--backend: {error}") from None
    if reason := why_impossible(options.baseline or (), device):
        raise BadRequest(f"--baseline {reason}")
    lines = [
        Line(part, case, threads, baselines(case, device, options.backend, options.baseline))
        for part in parts
        for threads in options.threads or [PARTS[part].threads or torch.get_num_threads()]
        for case in _cases(part, device, options)
    ]
    if not lines:
        narrowing = {
            "--filter": options.filter,
            "--passes": options.passes,
            "--quick": options.quick,
        }
        given = " and ".join(name for name, value in narrowing.items() if value)
        together = " together" if " and " in given else ""
        raise BadRequest(f"nothing to time: no line fits {given}{together}")
    return lines


def seconds_of(line, options):
    """Measuring time for each side of a line."""
    part = PARTS[line.part]
    return options.seconds or (part.quick_seconds if options.quick else part.seconds)


def least_seconds(lines, options):
    """What measuring lines takes at least: each side's time and a fifth of it to warm up."""
    return sum(1.2 * seconds_of(line, options) * (len(line.against) + 1) for line in lines)
