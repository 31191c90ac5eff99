"""Work in child processes, one item at a time, each step of it within a time limit: an item that
hangs, crashes or destroys its GPU's context ends its process alone, and another one goes on."""

import multiprocessing
import signal
import threading
import time
from dataclasses import dataclass

import torch

START_SECONDS = 120.0  # in which a process must have imported everything
_GOODBYE_SECONDS = 5.0  # in which a killed process must be gone; a driver may hold it for longer


@dataclass(frozen=True)
class Result:
    """What became of an item.

    Attributes:
        outcome: "passed", "failed" or "skipped", as the item said; "hung" (a step took longer than
            the limit) or "crashed" (its process ended).
        seconds: how long it took.
        reason: why it did not pass, "" where it did.
        count: how many steps it took, as far as it came.
    """

    outcome: str
    seconds: float
    reason: str = ""
    count: int = 0


def context_is_lost():
    """Whether every further CUDA call of this process would fail."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False


def _serve(connection):
    """A child's life. It is sent items, and answers with what their run(report) returns or the
    exception that it raises."""
    torch.set_num_threads(1)
    connection.send(None)
    while True:
        item = connection.recv()
        try:
            outcome, reason, count = item.run(lambda step: connection.send(step))
        except Exception as error:  # whatever a kernel, a compiler or a driver says
            outcome, reason, count = "failed", f"{type(error).__name__}: {error}", 0
        lost = outcome == "failed" and context_is_lost()
        connection.send((outcome, reason, count, lost))
        if lost:
            return


class _Child:
    def __init__(self):
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=_serve, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()  # or the end of the process would not be the end of the pipe
        if not self._connection.poll(START_SECONDS):
            self.stop()
            raise TimeoutError(f"a process did not start within {START_SECONDS:.0f} s")
        self._connection.recv()

    def run(self, item, seconds):
        """(Result, whether it can run more)"""
        begin, step, count = time.monotonic(), "", 0
        try:
            self._connection.send(item)
            while self._connection.poll(seconds):
                answer = self._connection.recv()
                if isinstance(answer, tuple):
                    outcome, reason, count, lost = answer
                    return Result(outcome, time.monotonic() - begin, reason, count), not lost
                step, count = answer, count + 1
            outcome, reason = "hung", f"{step}: not done within {seconds:g} s"
        except (EOFError, OSError):
            self._process.join(_GOODBYE_SECONDS)
            outcome, reason = "crashed", f"{step}: {_ending(self._process.exitcode)}"
        return Result(outcome, time.monotonic() - begin, reason, count), False

    def stop(self):
        self._process.kill()
        self._process.join(_GOODBYE_SECONDS)
        self._connection.close()


def _ending(status):
    if status is not None and status < 0:
        return f"its process was ended by {signal.Signals(-status).name}"
    return f"its process ended with status {status}"


def run_all(items, add, seconds, workers=1, until=float("inf")):
    """Runs items, and calls add(item, Result) for each as it ends, never twice at a time.

    Args:
        items: objects that can be pickled, whose run(report) returns (outcome, reason, count) as a
            Result has them and calls report(name) as each step begins.
        seconds: the limit of one step.
        workers: how many processes at a time.
        until: the time, by time.monotonic(), after which none begins.
    """
    remaining, lock = iter(items), threading.Lock()

    def work():
        child = None
        try:
            while time.monotonic() < until:
                with lock:
                    item = next(remaining, None)
                if item is None:
                    return
                try:
                    child = child or _Child()
                except (EOFError, OSError) as error:
                    reason = f"no process could be started: {type(error).__name__} {error}"
                    with lock:
                        add(item, Result("crashed", 0.0, reason))
                    return
                result, usable = child.run(item, seconds)
                with lock:
                    add(item, result)
                if not usable:
                    child.stop()
                    child = None
        finally:
            if child is not None:
                child.stop()

    threads = [threading.Thread(target=work) for _ in range(workers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
