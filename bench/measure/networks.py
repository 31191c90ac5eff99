"""`fastconv bench models`: whole networks, torch's own against converted and fused ones, in one
process and in turns.

Inference is the forward pass in eval mode without autograd, a training step the forward pass, the
loss and the backward pass, without an optimizer. bfloat16 is torch.autocast's, on both sides."""

import copy
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F

import fastconv

from ...backends.base import is_convolution
from ...dispatch import get_backend
from ...problem import ConvOp
from ..cases.selection import LAYOUTS
from ..models import DENSE_NETWORKS, NETWORKS
from .baselines import OURS, baselines
from .load import DISTURBED_LIMIT
from .measure import fill_times, first_line, new_row, settings_of, time_sides, unmeasured, why_not
from .timing import Side

PASSES = ("inference", "training step")
DTYPES = ("float32", "bfloat16")
ALL = {**NETWORKS, **DENSE_NETWORKS}
CLASSES = {"unet": 2, "wavenet": 256}  # of the networks' logits; of all others 1000
SAMPLES = 16  # of a network along one axis, for each pixel of an image's height
SEED = 0
QUICK = ("resnet18", "mobilenet_v2", "squeezenet1_1", "efficientnet_b0")
# Largest difference of the logits, as a share of the largest one, or of the loss: float32's
# rounding through all layers. A wrong layer is off by far more.
TOLERANCE = 1e-4
# Norm of the largest difference of a parameter's gradient, as a share of its own norm. A ReLU or a
# max pool that chooses otherwise near a tie moves elements by far more than rounding; a wrong layer
# is off by about 1. Gradients below this share of the largest one may be rounding alone: that of a
# bias before a BatchNorm is 0.
GRADIENT_TOLERANCE, GRADIENT_FLOOR = 0.1, 1e-3
# A step is three passes over each convolution: fprop, dgrad, wgrad.
PASSES_OF_STEP = 3
# Attributes of the package are looked up at the call, as in operators.py.
_VARIANTS = {
    "converted": lambda model: fastconv.convert(copy.deepcopy(model)),
    "fused": lambda model: fastconv.fuse(model),
}
_PASSES_OF_VARIANT = {"converted": PASSES, "fused": ("inference",)}


@dataclass(frozen=True)
class NetworkCase:
    """One network, variant, pass, layout, dtype and size of input: a line of the table."""

    model: str  # a key of ALL
    layer: str  # the variant: "converted" or "fused"
    pass_: str
    layout: str
    dtype: str
    batch: int
    image_size: int  # height and width in pixels
    op: ClassVar = "network"

    @property
    def family(self):
        return self.model

    @property
    def input_size(self):
        """Of an image or a batch of samples."""
        size = self.image_size
        if self.model == "wavenet":
            return (self.batch, 256, SAMPLES * size)
        return (self.batch, 1 if self.model == "unet" else 3, size, size)

    @property
    def target_size(self):
        """A class for each image, pixel or sample."""
        N, _, *axes = self.input_size
        return (N, *axes) if self.model in DENSE_NETWORKS else (N,)

    @property
    def problem(self):
        N, C, *axes = self.input_size
        return f"n{N}c{C}" + (f"h1w{axes[0]}" if len(axes) == 1 else f"h{axes[0]}")

    @property
    def title(self):
        return f"{self.model} {self.layer} {self.pass_} {self.layout} {self.dtype} {self.problem}"

    @property
    def is_training(self):
        return self.pass_ == "training step"


def select_networks(batches, image_size, layouts, passes, dtypes, words=(), quick=False):
    """The NetworkCases of one run.

    Args:
        batches: values of N.
        image_size: height and width in pixels.
        layouts, passes, dtypes: names; passes that no network has are left out, and so is
            channels_last of a network along one axis.
        words: texts of which each line's title must contain one; empty: all networks.
        quick: only the QUICK networks.
    """
    names = [name for name in ALL if name in QUICK or not quick]
    cases = [
        NetworkCase(name, variant, pass_, layout, dtype, batch, image_size)
        for name in names
        for batch in batches
        for variant, own_passes in _PASSES_OF_VARIANT.items()
        for pass_ in own_passes
        if pass_ in passes
        for layout in layouts
        if name != "wavenet" or layout == "nchw"
        for dtype in dtypes
    ]
    return [c for c in cases if not words or any(word.lower() in c.title for word in words)]


@dataclass(frozen=True)
class _Contest:
    """torch's network and ours, and what both are given."""

    theirs: torch.nn.Module
    ours: torch.nn.Module
    x: torch.Tensor
    target: torch.Tensor  # the class that each image, pixel or sample is said to be of


def _prepare(case, device):
    """The _Contest of a case, the same in every process."""
    torch.manual_seed(SEED)
    layout = LAYOUTS[case.layout]
    theirs = ALL[case.model]().to(device=device, memory_format=layout).eval()
    x = torch.randn(case.input_size, device=device).contiguous(memory_format=layout)
    target = torch.randint(CLASSES.get(case.model, 1000), case.target_size, device=device)
    ours = _VARIANTS[case.layer](theirs)
    for network in (theirs, ours):
        network.train(case.is_training)
    return _Contest(theirs, ours, x, target)


def _forward(network, x, dtype):
    # Autocast is entered for each call, as in programs: it keeps rounded weights until it is left.
    with torch.autocast(x.device.type, torch.bfloat16, enabled=dtype == "bfloat16"):
        return network(x)


def _make_call(network, contest, case, dtype):
    """A call without arguments that runs the pass once; returns the logits, or a step's loss."""

    def infer():
        with torch.inference_mode():
            return _forward(network, contest.x, dtype)

    def step():
        network.zero_grad(set_to_none=True)
        loss = F.cross_entropy(_forward(network, contest.x, dtype), contest.target)
        loss.backward()
        return loss.detach()

    return step if case.is_training else infer


def _once(network, contest, case, settings, dtype):
    """(result, gradients of all parameters that have one, none in inference) of one call, with the
    random numbers (dropout's) that every side gets."""
    torch.manual_seed(SEED)
    with settings():
        result = _make_call(network, contest, case, dtype)().float()
    parameters = network.parameters() if case.is_training else ()
    return result, [p.grad for p in parameters if p.grad is not None]


def _differences(got, expected):
    """How far two values of _once() are apart: (the results, the gradient that differs most)."""
    result, exact = got[0], expected[0]
    off = ((result - exact).abs().max() / exact.abs().max()).item()
    if not expected[1]:
        return off, 0.0
    norms = torch.stack([e.norm() for e in expected[1]])
    differences = torch.stack([(g - e).norm() for g, e in zip(got[1], expected[1], strict=True)])
    return off, (differences / norms.clamp(min=GRADIENT_FLOOR * norms.max())).max().item()


def _verify(contest, case, baseline, row):
    """Runs our network once and writes the verdict into the row.

    float32 must agree with eager torch within TOLERANCE and GRADIENT_TOLERANCE. Under autocast and
    with TF32 the errors are at most twice eager torch's and half a unit in the last place of
    bfloat16: the error of one number, the loss, may be smaller by luck.
    """
    settings = settings_of(baseline.settings, row.requested_backend)
    got = _once(contest.ours, contest, case, settings, case.dtype)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        exact = _once(contest.theirs, contest, case, nullcontext, "float32")
    errors, bounds = _differences(got, exact), (TOLERANCE, GRADIENT_TOLERANCE)
    row.error = errors[0]
    if case.dtype != "float32" or baseline.name.endswith("TF32"):
        rounded = _once(contest.theirs, contest, case, baseline.settings, case.dtype)
        baseline_errors = _differences(rounded, exact)
        row.baseline_error = baseline_errors[0]
        bounds = [2 * error + torch.finfo(torch.bfloat16).eps / 2 for error in baseline_errors]
    result = "the loss is" if case.is_training else "logits, of the largest, are"
    for what, error, bound in zip((result, "a gradient, by norms, is"), errors, bounds):
        if not error <= bound:  # also for NaN
            row.status, row.reason = "wrong", f"{what} off by {error:.1e}, bound {bound:.1e}"
            return


def _check(contest, case, other, baseline, row):
    """Runs each side once and writes into the row what speaks against timing them."""
    try:
        _once(other, contest, case, baseline.settings, case.dtype)
    except Exception as error:  # a network that cannot be compiled, say
        row.status, row.reason = "no baseline", first_line(error)
        return
    try:
        _verify(contest, case, baseline, row)
    except Exception as error:  # whatever a network's user may see is one row's failure
        row.status, row.reason = why_not(error)


def _conv_flops(case, contest):
    """FLOPs of all convolutions of the pass, two a multiply-add."""
    flops = 0
    contest.ours.eval()  # explain runs it once: its running statistics must not change
    for decision in fastconv.explain(contest.ours, contest.x, measure=False):
        if is_convolution(decision.operator):
            problem, _ = get_backend(decision.backend).explain(
                decision.operator, decision.call, decision.dtype, decision.channels_last
            )
            flops += problem.flops(ConvOp.fprop)
    contest.ours.train(case.is_training)
    return flops * (PASSES_OF_STEP if case.is_training else 1)


def _measure_against(contest, case, device, seconds, attempts, baseline, row):
    """The row against one baseline, under its settings."""
    if baseline.exported and (case.is_training or case.dtype != "float32"):
        row.status, row.reason = "no baseline", "exported networks infer, in float32"
        return row
    other = baseline.network(contest.theirs, contest.x)
    _check(contest, case, other, baseline, row)
    if row.status != "ok":
        return row
    settings = settings_of(baseline.settings, row.requested_backend)
    sides = [
        Side(OURS, [_make_call(contest.ours, contest, case, case.dtype)], settings),
        Side(baseline.name, [_make_call(other, contest, case, case.dtype)], baseline.settings),
    ]
    fill_times(row, baseline, time_sides(sides, device, seconds, attempts, row))
    row.tflops = _conv_flops(case, contest) / row.us / 1e6
    return row


def measure_network(
    case,
    device,
    seconds,
    backend=None,
    attempts=1,
    against=None,
    disturbed_limit=DISTURBED_LIMIT,
):
    """The rows of a NetworkCase, one a baseline; arguments as in measure.measure."""
    if against is None:
        against = baselines(case, device, backend)
    row = new_row(case, seconds, backend, disturbed_limit)
    try:
        contest = _prepare(case, device)
        return [
            _measure_against(
                contest, case, device, seconds, attempts, one, replace(row, baseline=one.name)
            )
            for one in against
        ]
    except Exception as error:  # a failure of these rows, and not of the whole run
        return unmeasured(row, error, against)
