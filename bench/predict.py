"""`python -m fastconv.bench.predict --machine h100 [--csv FILE] [--measured layers.csv,pools.csv]`:
how long fastconv's CUDA kernels should take for the layers and pools of the CSVs, from their
machine code; no GPU is needed. With results of `fastconv bench` or of the sweep on such a GPU the
measured times stand beside the predicted ones, and the model's error is told. Needs no extras.

bench/results/predicted_h100.csv and predicted_a100.csv are what this writes."""

import argparse
import csv
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path

from ..backends.pool2d import pool_op
from ..prediction.conv2d import predict_conv2d
from ..prediction.machines import MACHINES
from ..prediction.pool2d import predict_pool2d
from ..problem import AdaptivePoolProblem, ConvOp
from .cases.selection import DTYPES, LAYOUTS, select_cases
from .measure.record import read_rows

PASSES = ("fprop", "dgrad", "wgrad", "fwd", "bwd")
OPERATORS = ("conv2d", "max_pool2d", "avg_pool2d", "adaptive_avg_pool2d")
_WORST = 5  # lines that are told of a model's error


def cases_of(layout, dtype):
    """The cases of layers.csv and pools.csv that are predicted: no epilogue, no indices."""
    cases = select_cases(None, [layout], PASSES, [dtype])
    return [case for case in cases if case.op in OPERATORS]


def predict(case, machine):
    """(the plan, the Prediction) of a bench case on a Machine."""
    dtype, channels_last = DTYPES[case.dtype], case.layout == "channels_last"
    if case.op == "conv2d":
        op = ConvOp.__members__[case.pass_]
        return predict_conv2d(op, case.shape.core(), dtype, channels_last, machine)
    problem = case.shape.core()
    if case.op.startswith("adaptive"):
        size = (problem.N, problem.C, problem.H, problem.W, *case.shape.output_size)
        problem = AdaptivePoolProblem(**dict(zip("NCHWPQ", size)))
    return predict_pool2d(pool_op(case.op, case.pass_), problem, dtype, channels_last, machine)


def row(case, machine, measured_us=None):
    """A case's line of the table."""
    plan, prediction = predict(case, machine)
    return {
        "op": case.op,
        "pass": case.pass_,
        "layer": case.shape.layer,
        "problem": case.problem,
        "layout": case.layout,
        "dtype": case.dtype,
        "algorithm": plan.algorithm.name,
        "tile": plan.tile_name.removeprefix("tile ").split(",")[0],
        "predicted_us": float(f"{prediction.us:.3g}"),
        "roofline_us": float(f"{prediction.roofline_us:.3g}"),
        "share": round(prediction.share, 2),
        "limiter": prediction.limiter,
        "waves": round(prediction.waves, 2),
        "measured_us": "" if measured_us is None else float(f"{measured_us:.4g}"),
    }


def measured_times(paths):
    """{(op, pass, problem, layout, dtype): microseconds} of the lines that our CUDA kernels ran, in
    results of the bench."""
    times = {}
    for path in paths:
        for result, _ in read_rows(Path(path)):
            if result.us and (result.backend or "").startswith("cuda"):
                times[_key(result)] = result.us
    return times


def _key(case):
    return case.op, case.pass_, case.problem, case.layout, case.dtype


@dataclass(frozen=True)
class ModelError:
    """How far predicted times are from measured ones."""

    lines: int
    ratio: float  # geometric mean of measured over predicted: above 1 the model is too fast
    spread: float  # geometric standard deviation of these ratios: 1.2 is about 20 % up or down
    worst: list  # (measured over predicted, the row), the farthest from the ratio first

    def __str__(self):
        lines = [
            f"{self.lines} lines: measured is {self.ratio:.2f} of predicted, times or by "
            f"{self.spread:.2f}"
        ]
        for ratio, line in self.worst:
            lines.append(
                f"  {ratio:.2f}: {line['layer']} {line['problem']} {line['pass']}, "
                f"limiter {line['limiter']}"
            )
        return "\n".join(lines)


def model_error(rows):
    """The ModelError of the lines that have a measured time; None where none has."""
    ratios = [
        (float(line["measured_us"]) / float(line["predicted_us"]), line)
        for line in rows
        if line["measured_us"]
    ]
    if not ratios:
        return None
    logs = [math.log(ratio) for ratio, _ in ratios]
    mean = statistics.fmean(logs)
    worst = sorted(ratios, key=lambda pair: abs(math.log(pair[0]) - mean), reverse=True)
    return ModelError(
        len(ratios), math.exp(mean), math.exp(statistics.pstdev(logs)), worst[:_WORST]
    )


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog="python -m fastconv.bench.predict", description=__doc__.partition(":")[2].strip()
    )
    parser.add_argument("--machine", default="h100", choices=sorted(MACHINES))
    parser.add_argument("--dtype", default="bfloat16", choices=sorted(DTYPES))
    parser.add_argument("--layout", default="channels_last", choices=sorted(LAYOUTS))
    parser.add_argument("--csv", metavar="FILE", help="write the table there")
    parser.add_argument("--measured", default="", metavar="FILE,...", help="results of the bench")
    options = parser.parse_args(argv)
    times = measured_times(filter(None, options.measured.split(",")))
    machine = MACHINES[options.machine]
    rows = [
        row(case, machine, times.get(_key(case)))
        for case in cases_of(options.layout, options.dtype)
    ]
    if options.csv:
        with open(options.csv, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    else:
        for line in rows:
            print(
                f"{line['layer']:32} {line['pass']:5} {line['predicted_us']:8.1f} us predicted, "
                f"roofline {line['roofline_us']:6.1f}, {line['limiter']}"
            )
    print(model_error(rows) or "predicted, not measured", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
