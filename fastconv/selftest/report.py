"""The self-test's table, and its results as JSON."""

import json
import platform
from importlib.metadata import version

import torch

from .. import _native
from .cases import device_of

BAD = ("failed", "hung", "crashed")
_WIDTH = 100  # of a reason, in columns


def line(case, result):
    """A line of the table."""
    detail = f"{result.count} problems" if result.outcome == "passed" else result.reason
    words = " ".join(detail.split())
    words = words if len(words) <= _WIDTH else words[: _WIDTH - 1] + "…"
    return f"{result.outcome:<8} {case.name:<58} {result.seconds:6.2f} s  {words}"


def summary(results):
    """The last line: how many of each outcome. results: pairs (Case, Result)."""
    counts = {"passed": 0} | dict.fromkeys(BAD, 0)
    for _, result in results:
        counts[result.outcome] += 1
    return ", ".join(f"{count} {outcome}" for outcome, count in counts.items())


def as_json(results, skipped, command):
    """Everything as text in JSON.

    Args:
        results: pairs (Case, Result).
        skipped: {family: why it has nothing to run}.
        command: as it was typed.
    """
    families = dict.fromkeys(case.family for case, _ in results)
    facts = {
        "command": command,
        "fastconv": version("fastconv"),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "devices": {family: _about(family) for family in families},
        "skipped": skipped,
        "results": [vars(case) | vars(result) for case, result in results],
    }
    return json.dumps(facts, indent=1) + "\n"


def _about(family):
    device = device_of(family)
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return {"name": torch.cuda.get_device_name(device), "capability": f"{major}.{minor}"}
    if family == "cpu":
        return {"name": f"CPU, {_native.core.instruction_set()}"}
    return {"name": {"cuda": "emulated", "triton": "interpreted"}[family]}
