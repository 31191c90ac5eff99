"""Accepts fastconv on a GPU: builds it, tests it, times it, and prints a short table.

The machine needs torch, numpy, pytest and nvcc, but neither a network nor an installed fastconv. To
build it there, pybind11, ninja and setuptools are needed as well. --prepare builds it beforehand on
a machine without a GPU, under a Python of the version that the machine with the GPU has.
"""

import argparse
import sys
import time
from pathlib import Path

import carried
from clock import Clock, Stopped, shares
from output import Output
from place import CARRIED, ROOT, Place
from plan import STEPS, limits, schedule, total
from summary import rehearsed, summarise


def _steps(text):
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in STEPS]
    if unknown or not names:
        raise argparse.ArgumentTypeError(
            f"got {', '.join(unknown) or 'no name'}; steps: {', '.join(STEPS)}"
        )
    return [name for name in STEPS if name in names]


def _seconds(text):
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
        type=_seconds,
        help="time in all (default: the sum of the steps' limits): more is for the steps that can "
        "use it, with less the last ones are cut",
    )
    parser.add_argument(
        "--prepare",
        action="store_true",
        help="build a wheel for this Python into the folder of --carried, and stop",
    )
    parser.add_argument(
        "--carried",
        type=Path,
        default=CARRIED,
        help=f"where the wheel is (default: {CARRIED.relative_to(ROOT)} of the source tree)",
    )
    parser.add_argument(
        "--rehearse",
        action="store_true",
        help="run the steps, short and on the CPU, to see that each of them starts, is stopped in "
        "time and leaves its results",
    )
    parser.add_argument("--dry-run", action="store_true", help="print the steps and their limits")
    options = parser.parse_args(argv)
    if options.seconds is None:
        options.seconds = total(options.only, options.rehearse)
    return options


def run_steps(names, place, seconds, output):
    """Each step in turn. What one does not use goes to the next."""
    clock = Clock(seconds)
    own = list(limits(names, place.rehearsal).values())
    for index, name in enumerate(names):
        allowed = shares(clock.left() - clock.reserve, own[index:])
        output.begin(name, allowed)
        begin = time.monotonic()
        try:
            if allowed < 1:
                result = Stopped("no time was left")
            else:
                result = STEPS[name].run(place, allowed, output)
        except Exception as error:  # a step's own bug must not take the next step with it
            result = f"{type(error).__name__}: {error}"
        output.end(name, time.monotonic() - begin, result)


def main(argv=None):
    options = parse(argv)
    if options.dry_run:
        planned = schedule(options.only, options.seconds, options.rehearse)
        for name, seconds in planned.items():
            print(f"{name:<12} {seconds:4.0f} s  {STEPS[name].what}")
        print(f"{'in all':<12} {sum(planned.values()):4.0f} s of {options.seconds:.0f}")
        return 0
    if options.prepare:
        return carried.prepare(ROOT, options.carried.resolve())
    place = Place(options.out.resolve(), carried=options.carried.resolve())
    if options.rehearse:
        place = Place(place.out, carried=place.carried, rehearsal=True)
        place.emulate()
    output = Output(place.out)
    run_steps(options.only, place, options.seconds, output)
    judge = rehearsed if place.rehearsal else summarise
    text, passed = judge(place.out, output.results)
    output.finish(text)
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
