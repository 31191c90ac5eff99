"""Which positions meet by which tap, as the Triton kernels compute it, against the definition of a
convolution."""

from itertools import product
from types import SimpleNamespace

import pytest
import torch
from devices import TRITON_DEVICE as DEVICE
from devices import needs_triton

from fastconv.backends.triton.launch import missing_reason
from fastconv.problem import ConvOp

pytestmark = needs_triton
# Sizes of x, filters, strides, pads and dilations along one axis.
AXES = [
    axis
    for axis in product((1, 2, 7, 10), (1, 2, 3, 5), (1, 2, 3, 4), (0, 1, 4), (1, 2, 3, 4))
    if axis[0] + 2 * axis[3] > (axis[1] - 1) * axis[4]  # x holds a window
]

if not missing_reason():
    import triton
    import triton.language as tl

    from fastconv.triton_kernels.device.gather_axis import (
        GatherAxis,
        axis_phases,
        dgrad_axis,
        fprop_axis,
        tap_step,
    )
    from fastconv.triton_kernels.launch import Config, launch

    @triton.jit
    def store_axis(axes, cases, DGRAD: tl.constexpr, STRIDED: tl.constexpr):
        """cases: rows (phase, size, kernel, stride, pad, dilation, tap_step), one a program."""
        case = cases + 7 * tl.program_id(0)
        phase = tl.load(case)
        size = tl.load(case + 1)
        kernel = tl.load(case + 2)
        stride = tl.load(case + 3)
        pad = tl.load(case + 4)
        dilation = tl.load(case + 5)
        if DGRAD:
            axis = dgrad_axis(
                phase, size, kernel, stride, pad, dilation, tl.load(case + 6), STRIDED
            )
        else:
            axis = fprop_axis(stride, pad, dilation, size, kernel)
        row = axes + 9 * tl.program_id(0)
        tl.store(row, axis.positions)
        tl.store(row + 1, axis.out_first)
        tl.store(row + 2, axis.out_step)
        tl.store(row + 3, axis.taps)
        tl.store(row + 4, axis.tap_first)
        tl.store(row + 5, axis.tap_step)
        tl.store(row + 6, axis.source_first)
        tl.store(row + 7, axis.source_step)
        tl.store(row + 8, axis.tap_offset)


def y_size(size, kernel, stride, pad, dilation):
    return (size + 2 * pad - (kernel - 1) * dilation - 1) // stride + 1


def gather_axes(op, axes, strided=True):
    """{axis: the GatherAxis of each phase}, from one launch."""
    rows, owners = [], []
    for axis in axes:
        size, kernel, stride, pad, dilation = axis
        out = size if op == ConvOp.dgrad else y_size(*axis)
        problem = SimpleNamespace(H=out, W=1, stride_h=stride, stride_w=1)
        step = tap_step(stride, dilation)
        for phase in range(axis_phases(op, problem)[0]):
            rows.append((phase, out, kernel, stride, pad, dilation, step))
            owners.append(axis)
    cases = torch.tensor(rows, dtype=torch.int32, device=DEVICE)
    found = torch.full((len(rows), 9), -99, dtype=torch.int32, device=DEVICE)
    constants = {"DGRAD": op == ConvOp.dgrad, "STRIDED": strided}
    launch(store_axis, (len(rows),), Config(1, 1, 1, 1), found, found, cases, **constants)
    result = {}
    for axis, row in zip(owners, found.tolist()):
        result.setdefault(axis, []).append(GatherAxis(*row))
    return result


def meetings(axis):
    """(position of out, tap, position of the source) of all terms of the sums."""
    for u, i in product(range(axis.positions), range(axis.taps)):
        yield (
            u * axis.out_step + axis.out_first,
            i * axis.tap_step + axis.tap_first,
            u * axis.source_step + axis.source_first + i * axis.tap_offset,
        )


def defined_meetings(op, size, kernel, stride, pad, dilation):
    """The meetings by the definition: h = p * stride - pad + r * dilation, where h lies in x."""
    for p, r in product(range(y_size(size, kernel, stride, pad, dilation)), range(kernel)):
        h = p * stride - pad + r * dilation
        if 0 <= h < size:
            yield (h, r, p) if op == ConvOp.dgrad else (p, r, h)


@pytest.mark.parametrize("op", [ConvOp.fprop, ConvOp.dgrad], ids=["fprop", "dgrad"])
def test_every_meeting_once_and_no_other(op):
    for axis, found in gather_axes(op, AXES).items():
        source_size = y_size(*axis) if op == ConvOp.dgrad else axis[0]
        inside = [m for phase in found for m in meetings(phase) if 0 <= m[2] < source_size]
        assert sorted(inside) == sorted(defined_meetings(op, *axis)), axis


def test_phases_share_out_the_positions_of_dx():
    for axis, found in gather_axes(ConvOp.dgrad, AXES).items():
        positions = [u * a.out_step + a.out_first for a in found for u in range(a.positions)]
        assert sorted(positions) == list(range(axis[0])), axis
        # Launches have as many programs for each phase as the first needs.
        assert found[0].positions == max(a.positions for a in found), axis


def test_the_only_phase_of_stride_1_needs_no_search():
    axes = [axis for axis in AXES if axis[2] == 1]
    assert gather_axes(ConvOp.dgrad, axes, strided=False) == gather_axes(ConvOp.dgrad, axes)
