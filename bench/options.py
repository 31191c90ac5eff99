"""The command lines of `fastconv bench`, `demo` and `report`; needs none of their extras."""

import argparse

import torch

from .cases import DTYPES, LAYOUTS, PASSES

RESULTS_FOLDER = "fastconv-results"


def _names(known):
    """An argparse type: comma-separated names out of `known`."""

    def parse(text):
        names = [name.strip() for name in text.split(",") if name.strip()]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            wrong = ", ".join(map(repr, unknown)) or "no name"
            raise argparse.ArgumentTypeError(f"got {wrong}; known: {', '.join(known)}")
        return list(dict.fromkeys(names))

    return parse


def positive(text):
    try:
        value = int(text)
    except ValueError:
        value = 0
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a positive whole number, got {text!r}")
    return value


def _positives(text):
    return list(dict.fromkeys(positive(part) for part in text.split(",")))


def _seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return value


def _device(text):
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"expected cpu or cuda, got {text!r}")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch sees no CUDA device here")
    return text


def add_machine_options(parser):
    parser.add_argument(
        "--threads",
        type=_positives,
        metavar="LIST",
        help="numbers of CPU threads, one after the other (default: torch's)",
    )


def add_bench_options(parser):
    parser.add_argument(
        "--device", type=_device, metavar="cpu|cuda", help="default: cuda where there is one"
    )
    parser.add_argument(
        "--dtype",
        type=_names(DTYPES),
        default=["float32"],
        metavar="LIST",
        help=f"of {', '.join(DTYPES)} (default: float32)",
    )
    parser.add_argument(
        "--batch",
        type=_positives,
        metavar="LIST",
        help="batch sizes (default: 1,8 on a CPU, 32,128 on a GPU; the first with --quick)",
    )
    parser.add_argument(
        "--layout",
        type=_names(LAYOUTS),
        default=list(LAYOUTS),
        metavar="LIST",
        help="of nchw, channels_last (default: both)",
    )
    parser.add_argument(
        "--passes",
        type=_names(PASSES),
        default=list(PASSES),
        metavar="LIST",
        help="of fprop, dgrad, wgrad (convolutions), fwd, bwd (pools) (default: all)",
    )
    parser.add_argument(
        "--filter",
        default="",
        metavar="TEXT",
        help="only lines that contain TEXT, or one of several texts parted by commas: a network, a "
        "layer, an operator, a family, a problem (resnet18; dw; max_pool2d; dense; n1c64)",
    )
    parser.add_argument("--quick", action="store_true", help="one layer of each family; < 1 minute")
    parser.add_argument(
        "--seconds",
        type=_seconds,
        metavar="S",
        help="measuring time for each side of a line (default: 0.4, with --quick 0.1)",
    )
    parser.add_argument(
        "--backend", metavar="NAME", help="a backend of fastconv, such as reference or cpu:direct"
    )
    add_machine_options(parser)
    parser.add_argument("--json", metavar="PATH", help="write the results there as JSON")
    parser.add_argument("--csv", metavar="PATH", help="write the results there as CSV")


def add_demo_options(parser):
    parser.add_argument("--epochs", type=positive, default=12, metavar="N", help="default: 12")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--image-size",
        type=positive,
        default=224,
        metavar="N",
        help="side of ResNet-18's input in pixels (default: 224)",
    )
    parser.add_argument(
        "--threads", type=positive, metavar="N", help="CPU threads (default: torch's)"
    )


def add_report_options(parser):
    parser.add_argument(
        "folder",
        nargs="?",
        default=RESULTS_FOLDER,
        metavar="FOLDER",
        help=f"where the results lie, and the page goes (default: ./{RESULTS_FOLDER})",
    )
    parser.add_argument(
        "--readme",
        metavar="PATH",
        help="also replace the tables of that Markdown file, between its marks",
    )
