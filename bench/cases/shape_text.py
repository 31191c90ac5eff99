"""A shape as a user writes it after `--shape`: key=value, in the words of `explain`, or the short
form of its tables and ours."""

import re

from fastconv.backends.base import is_convolution

from .operators import OPERATORS
from .selection import POOL_OPS
from .shapes import AdaptivePool, Layer, Pool, pair

_KINDS = {op: kind for kind, op in POOL_OPS.items()}
# Keys that take one number, and those that take two as well, such as 2x1, vertical first.
_NUMBERS = ("n", "c", "h", "w", "k", "r", "s", "p", "q", "groups")
_PAIRS = ("stride", "pad", "dilation")
_OF_CONV = {"n", "c", "h", "w", "k", "r", "s", "groups", *_PAIRS}
_OF_POOL = {"n", "c", "h", "w", "r", "s", *_PAIRS}
_OF_ADAPTIVE = {"n", "c", "h", "w", "p", "q"}
_SHORT = re.compile(
    r"(?:(?P<op>\S+) )?n(?P<n>\d+)c(?P<c>\d+)h(?P<h>\d+)(?:w(?P<w>\d+))?"
    r"(?:k(?P<k>\d+))?(?:r(?P<r>\d+)(?:x(?P<s>\d+))?s(?P<stride>\d+(?:x\d+)?)"
    r"p(?P<pad>\d+(?:x\d+)?)(?:d(?P<dilation>\d+(?:x\d+)?))?(?:g(?P<groups>\d+))?)?"
    r"(?: to (?P<p>\d+)x(?P<q>\d+))?"
)


def _pairs_of(text):
    """{key: value}, both text, of either spelling."""
    if match := _SHORT.fullmatch(text.strip()):
        return {key: value for key, value in match.groupdict().items() if value is not None}
    found = {}
    for part in text.split(","):
        key, equals, value = (piece.strip() for piece in part.partition("="))
        key = key.lower()
        if not equals:
            raise ValueError(f"expected key=value, got {part.strip()!r}")
        if key not in ("op", *_NUMBERS, *_PAIRS):
            known = ", ".join(("op", *_NUMBERS, *_PAIRS))
            raise ValueError(f"got the key {key!r}; known: {known}")
        if key in found:
            raise ValueError(f"{key} is given twice")
        found[key] = value
    return found


def _number(key, text):
    least = 0 if key == "pad" else 1
    sides = text.split("x") if key in _PAIRS else [text]
    if len(sides) > 2 or not all(re.fullmatch(r"\d{1,9}", side) for side in sides):
        shape = "a whole number or two, such as 2x1" if key in _PAIRS else "a whole number"
        raise ValueError(f"{key}: expected {shape}, got {text!r}")
    values = tuple(map(int, sides))
    if min(values) < least:
        raise ValueError(f"{key}: expected {least} or more, got {text!r}")
    return values[0] if values[0] == values[-1] else values


def _same(size, dilation):
    """The padding with which an odd filter keeps the size, at stride 1."""
    return dilation * (size - 1) // 2


def _conv(values, transposed):
    values = {"s": values["r"], "stride": 1, "dilation": 1, "groups": 1} | values
    pads = map(_same, (values["r"], values["s"]), pair(values["dilation"]))
    values = {"pad": tuple(pads)} | values
    return Layer(
        "shape", "", *(values[key] for key in ("n", "c", "h", "w", "k", "r", "s")),
        *(values[key] for key in ("stride", "pad", "dilation", "groups")), transposed,
    )  # fmt: skip


def _pool(values, op):
    values = {"s": values["r"], "pad": 0, "dilation": 1} | values
    values = {"stride": (values["r"], values["s"])} | values
    if op == "avg_pool2d" and pair(values["dilation"]) != (1, 1):
        raise ValueError("dilation: avg_pool2d has none")
    return Pool(
        "shape", "", _KINDS[op], *(values[key] for key in ("n", "c", "h", "w", "r", "stride")),
        values["pad"], values["s"], values["dilation"],
    )  # fmt: skip


def _adaptive(values, op):
    values = {"q": values["p"]} | values
    return AdaptivePool(
        "shape", "", _KINDS[op], *(values[key] for key in ("n", "c", "h", "w", "p", "q"))
    )


def _expect(values, op, needed, known):
    if missing := [key for key in needed if key not in values]:
        raise ValueError(f"{op} needs {', '.join(missing)}")
    if unknown := [key for key in values if key not in known]:
        raise ValueError(f"{op} has no {', '.join(unknown)}")


def parse_shape(text):
    """(shape, operator) of what a user wrote; the operator is None where none is named and the
    shape is a convolution's.

    Defaults: n=1, w=h, s=r, groups=1, dilation=1. Convolutions: stride=1, and a pad with which an
    odd filter keeps the size. Pools: stride=r, pad=0. Adaptive pools: q=p.

    Raises ValueError, which names what is wrong.
    """
    texts = _pairs_of(text)
    op = texts.pop("op", None)
    if op is not None and op not in OPERATORS:
        raise ValueError(f"op: got {op!r}; known: {', '.join(OPERATORS)}")
    values = {"n": 1} | {key: _number(key, value) for key, value in texts.items()}
    if "h" in values:
        values.setdefault("w", values["h"])
    function = (op or "conv2d").partition("+")[0]
    if is_convolution(function):
        what = op or "a convolution (a pool needs its op, such as op=max_pool2d)"
        _expect(values, what, ("c", "h", "k", "r"), _OF_CONV)
        shape = _conv(values, function == "conv_transpose2d")
    elif function.startswith("adaptive"):
        _expect(values, op, ("c", "h", "p"), _OF_ADAPTIVE)
        shape = _adaptive(values, function)
    else:
        _expect(values, op, ("c", "h", "r"), _OF_POOL)
        shape = _pool(values, function)
    if min(shape.out_size()) < 1:
        raise ValueError(f"the result of {shape.problem} is empty: {shape.out_size()}")
    shape.core()  # refuses channels that the groups do not divide
    return shape, op
