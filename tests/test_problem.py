"""Sizes: the C++ formulas against torch's shapes, and against their Python twins."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from problems import CONVS

from fastconv import ConvProblem, PoolProblem, problem
from fastconv._native import core

AXES = [
    case
    for case in itertools.product((1, 2, 5, 8), (1, 2, 3), (1, 2, 3), (0, 1, 2), (1, 2))
    if case[0] + 2 * case[3] >= case[4] * (case[1] - 1) + 1
]


def test_conv_out_size_is_torchs_and_its_twins():
    assert len(AXES) > 100
    for size, kernel, stride, pad, dilation in AXES:
        y = F.conv2d(
            torch.zeros(1, 1, size, 1),
            torch.zeros(1, 1, kernel, 1),
            None,
            (stride, 1),
            (pad, 0),
            (dilation, 1),
        )
        args = (size, kernel, stride, pad, dilation)
        assert core.conv_out_size(*args) == problem.conv_out_size(*args) == y.shape[2]


def meetings(axes):
    """The (output position, tap, source position) of a list of GatherAxis, by its formula."""
    return [
        (
            axis.first + u * axis.step,
            axis.tap_first + i * axis.tap_step,
            axis.source_first + u * axis.source_step + i * axis.tap_offset,
        )
        for axis in axes
        for u in range(axis.positions)
        for i in range(axis.taps)
    ]


@pytest.mark.parametrize("reverse", [False, True])
def test_gather_axes_are_the_definition(reverse):
    """Each output position once, and each of its taps once, with the source position that meets it;
    those of the padding of x are in fprop's, and those beyond dy in dgrad's."""
    op = problem.ConvOp
    for size, kernel, stride, pad, dilation in [*AXES, (7, 5, 6, 1, 4), (3, 2, 5, 9, 1)]:
        geometry = {"stride_w": stride, "pad_w": pad, "dilation_w": dilation}
        sizes = ConvProblem(N=1, C=1, H=1, W=size, K=1, R=1, S=kernel, **geometry)
        out_size = sizes.out_size()[3]
        axes = {one: core.gather_axes(one, sizes)[1] for one in (op.fprop, op.dgrad, op.wgrad)}
        if reverse:
            axes = {one: [core.with_taps_reversed(a) for a in axes[one]] for one in axes}
        for one, positions, source_size in (
            (op.fprop, out_size, size),
            (op.wgrad, out_size, size),
            (op.dgrad, size, out_size),
        ):
            covered = [a.first + u * a.step for a in axes[one] for u in range(a.positions)]
            assert sorted(covered) == list(range(positions))
            assert all(a.source_size == source_size for a in axes[one])
        every_tap = [
            (p, r, p * stride - pad + r * dilation) for p in range(out_size) for r in range(kernel)
        ]
        assert sorted(meetings(axes[op.fprop])) == every_tap
        assert sorted(meetings(axes[op.wgrad])) == every_tap
        met = [(h, r, p) for h, r, p in meetings(axes[op.dgrad]) if 0 <= p < out_size]
        assert sorted(met) == sorted((h, r, p) for p, r, h in every_tap if 0 <= h < size)


@pytest.mark.parametrize("ceil_mode", [False, True])
def test_pool_out_size_is_torchs_and_its_twins(ceil_mode):
    for size, kernel, stride, pad, dilation in AXES:
        if pad > kernel // 2:
            continue
        y = F.max_pool2d(
            torch.zeros(1, 1, size, 1), (kernel, 1), (stride, 1), (pad, 0), (dilation, 1), ceil_mode
        )
        args = (size, kernel, stride, pad, dilation, ceil_mode)
        assert core.pool_out_size(*args) == problem.pool_out_size(*args) == y.shape[2]


def test_conv_problem_derives_gemm_flops_and_bytes():
    p = ConvProblem(N=2, C=4, H=9, W=8, K=6, R=3, S=2, stride_h=2, pad_w=1, groups=2)
    P, Q = 4, 9
    assert p.out_size() == (2, 6, P, Q)
    op = problem.ConvOp
    assert p.gemm_shape(op.fprop) == (2 * P * Q, 3, 3 * 2 * 2)
    assert p.gemm_shape(op.dgrad) == (2 * 9 * 8, 2, 3 * 2 * 3)
    assert p.gemm_shape(op.wgrad) == (3, 3 * 2 * 2, 2 * P * Q)
    assert p.flops(op.fprop) == 2 * 2 * P * Q * 6 * 3 * 2 * 2
    assert p.bytes(op.wgrad, 4) == 4 * (2 * 4 * 9 * 8 + 6 * 2 * 3 * 2 + 2 * 6 * P * Q)


def test_flops_are_what_torch_counts():
    from torch.utils.flop_counter import FlopCounterMode

    import fastconv

    for conv in CONVS:
        x, w = torch.zeros(conv.x_size), torch.zeros(conv.w_size)
        counts = []
        for function in (F.conv2d, fastconv.conv2d):
            with FlopCounterMode(display=False) as counter:
                y = function(x, w.requires_grad_(), None, *conv.geometry)
                if conv.groups == 1:  # torch counts a grouped wgrad as if it were dense
                    y.sum().backward()
            counts.append(counter.get_total_flops())
        assert counts[0] == counts[1] > 0, str(conv)


def test_overflowing_sizes_are_errors():
    big = 2**40
    with pytest.raises(RuntimeError, match="64 bits"):
        ConvProblem(N=big, C=big, H=1, W=1, K=1, R=1, S=1)
    with pytest.raises(RuntimeError, match="64 bits"):
        ConvProblem(N=1, C=1, H=1, W=1, K=1, R=1, S=1, pad_h=2**62)
    with pytest.raises(RuntimeError, match="64 bits"):
        ConvProblem(N=1, C=1, H=9, W=9, K=1, R=3, S=3, dilation_w=2**62)
    with pytest.raises(RuntimeError, match="64 bits"):
        PoolProblem(N=big, C=big, H=1, W=1, R=1, S=1)


@pytest.mark.parametrize(
    "field, value",
    [
        ("stride_h", 0),
        ("dilation_w", -1),
        ("pad_h", -1),
        ("groups", 0),
        ("R", 0),
        ("N", -1),
        ("groups", 3),
    ],
)
def test_senseless_sizes_are_errors(field, value):
    sizes = {**dict.fromkeys("NCHWKRS", 4), "R": 1, "S": 1, field: value}
    with pytest.raises(ValueError, match="ConvProblem"):
        ConvProblem(**sizes)


def test_channels_last_is_read_off_strides_as_torch_does():
    plain = torch.empty(2, 3, 4, 5)
    last = plain.to(memory_format=torch.channels_last)
    cases = [
        plain,
        last,
        last[:, :, 1:, ::2],
        last[:, 1:],
        plain.expand(2, 3, 4, 5),
        torch.empty(2, 1, 4, 5),
        torch.empty(2, 3, 1, 1),
        torch.empty(1, 3, 4, 5)[:, :1],
        torch.empty(0, 3, 4, 5),
        last.transpose(2, 3),
        plain[:1].expand(4, 3, 4, 5),
        torch.empty(2, 3, 1, 1).to(memory_format=torch.channels_last),
    ]
    for tensor in cases:
        suggested = torch._prims_common.suggest_memory_format(tensor) == torch.channels_last
        assert problem.suggests_channels_last(tensor) == suggested, (tensor.shape, tensor.stride())
