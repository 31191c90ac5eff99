"""Measured times beside predicted ones, where bench/results has predictions for such a GPU."""

import csv
import json
from pathlib import Path

PREDICTED = {"9.0": "predicted_h100.csv", "8.0": "predicted_a100.csv"}  # by compute capability
RESULTS = Path(__file__).resolve().parents[1] / "results"
MOST_LINES = 40  # of the table: those with the longest measured times
_KEY = ("op", "pass", "problem", "layout", "dtype")


def _times(path, column):
    """{what a row is about: (microseconds, row)} of a CSV; of several rows the first counts."""
    found = {}
    try:
        with open(path, newline="") as file:
            for row in csv.DictReader(file):
                key = tuple(row.get(name) for name in _KEY)
                try:
                    found.setdefault(key, (float(row[column]), row))
                except (KeyError, TypeError, ValueError):
                    continue  # a row without a number
    except OSError:
        pass
    return found


def _measured(folder):
    """What the benchmark measured of the CUDA kernels, without those that were allowed TF32, of
    which there are no predictions."""
    measured = {**_times(folder / "layers.csv", "us"), **_times(folder / "pools.csv", "us")}
    return {
        key: us
        for key, (us, row) in measured.items()
        if row.get("backend") == "cuda" and not (row.get("baseline") or "").endswith("TF32")
    }


def beside(folder, results=RESULTS):
    """Lines of a table: layer, predicted and measured microseconds, and their ratio; none where
    there are no predictions for this GPU, or nothing was measured.

    Args:
        folder: of a run's results.
        results: the folder of the predictions.
    """
    try:
        capability = json.loads((folder / "environment.json").read_text()).get("capability")
    except (OSError, ValueError):
        return []
    predicted = _times(results / PREDICTED.get(capability, ""), "predicted_us")
    measured = _measured(folder)
    both = sorted(predicted.keys() & measured.keys(), key=measured.get, reverse=True)
    if not both:
        return []
    table = [("layer", *_KEY[1:], "predicted us", "measured us", "measured / predicted")]
    for key in both[:MOST_LINES]:
        guess, row = predicted[key]
        times = f"{guess:.1f}", f"{measured[key]:.1f}", f"{measured[key] / guess:.2f}"
        table.append((row.get("layer") or "?", *key[1:], *times))
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = ["  ".join(t.ljust(w) for t, w in zip(line, widths)).rstrip() for line in table]
    count = f"{len(both)} lines, the longest {min(len(both), MOST_LINES)}:"
    return [f"predicted (from machine code) beside measured, {count}", *lines, ""]
