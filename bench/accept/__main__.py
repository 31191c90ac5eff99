"""What a GPU has to say about fastconv: builds it, tests it, times it, prints a short table.

Needs torch, numpy, pytest, pybind11, ninja, setuptools and nvcc, no network and no fastconv.
"""

import argparse
import sys
import time
from pathlib import Path

from clock import Clock
from output import Output
from plan import STEPS, TOTAL_SECONDS, Place, limits
from summary import summarise


def _steps(text):
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in STEPS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"got {', '.join(unknown) or 'no name'}; steps: {', '.join(STEPS)}"
        )
    return [name for name in STEPS if name in names]


def _total(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 30 <= value <= 24 * 3600:
        raise argparse.ArgumentTypeError(f"expected 30 seconds or more, got {text!r}")
    return value


def parse(argv):
    parser = argparse.ArgumentParser(prog="accept_gpu.sh", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--out", type=Path, default=Path("fastconv-gpu"), help="default: ./fastconv-gpu"
    )
    parser.add_argument(
        "--only",
        type=_steps,
        default=list(STEPS),
        metavar="STEP,...",
        help=f"of {', '.join(STEPS)}; after a first whole run the build is kept",
    )
    parser.add_argument(
        "--seconds",
        type=_total,
        default=TOTAL_SECONDS,
        help=f"time in all (default: {TOTAL_SECONDS:.0f}); limits grow and shrink with it",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the steps and their limits")
    return parser.parse_args(argv)


def main(argv=None):
    options = parse(argv)
    place = Place(options.out.resolve())
    budget = limits(options.only, options.seconds)
    if options.dry_run:
        for name in options.only:
            print(f"{name:<12} {budget[name]:4.0f} s  {STEPS[name].what}")
        print(f"{'in all':<12} {sum(budget.values()):4.0f} s of {options.seconds:.0f}")
        return 0
    output = Output(place.out)
    clock = Clock(options.seconds)
    for index, name in enumerate(options.only):
        later = sum(budget[other] for other in options.only[index + 1 :])
        # What earlier steps did not use goes to the last one, the benchmark.
        seconds = budget[name] if later else max(budget[name], clock.left() - clock.reserve)
        output.begin(name, seconds)
        begin = time.monotonic()
        try:
            result = STEPS[name].run(place, seconds, output)
        except Exception as error:  # a step's own bug must not take the next step with it
            result = f"{type(error).__name__}: {error}"
        output.end(name, time.monotonic() - begin, result)
    text, passed = summarise(place.out, output.results)
    output.finish(text)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
