"""The steps in their order, and for how long each may run."""

from collections.abc import Callable
from dataclasses import dataclass

import steps
from clock import Clock, shares


@dataclass(frozen=True)
class Step:
    run: Callable
    seconds: float  # its limit; what earlier steps have left is added to it
    rehearsal: float  # its limit in a rehearsal
    what: str


STEPS = {
    "environment": Step(steps.environment, 20, 20, "versions, driver, GPU, and what is missing"),
    "build": Step(steps.build, 100, 80, "takes the wheel that was carried along, or builds it"),
    "wrappers": Step(steps.wrappers, 60, 40, "each PTX wrapper against its host twin's formula"),
    "selftest": Step(steps.selftest, 35, 20, "every CUDA algorithm, exactly, wherever it hangs"),
    "tests": Step(steps.tests, 95, 40, "the tests of the CUDA kernels, gradcheck, ResNet-18"),
    "bench": Step(steps.bench, 120, 30, "layers and pools against cuDNN and ATen"),
    "triton": Step(steps.triton, 60, 40, "every Triton kernel, dtype and layout once, then more"),
    "sanitizer": Step(steps.sanitizer, 45, 25, "compute-sanitizer memcheck and racecheck"),
}


def limits(names, rehearsal=False):
    """{step: seconds}"""
    return {n: STEPS[n].rehearsal if rehearsal else STEPS[n].seconds for n in names}


def total(names, rehearsal=False):
    """Seconds that these steps need at most."""
    return sum(limits(names, rehearsal).values()) + Clock.reserve


def schedule(names, seconds, rehearsal=False):
    """{step: seconds} where each takes all that it may."""
    left, planned = seconds - Clock.reserve, {}
    own = list(limits(names, rehearsal).values())
    for index, name in enumerate(names):
        planned[name] = shares(left, own[index:])
        left -= planned[name]
    return planned
