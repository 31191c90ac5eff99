"""Which of the small problems a given kernel is tried on."""

from dataclasses import dataclass

from ..backends import BACKENDS
from .cases import FEWEST_MULTIPROCESSORS, problems_of
from .problems import Place, Problem


@dataclass(frozen=True)
class Trial:
    """One operation of one problem, by one backend, in one place."""

    problem: Problem
    backend: object
    operation: str
    place: Place

    def wrong(self):
        """What is wrong with it, in words, or None."""
        return self.problem.wrong(self.backend, self.operation, self.place)


def find(backend, kernel, device):
    """The Trial of a Kernel of a backend: a problem that leads to this very kernel, or else to the
    one of the same algorithm that differs from it in the least.

    Raises:
        LookupError: there is none; then selftest/problems.py lacks a problem.
    """
    backend = BACKENDS.get(f"{backend.name.partition(':')[0]}:{kernel.algorithm}", backend)
    nearest, most_alike = None, -1
    for problem in problems_of(kernel.operation):
        if problem.reason(backend, kernel.dtype, device) is not None:
            continue
        for planned in (backend, backend.planned_for(FEWEST_MULTIPROCESSORS)):
            for channels_last in (True, False):
                found = planned.kernel(
                    kernel.operation, problem.call, kernel.dtype, channels_last, device.index
                )
                place = Place(kernel.dtype, device, channels_last)
                trial = Trial(problem, planned, kernel.operation, place)
                if found == kernel:
                    return trial
                alike = sum(a == b for a, b in zip(found.detail, kernel.detail))
                if found.algorithm == kernel.algorithm and alike > most_alike:
                    nearest, most_alike = trial, alike
    if nearest is None:
        raise LookupError(f"no problem of the self-test runs {kernel}")
    return nearest
