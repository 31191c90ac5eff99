"""The command lines of `fastconv bench`, `demo` and `report`; needs none of their extras."""

import argparse

import torch

from .cases.selection import DTYPES, LAYOUTS, PASSES
from .cases.shape_text import parse_shape
from .measure.baselines import BASELINES
from .measure.load import DISTURBED_LIMIT
from .measure.networks import PASSES as NETWORK_PASSES

PARTS = ("layers", "pools", "models", "ops", "calls")
KNOWN_PASSES = (*PASSES, *NETWORK_PASSES)
OUT = "fastconv-results"
# What people write for a name of ours, in lower case.
_LAYOUT_ALIASES = {"nhwc": "channels_last", "contiguous": "nchw"}
_DTYPE_ALIASES = {
    **dict.fromkeys(("bf16",), "bfloat16"),
    **dict.fromkeys(("fp16", "half"), "float16"),
    **dict.fromkeys(("fp32", "float"), "float32"),
    **dict.fromkeys(("fp64", "double"), "float64"),
}


def _names(known, aliases=None):
    """An argparse type: comma-separated names out of `known`, in upper or lower case.

    Args:
        aliases: {another name, in lower case: the known one}
    """
    aliases = {name.lower(): name for name in known} | (aliases or {})

    def parse(text):
        names = [name.strip() for name in text.split(",") if name.strip()]
        names = [aliases.get(name.lower(), name) for name in names]
        unknown = [name for name in names if name not in known]
        if unknown or not names:
            wrong = ", ".join(map(repr, unknown)) or "no name"
            raise argparse.ArgumentTypeError(f"got {wrong}; known: {', '.join(known)}")
        return list(dict.fromkeys(names))

    return parse


def _shape(text):
    try:
        return parse_shape(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r}: {error}") from None


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


def seconds(text):
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 3600:
        raise argparse.ArgumentTypeError(f"expected seconds above 0, got {text!r}")
    return value


def _cpus(text):
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"expected a number of CPUs, 0 or more, got {text!r}")
    return value


def _device(text):
    if text not in ("cpu", "cuda"):
        raise argparse.ArgumentTypeError(f"expected cpu or cuda, got {text!r}")
    if text == "cuda" and not torch.cuda.is_available():
        raise argparse.ArgumentTypeError("torch sees no CUDA device here")
    return text


def _part(text):
    if text not in PARTS:
        raise argparse.ArgumentTypeError(f"got {text!r}; known: {', '.join(PARTS)}")
    return text


def add_bench_options(parser):
    parser.add_argument(
        "parts",
        nargs="*",
        type=_part,
        metavar="PART",
        help="of layers, pools (of known networks, each problem once), models (whole networks), "
        "ops (a line or two for each operator and variant), calls (what a call costs: tensors so "
        "small that computing takes no time, by default with one thread) (default: layers pools; "
        "with --shape none)",
    )
    parser.add_argument(
        "--shape",
        type=_shape,
        action="append",
        default=[],
        metavar="KEY=VALUE,...",
        help="a problem of your own; may be repeated. Keys n, c, h, w, k, r, s, stride, pad, "
        "dilation, groups and op: n=8,c=64,h=56,k=64,r=3; op=max_pool2d,c=64,h=56,r=3,stride=2,"
        "pad=1; op=adaptive_avg_pool2d,c=64,h=56,p=7,q=7. Or as explain's tables and ours have it: "
        "n8c64h56k64r3s1p1. Defaults: n=1, w=h, s=r; convolutions stride=1 and the pad with which "
        "an odd filter keeps the size; pools stride=r, pad=0. stride, pad and dilation may be "
        "2x1, vertical first. Without op, what a network's convolution is timed with",
    )
    parser.add_argument(
        "--device", type=_device, metavar="cpu|cuda", help="default: cuda where there is one"
    )
    parser.add_argument(
        "--dtype",
        type=_names(DTYPES, _DTYPE_ALIASES),
        default=["float32"],
        metavar="LIST",
        help=f"of {', '.join(DTYPES)}, or bf16, fp16, half, fp32, fp64 (default: float32); models: "
        "float32, bfloat16 (autocast)",
    )
    parser.add_argument(
        "--batch",
        type=_positives,
        metavar="LIST",
        help="batch sizes (default: layers and pools 1,8 on a CPU, 32,128 on a GPU; ops 8, 32 on a "
        "GPU; models 8; calls 1; with --quick 1, layers, pools and ops on a GPU 32)",
    )
    parser.add_argument(
        "--layout",
        type=_names(LAYOUTS, _LAYOUT_ALIASES),
        metavar="LIST",
        help="of nchw, channels_last or nhwc (default: both; calls nchw)",
    )
    parser.add_argument(
        "--passes",
        type=_names(KNOWN_PASSES),
        metavar="LIST",
        help="of fprop, dgrad, wgrad, bgrad (convolutions), fwd, bwd (pools), inference, "
        "'training step' (models, calls) (default: all)",
    )
    parser.add_argument(
        "--baseline",
        type=_names(BASELINES),
        metavar="LIST",
        help="what to hold fastconv against, a row each: torch (as it comes; default), onednn (a "
        "CPU), cudnn (a GPU, where torch is this too), aten (torch without these libraries), "
        "compile (torch.compile), onnxruntime (models, on a CPU; needs the extra onnx)",
    )
    parser.add_argument(
        "--filter",
        default="",
        metavar="TEXT",
        help="only lines that contain TEXT, or one of several texts parted by commas: a network, a "
        "layer, an operator, a family, a problem (resnet18; dw; max_pool2d; dense; n1c64)",
    )
    parser.add_argument(
        "--image-size",
        type=positive,
        default=224,
        metavar="N",
        help="models: side of the input in pixels (default: 224)",
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="one layer of each family, four networks, functions alone of the calls, measured "
        "briefly and once; --list tells "
        "how long that takes at least",
    )
    parser.add_argument(
        "--seconds",
        type=seconds,
        metavar="S",
        help="measuring time for each side of a line (default: 0.4, with --quick 0.1; models 4, "
        "with --quick 0.3; calls 0.2, with --quick 0.1)",
    )
    parser.add_argument(
        "--backend", metavar="NAME", help="a backend of fastconv, such as reference or cpu:direct"
    )
    parser.add_argument(
        "--threads",
        type=_positives,
        metavar="LIST",
        help="numbers of CPU threads, one after the other (default: torch's; calls 1)",
    )
    add_disturbed_limit(parser, DISTURBED_LIMIT)
    parser.add_argument(
        "--out",
        default=OUT,
        metavar="FOLDER",
        help="of layers.csv, pools.csv and so on for each part, shapes.csv for --shape, written "
        f"line by line; a run goes on with what is there (default: {OUT})",
    )
    parser.add_argument(
        "--fresh", action="store_true", help="put earlier results aside and measure again"
    )
    parser.add_argument(
        "--json",
        metavar="FILE",
        help="also write the run's rows there, with the columns of the CSV files; -: to standard "
        "output, and all else to standard error",
    )
    parser.add_argument(
        "--list", action="store_true", help="print the lines that would be measured, and stop"
    )


def add_disturbed_limit(parser, default):
    parser.add_argument(
        "--disturbed-limit",
        type=_cpus,
        default=default,
        metavar="CPUS",
        help="a line during which other programs kept more than so many CPUs busy is disturbed: "
        "marked with ! and left out of means that have others (default: "
        + (f"{DISTURBED_LIMIT})" if default else "as measured)"),
    )


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
        nargs="*",
        metavar="FOLDER",
        help=f"where the results lie, and the page goes (default: ./{OUT}). With two, BEFORE and "
        "AFTER, what changed between them is printed instead; each is a folder, or a commit whose "
        f"results ./{OUT} has",
    )
    add_disturbed_limit(parser, None)
    parser.add_argument(
        "--readme",
        action="append",
        default=[],
        metavar="PATH",
        help="also replace the tables of that Markdown file, between its marks; may be repeated",
    )
