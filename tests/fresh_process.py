"""Calls in interpreters of their own, which import the module of the called function."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

CHILD_SECONDS = 180  # then it hangs; seconds suffice on an idle machine
HELPER_SECONDS = 10


def run_fresh(folder, *calls, **environment):
    """Runs calls (function of a test module, *arguments), each in an interpreter of its own and all
    at the same time. Fails where one fails, hangs or leaves a process behind; of those that hang
    it shows where all their threads are."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    strict = {"FASTCONV_STRICT": "1", "PYTHONFAULTHANDLER": "1", "PYTHONPATH": path}
    environment = {**os.environ, **strict, **environment}
    logs = [folder / f"log{i}.txt" for i in range(len(calls))]
    children = []
    try:
        for call, log in zip(calls, logs):
            children.append(start_fresh(*call, log=log, cwd=folder, env=environment))
        codes = wait_for(children)
        if None in codes:
            show_threads(children)
        assert codes == [0] * len(calls), "\n".join(log.read_text() for log in logs)
        assert not [row for child in children for row in wait_for_group(child.pid)]
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def start_fresh(function, *arguments, log, **options):
    """As the leader of a process group, which its own children will belong to."""
    module = function.__module__
    code = f"import {module}; {module}.{function.__name__}(*{arguments!r})"
    command = [sys.executable, "-c", code]
    with log.open("w") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, **options
        )


def wait_for(children):
    """Exit codes of all, as soon as one has failed; None: it still runs."""
    deadline = time.monotonic() + CHILD_SECONDS
    while True:
        codes = [child.poll() for child in children]
        if None not in codes or any(codes) or time.monotonic() > deadline:
            return codes
        time.sleep(0.02)


def show_threads(children):
    """Makes all processes write their threads' stacks to their logs: faulthandler, on SIGABRT."""
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGABRT)
    for child in children:
        wait_for_group(child.pid)


def wait_for_group(group):
    """What still lives of a process group after a while: multiprocessing's own helpers end a moment
    after their parent."""
    deadline = time.monotonic() + HELPER_SECONDS
    while True:
        listing = subprocess.run(
            ["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True
        ).stdout
        rows = [line.split(maxsplit=2) for line in listing.splitlines()]
        living = [row for row in rows if int(row[0]) == group and not row[1].startswith("Z")]
        if not living or time.monotonic() > deadline:
            return living
        time.sleep(0.02)
