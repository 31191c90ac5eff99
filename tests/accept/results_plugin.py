"""A pytest plugin, -p results_plugin: with --results=FILE.csv, a line for each test as it ends, so
that a run that is stopped leaves what it has.

And it ends a process whose CUDA context an error has destroyed, where each later test would fail by
that error: pytest-xdist starts another worker, and without xdist the run ends."""

import csv
import os

import pytest

COLUMNS = ("test", "outcome", "seconds", "reason")
MOST_REASON = 300  # characters
LOST = 70  # exit status of a worker


class ResultsFile:
    """Lines of COLUMNS, each written at once."""

    def __init__(self, path):
        self._file = open(path, "w", newline="", buffering=1)
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(COLUMNS)

    def add(self, test, outcome, seconds, reason=""):
        words = " ".join(str(reason).split())[:MOST_REASON]
        self._writer.writerow((test, outcome, f"{seconds:.2f}", words))
        self._file.flush()


def _reason(report):
    if isinstance(report.longrepr, tuple):  # of a skipped test: file, line, reason
        return report.longrepr[2]
    crash = getattr(report.longrepr, "reprcrash", None)
    lines = (crash.message if crash else str(report.longrepr or "")).strip().splitlines()
    return " ".join(lines) if crash else "".join(lines[-1:])


class ResultsPlugin:
    def __init__(self, path, config):
        self._results, self._config = ResultsFile(path), config

    def pytest_runtest_logreport(self, report):
        if report.when == "call" or not report.passed:
            self._results.add(report.nodeid, report.outcome, report.duration, _reason(report))
        if report.failed:
            self._say(report)

    def pytest_collectreport(self, report):
        if report.failed:
            self._results.add(report.nodeid, "failed", 0, _reason(report))

    def _say(self, report):
        """At once: a run that is stopped does not come to its summary of failures."""
        terminal = self._config.pluginmanager.get_plugin("terminalreporter")
        terminal.write_line(f"\n{report.nodeid}\n{report.longreprtext}")


def context_is_lost():
    """As fastconv.selftest.children, which is imported only after a failure."""
    from fastconv.selftest import children

    return children.context_is_lost()


class ContextPlugin:
    """Ends the process once an error has destroyed its CUDA context."""

    _failed = False

    def pytest_runtest_logreport(self, report):
        self._failed |= report.failed

    @pytest.hookimpl(trylast=True)  # when the report is sent
    def pytest_runtest_logfinish(self):
        if self._failed and context_is_lost():
            os._exit(LOST)  # what is left of the context can block a usual exit
        self._failed = False


def pytest_addoption(parser):
    parser.addoption("--results", metavar="FILE", help="a CSV with a line for each test as it ends")


def pytest_configure(config):
    is_worker = hasattr(config, "workerinput")
    if config.getoption("--results") and not is_worker:
        config.pluginmanager.register(ResultsPlugin(config.getoption("--results"), config))
    if is_worker or not getattr(config.option, "numprocesses", None):
        config.pluginmanager.register(ContextPlugin())
