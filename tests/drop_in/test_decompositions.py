"""fastconv.export_decompositions: every operator in terms of ATen's, with the same results."""

from functools import partial

import pytest
import torch
from activation_names import NAMES
from torch.fx.experimental.proxy_tensor import make_fx

import fastconv
from fastconv.activations import by_torch, saves_result
from fastconv.geometry import Pool2dWindows

TABLE = fastconv.export_decompositions()
OPS = torch.ops.fastconv
GEOMETRY = ([2, 1], [1, 2], [1, 2], 2)


def _samples():
    """(name, arguments but the backend) of calls of every operator."""
    x, w, b = torch.randn(2, 4, 9, 8), torch.randn(6, 2, 3, 2), torch.randn(6)
    y = OPS.conv2d_fprop(x, w, b, None, *GEOMETRY, "none", "reference")
    last = x.contiguous(memory_format=torch.channels_last)
    yield "conv2d_fprop", (x, w, None, None, *GEOMETRY, "none")
    for activation in NAMES:
        yield "conv2d_fprop", (last, w, b, torch.randn_like(y), *GEOMETRY, activation)
        saved = by_torch(activation, y) if saves_result(activation) else y
        yield "epilogue_backward", (torch.randn_like(y), saved, activation)
        yield "activation_forward", (y, activation)
    yield "epilogue_backward", (torch.randn_like(y), y, "none")
    yield "bias_grad", (y,)
    up = (y, w, None, None, *GEOMETRY, [1, 0])
    yield "conv_transpose2d", (*up, "none")
    residual = torch.randn_like(OPS.conv_transpose2d(*up, "none", "reference"))
    last_up = y.contiguous(memory_format=torch.channels_last), w, torch.randn(4), residual
    yield "conv_transpose2d", (*last_up, *up[4:], "silu")
    for channels_last in (False, True):
        yield "conv2d_dgrad", (y, w, x.shape, channels_last, *GEOMETRY)
        yield "conv2d_wgrad", (y, x, w.shape, channels_last, *GEOMETRY)
        image = last if channels_last else x
        plain = Pool2dWindows((3, 2), (2, 1), (1, 1), (1, 2), True, ())
        undilated = Pool2dWindows((3, 3), (2, 1), (1, 1), (1, 1), True, ())
        adaptive = Pool2dWindows((), (), (), (), False, (4, 3))
        one = Pool2dWindows((), (), (), (), False, (1, 1))
        for windows in (plain, undilated, adaptive, one):
            yield "pool2d_max_values", (image, *windows)
            yield "pool2d_max_fwd", (image, *windows, False)
            p, indices = OPS.pool2d_max_fwd(image, *windows, False, "cpu")
            dy = torch.randn_like(p)
            yield "pool2d_max_bwd", (dy, indices, x.shape, channels_last, *windows)
            if windows is plain:  # averages know no dilation
                continue
            averages = ((True, 0), (False, 0), (True, -3))
            for average in averages[:1] if windows.output_size else averages:
                yield "pool2d_avg_fwd", (image, *windows, *average)
                dy = torch.randn(2, 4, *windows.out_plane(x.shape))
                yield "pool2d_avg_bwd", (dy, x.shape, channels_last, *windows, *average)


def test_every_operator_has_one():
    defined = {f"fastconv::{name}" for name in dir(OPS) if hasattr(getattr(OPS, name), "default")}
    assert {op.name().split(".")[0] for op in TABLE} >= defined and defined


@pytest.mark.parametrize("name", sorted(op.name().split("::")[1] for op in TABLE))
def test_results(name):
    op = getattr(OPS, name).default
    samples = [arguments for sample, arguments in _samples() if sample == name]
    assert samples
    for arguments in samples:
        expected = op(*arguments, "cpu")
        graph = make_fx(partial(op, *arguments, "cpu"), decomposition_table=TABLE)()
        assert not any(str(node.target).startswith("fastconv") for node in graph.graph.nodes)
        torch.testing.assert_close(graph(), expected, rtol=1e-5, atol=1e-5, check_stride=True)


def test_a_training_program():
    """Forward and backward in one graph, with max pooling's offsets."""

    def step(x, w):
        y = fastconv.max_pool2d(fastconv.conv2d(x, w, padding=1, activation="silu"), 2)
        return torch.autograd.grad(y.sin().sum(), (x, w))

    x, w = torch.randn(2, 3, 6, 6, requires_grad=True), torch.randn(4, 3, 3, 3, requires_grad=True)
    graph = make_fx(step, decomposition_table=TABLE)(x, w)
    assert not any(str(node.target).startswith("fastconv") for node in graph.graph.nodes)
    torch.testing.assert_close(graph(x, w), step(x, w), rtol=1e-5, atol=1e-5)


def test_offsets_stand_for_indices():
    """The places of maxima that only GPUs' backends write: max_bwd of them is that of indices."""
    x = torch.randn(2, 3, 9, 8)
    windows = Pool2dWindows((3, 2), (2, 1), (1, 1), (1, 2), True, ())
    fwd, bwd = TABLE[OPS.pool2d_max_fwd.default], TABLE[OPS.pool2d_max_bwd.default]
    y, indices = fwd(x, *windows, False, "cuda")
    same, offsets = fwd(x, *windows, True, "cuda")
    assert offsets.dtype == torch.int8 and torch.equal(y, same)
    assert 0 <= offsets.min() and offsets.max() < 6
    dy = torch.randn_like(y)
    expected = bwd(dy, indices, x.shape, False, *windows, "cuda")
    assert torch.equal(bwd(dy, offsets, x.shape, False, *windows, "cuda"), expected)
    offsets[:] = -1  # windows in padding
    assert not bwd(dy, offsets, x.shape, False, *windows, "cuda").any()
