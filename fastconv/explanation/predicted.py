"""How long the calls that explain has seen would take on a GPU that need not be there: predicted
from the kernels' machine code, never measured."""

from dataclasses import dataclass

from ..backends.base import is_convolution
from ..backends.pool2d import pool_op
from ..dispatch import Decision
from ..prediction.conv2d import predict_conv2d
from ..prediction.machines import MACHINES
from ..prediction.pool2d import predict_pool2d
from ..prediction.schedule import Prediction
from ..problem import ConvOp, allows_tf32
from .rows import FORWARD, problem_of


@dataclass(frozen=True)
class LayerPrediction:
    """What a call's forward pass would take by fastconv's CUDA kernels."""

    decision: Decision
    algorithm: str  # "" where there is no prediction
    tile: str
    prediction: Prediction | None
    reason: str  # why there is none, else ""


def machine_of(name):
    """The Machine of a name; ValueError for one that is unknown."""
    if name not in MACHINES:
        raise ValueError(f"predict_for must be None or one of {sorted(MACHINES)}, got {name!r}")
    return MACHINES[name]


def predict_layer(decision, machine):
    """The LayerPrediction of a Decision, for dense tensors in the layout of its input."""
    problem = problem_of(decision)
    if problem is None:
        return LayerPrediction(decision, "", "", None, "its sizes are unknown")
    if 0 in (*decision.call[0], *problem.out_size()):
        return LayerPrediction(decision, "", "", None, "it has no elements")
    pass_ = FORWARD.get(decision.operator, "fwd")
    try:
        if is_convolution(decision.operator):
            plan, prediction = predict_conv2d(
                ConvOp.__members__[pass_],
                problem,
                decision.dtype,
                decision.channels_last,
                machine,
                allows_tf32(),
            )
        else:
            op = pool_op(decision.operator, pass_)
            plan, prediction = predict_pool2d(
                op, problem, decision.dtype, decision.channels_last, machine
            )
    except (LookupError, ValueError) as error:  # no such kernel in the tables; no plan
        return LayerPrediction(decision, "", "", None, str(error))
    tile = plan.tile_name.removeprefix("tile ").split(",")[0]
    return LayerPrediction(decision, plan.algorithm.name, tile, prediction, "")


def predicted_text(predictions, machine):
    """Lines about LayerPredictions, one each, under a line that says what they are."""
    yield (
        f"predicted for fastconv's CUDA kernels on an {machine.name.upper()}, not measured "
        "(from machine code; forward passes):"
    )
    total = 0.0
    for row in predictions:
        name = row.decision.layer or row.decision.operator
        if row.prediction is None:
            yield f"  {name}: no prediction: {row.reason}"
            continue
        total += row.prediction.us
        yield (
            f"  {name}: {row.prediction.us:.1f} us, {100 * row.prediction.share:.0f} % of the "
            f"roofline, limited by {row.prediction.limiter} ({row.algorithm}, {row.tile})"
        )
    if len(predictions) > 1:
        yield f"  together: {total:.1f} us"
