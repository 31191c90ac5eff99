"""`python -m fastconv.bench.networks`: whole networks on the CPU, torch's layers against converted
ones, in one process and in turns.

Inference is the forward pass in eval mode without autograd, a training step the forward pass, the
loss and the backward pass, without an optimizer. Exit status 0, or 1 where outputs disagree."""

import argparse
import copy
import sys
from statistics import geometric_mean

import torch
import torch.nn.functional as F
from rich.console import Console

import fastconv

from .cases import LAYOUTS
from .load import OthersLoad
from .measure import no_fallback
from .models.mobilenet import MobileNetV2
from .models.resnet import ResNet18
from .options import add_machine_options, positive
from .record import Row, environment, write_csv
from .report import LAYOUT_NAMES, plain_table, ratio_text
from .timing import Side, keep_pages, time_cpu

NETWORKS = {"resnet18": ResNet18, "mobilenet_v2": MobileNetV2}
PASSES = ("inference", "training step")
# Largest difference of the logits, as a share of the largest one: float32's rounding through all
# layers. A wrong layer is off by far more.
TOLERANCE = 1e-4


def _inference(model, x):
    def call():
        with torch.inference_mode():
            return model(x)

    return call


def _training_step(model, x, target):
    def call():
        model.zero_grad(set_to_none=True)
        loss = F.cross_entropy(model(x), target)
        loss.backward()
        return loss

    return call


def measure_network(name, layout, batch, size, seconds):
    """Two Rows: inference and training step of one network."""
    torch.manual_seed(0)
    model = NETWORKS[name]().to(memory_format=LAYOUTS[layout])
    converted = fastconv.convert(copy.deepcopy(model))
    x = torch.randn(batch, 3, size, size).contiguous(memory_format=LAYOUTS[layout])
    target = torch.randint(1000, (batch,))
    rows = []
    for pass_ in PASSES:
        row = Row(
            "network", pass_, name, name, name, f"n{batch}c3h{size}", layout, "float32",
            baseline="torch", threads=torch.get_num_threads(),
        )  # fmt: skip
        rows.append(row)
        for network in (model, converted):
            network.train(pass_ != "inference")
        if pass_ == "inference":
            expected, got = _inference(model, x)(), _inference(converted, x)()
            row.error = ((got - expected).abs().max() / expected.abs().max()).item()
            if not row.error <= TOLERANCE:
                row.status, row.reason = "wrong", f"logits differ by {row.error:.1e} of the largest"
                continue
        sides = [
            Side(side, [_inference(m, x) if pass_ == "inference" else _training_step(m, x, target)])
            for side, m in (("fastconv", converted), ("torch", model))
        ]
        with OthersLoad() as load:
            timings = time_cpu(sides, seconds)
        row.others_cpus = load.cpus
        ours, theirs = timings["fastconv"], timings["torch"]
        row.us, row.p20_us, row.p80_us = ours.median_us, ours.p20_us, ours.p80_us
        row.baseline_us = theirs.median_us
        row.baseline_p20_us, row.baseline_p80_us = theirs.p20_us, theirs.p80_us
        row.x_baseline = theirs.median_us / ours.median_us
    return rows


def _print(console, rows):
    table = plain_table("Networks: torch time / fastconv time, float32")
    for name in ("network", "pass", "layout"):
        table.add_column(name, no_wrap=True)
    for name in ("threads", "ours ms", "torch ms", "ratio", "best layout"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        if row.x_baseline is None:
            table.add_row(
                row.model, row.pass_, LAYOUT_NAMES[row.layout], "", "", row.reason, "", ""
            )
            continue
        same = [
            r for r in rows if (r.model, r.pass_, r.threads) == (row.model, row.pass_, row.threads)
        ]
        best = min(r.baseline_us for r in same if r.baseline_us) / row.us
        table.add_row(
            row.model, row.pass_, LAYOUT_NAMES[row.layout], str(row.threads),
            f"{row.us / 1e3:,.1f}", f"{row.baseline_us / 1e3:,.1f}", ratio_text(row.x_baseline),
            ratio_text(best),
        )  # fmt: skip
    console.print(table)
    for pass_ in PASSES:
        ratios = [row.x_baseline for row in rows if row.pass_ == pass_ and row.x_baseline]
        if ratios:
            console.print(f"{pass_}: geometric mean {ratio_text(geometric_mean(ratios))}")


def main(argv=None):
    parser = argparse.ArgumentParser(prog="python -m fastconv.bench.networks")
    parser.add_argument("--batch", type=positive, default=8, metavar="N", help="default: 8")
    parser.add_argument(
        "--image-size", type=positive, default=224, metavar="N", help="default: 224"
    )
    parser.add_argument(
        "--seconds", type=float, default=4, metavar="S", help="measuring time a side (default: 4)"
    )
    add_machine_options(parser)
    parser.add_argument("--csv", metavar="PATH", help="write the results there as CSV")
    options = parser.parse_args(argv)
    keep_pages()
    rows = []
    with no_fallback():
        for threads in options.threads or [torch.get_num_threads()]:
            torch.set_num_threads(threads)
            for name in NETWORKS:
                for layout in LAYOUTS:
                    rows += measure_network(
                        name, layout, options.batch, options.image_size, options.seconds
                    )
    _print(Console(), rows)
    if options.csv:
        write_csv(options.csv, rows, environment("cpu"))
    return 1 if any(row.is_failure for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
