"""The `fastconv` command: bench, report, demo, selftest, info. Also `python -m fastconv`."""

import argparse
import importlib.util
import shlex
import sys
from importlib.metadata import PackageNotFoundError, requires, version

from .bench.options import add_bench_options, add_demo_options, add_report_options
from .selftest.command import add_options as add_selftest_options

# What a command needs beyond a plain install: module -> name of its package.
NEEDS = {
    "bench": {"rich": "rich"},
    "demo": {"rich": "rich", "sklearn": "scikit-learn"},
    "report": {"rich": "rich", "matplotlib": "matplotlib", "jinja2": "jinja2"},
}


def _is_missing(module):
    # None in sys.modules is how an import is blocked.
    if module in sys.modules:
        return sys.modules[module] is None
    return importlib.util.find_spec(module) is None


def _requirement(package):
    """The package with its version, as our metadata has it: rich>=13."""
    try:
        lines = requires("fastconv") or []
    except PackageNotFoundError:
        lines = []
    for line in lines:
        requirement = line.partition(";")[0].strip()
        if requirement.startswith(package):
            return requirement
    return package


def _missing_extra(command):
    """One line that names what a command lacks and how to install it, or None."""
    missing = [name for module, name in NEEDS.get(command, {}).items() if _is_missing(module)]
    if not missing:
        return None
    install = shlex.join(["pip", "install", *map(_requirement, missing)])
    return f"fastconv {command} needs {' and '.join(missing)}: {install}"


def _parser():
    parser = argparse.ArgumentParser(
        prog="fastconv", description="Hand-written convolution and pooling kernels for PyTorch."
    )
    parser.add_argument("--version", action="version", version=f"fastconv {version('fastconv')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    bench = commands.add_parser(
        "bench",
        help="verify, then time fastconv against torch",
        description="Verifies every kernel against float64, then times it in turns with torch's: "
        "convolutions, conv+bias+ReLU and pools of known networks, each pass apart; whole networks "
        "and the cost of calls too. Exit status 1 where a result is wrong; a wrong result gets no "
        "number. Ctrl-C keeps what was measured, and the next run goes on.",
    )
    add_bench_options(bench)
    report = commands.add_parser(
        "report",
        help="a page and plots from the results of bench, or what changed between two runs",
        description="Writes report.html, one page that needs nothing else, and its plots as PNG "
        "files, from the CSV files that bench left in FOLDER; or prints, line by line, what became "
        "faster or slower between two FOLDERs. Exit status 2 where there are no results.",
    )
    add_report_options(report)
    demo = commands.add_parser(
        "demo",
        help="train on handwritten digits and compare with torch",
        description="Trains a small network on scikit-learn's 1,797 handwritten digits twice, with "
        "torch's layers and with fastconv's, then compares a ResNet-18 forward and backward. Exit "
        "status 0 where all agrees, 1 where not, 3 where nothing disagrees but the digits were not "
        "learnt in so few epochs.",
    )
    add_demo_options(demo)
    selftest = commands.add_parser(
        "selftest",
        help="every algorithm on small problems, exactly, wherever it hangs or crashes",
        description="Runs every algorithm of convolutions, epilogues and pools, in each pass, "
        "dtype and layout, on small problems of integers, whose results must be exact. Each line "
        "of the table is run by a process that may hang or crash; the next line goes on. Exit "
        "status 0 where all lines passed, 1 where not, 2 where there was nothing to run, 3 where "
        "the time ended before the lines did.",
    )
    add_selftest_options(selftest)
    commands.add_parser("info", help="what this installation can do, and why not more")
    return parser


def main(argv=None):
    """Runs one command; argv defaults to the process's. Returns the exit status."""
    arguments = sys.argv[1:] if argv is None else argv
    options = _parser().parse_args(arguments)
    if message := _missing_extra(options.command):
        print(message, file=sys.stderr)
        return 2
    if options.command == "bench":
        from .bench.run import run

        return run(options, shlex.join(["fastconv", *arguments]))
    if options.command == "report":
        from .bench.report.page import run

        return run(options)
    if options.command == "demo":
        from .bench.demo.demo import run

        return run(options)
    if options.command == "selftest":
        from .selftest.command import run

        return run(options, shlex.join(["fastconv", *arguments]))
    from . import info

    print(info())
    return 0


if __name__ == "__main__":
    sys.exit(main())
