"""Why a layer of fastconv.explain's table is as slow as it is, in a sentence made from its row."""

from ..problem import ConvOp, ConvProblem
from .rows import ATEN

_CALL_US = 20  # what a call costs however small it is: Python, checks, a launch
_MOST_CALL_US = 100  # what takes longer is not explained by that cost
_NEAR_FLOOR, _PAST_FLOOR = 80, 120  # percent of the floor
_FEW_TERMS = 32  # of a sum, below which gathering and storing outweigh the multiplications


def why_slow(row):
    """Why a LayerTime with a time is as slow as it is, in a sentence."""
    plan = f"{row.algorithm}, {row.reason}" if row.algorithm else row.reason
    if row.backend == ATEN:
        return f"no kernel of fastconv's ran it: {plan}"
    if row.floor_us is None:
        return plan
    if row.floor_us < _CALL_US and row.time_us < _MOST_CALL_US:
        return f"the floor is below the {_CALL_US} us or so that any call costs; {plan}"
    if row.percent_of_floor > _PAST_FLOOR:
        return f"past its floor: the device was busy when its roofline was measured; {plan}"
    if row.percent_of_floor >= _NEAR_FLOOR:
        return f"near its floor, which its {row.bound} set; {plan}"
    return "; ".join((f"its {row.bound} set the floor", plan, *_weak_spots(row)))


def _weak_spots(row):
    if not isinstance(row.problem, ConvProblem):
        return
    problem = row.problem
    terms = problem.gemm_shape(ConvOp.fprop)[2]
    if row.algorithm == "implicit_gemm" and terms < _FEW_TERMS:
        yield f"only {terms} terms a sum: gathering x and storing y outweigh the multiplications"
    if row.algorithm == "depthwise":
        yield f"an element of x serves {problem.R * problem.S} multiply-adds at most"
    if max(problem.dilation_h, problem.dilation_w) > 1:
        yield "dilated taps read rows and columns that lie apart"
    pointwise = row.algorithm == "implicit_gemm" and problem.R == problem.S == 1
    transposes = pointwise or row.algorithm == "depthwise"
    if row.backend.startswith("cpu") and transposes and not row.channels_last:
        yield "channels_last tensors would spare it the transposition of NCHW"
