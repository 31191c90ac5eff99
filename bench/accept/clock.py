"""Commands under a time limit: what runs too long is stopped with all its children."""

import os
import signal
import subprocess
import time

GRACE = 3.0  # seconds between asking a command to stop and killing it


class Stopped(str):
    """What went wrong with a step that ran out of time, where nothing else did."""


class Clock:
    """Counts down the time of the whole run."""

    reserve = 5.0  # for the summary

    def __init__(self, seconds):
        self._end = time.monotonic() + seconds

    def left(self):
        return self._end - time.monotonic()


def shares(seconds, limits):
    """How many of so many seconds the next step may take: its own limit, or more where the limits
    of the steps after it leave more. `limits`: of the next step and of those after it, in order."""
    own, *later = limits
    return min(max(own, seconds - sum(later)), max(seconds, 0.0))


def _signal_group(process, number):
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):
        pass


def run(command, log, seconds, cwd=None, env=None):
    """The exit status of a command, or None where it was stopped for time.

    Args:
        log: a file that takes what it prints.
        seconds: its limit, GRACE included.
    """
    process = subprocess.Popen(
        command,
        stdout=log,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        env=env,
        start_new_session=True,  # its children form a group that can be stopped as one
    )
    try:
        return process.wait(max(seconds - GRACE, 1.0))
    except subprocess.TimeoutExpired:
        _signal_group(process, signal.SIGTERM)
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            pass
        return None
    finally:
        _signal_group(process, signal.SIGKILL)  # a child that outlived its parent, too
        process.wait()
