"""Convolutions, transposed ones too, and pools along one axis on every backend, exactly; their
memory formats, derivatives by finite differences, and what torch.compile and explain make of
them."""

from collections import Counter
from dataclasses import replace
from functools import partial
from itertools import product

import pytest
import torch
import torch.nn.functional as F
from devices import CUDA, TRITON, device_of, interpreted, skip_half
from problems import CONVS
from torch.autograd import gradcheck, gradgradcheck

import fastconv
from fastconv.backends import BACKENDS
from fastconv.problem import conv_out_size, conv_transpose_out_size


def row_last(x):
    """x with adjacent channels."""
    return x.transpose(1, 2).contiguous().transpose(1, 2)


CONVOLUTIONS = {  # name -> function, sizes of x and w, arguments
    "dense": ("conv1d", (2, 5, 41), (18, 5, 3), (2, 2, 2)),
    "grouped": ("conv1d", (2, 8, 33), (12, 4, 4), (1, 1, 1, 2)),
    "depthwise": ("conv1d", (2, 37, 70), (37, 1, 4), (1, 6, 2, 37)),
    "unbatched": ("conv1d", (5, 40), (6, 5, 1), ()),
    "transposed": ("conv_transpose1d", (2, 5, 20), (5, 18, 3), (2, 2, 1, 1, 2)),
    "grouped transposed": ("conv_transpose1d", (2, 8, 17), (8, 3, 4), (1, 1, 1, 2, 2)),
    "depthwise transposed": ("conv_transpose1d", (2, 37, 35), (37, 1, 4), (2, 1, 0, 37)),
    "unbatched transposed": ("conv_transpose1d", (5, 20), (5, 6, 2), (2,)),
}
POOLS = {
    "max": lambda m, x: m.max_pool1d(x, 3, 2, 1, ceil_mode=True),
    "dilated max": lambda m, x: m.max_pool1d(x, 4, 3, 2, 2),
    "avg": lambda m, x: m.avg_pool1d(x, 4, 3, 2, True, False),
    "adaptive max": lambda m, x: m.adaptive_max_pool1d(x, 7),
    "adaptive avg": lambda m, x: m.adaptive_avg_pool1d(x, 4),
}
NAMES = ["cpu", "reference", CUDA, TRITON]


def whole(*size):
    return torch.randint(-2, 3, size).double()


def results(function, *tensors, order=torch.Tensor.contiguous):
    """Value and gradients, in float64, for whole numbers that are summed without rounding."""
    tensors = [t.detach().requires_grad_() for t in tensors]
    y = function(*tensors)
    dy = torch.arange(y.numel(), device=y.device).view(y.shape).remainder(5).sub(2).to(y.dtype)
    grads = torch.autograd.grad(y, tensors, order(dy))
    return [t.detach().cpu().double() for t in (y, *grads)]


@pytest.mark.parametrize("order", [torch.Tensor.contiguous, row_last])
@pytest.mark.parametrize("name", CONVOLUTIONS)
@pytest.mark.parametrize("backend", NAMES)
def test_convolutions(backend, name, order, strict):
    function, x_size, w_size, arguments = CONVOLUTIONS[name]
    if order is row_last and len(x_size) == 2:
        pytest.skip("the batch's axis takes part in the order")
    x, w = order(whole(*x_size)), order(whole(*w_size))
    b = whole(getattr(F, function)(x, w, None, *arguments).shape[-2])
    expected = results(lambda x, w, b: getattr(F, function)(x, w, b, *arguments).relu(), x, w, b)

    def ours(x, w, b):
        options = dict(activation="relu", backend=backend)
        return getattr(fastconv, function)(x, w, b, *arguments, **options)

    got = results(ours, *(t.float().to(device_of(backend)) for t in (x, w, b)))
    assert all(map(torch.equal, got, expected))


def rows():
    """The named problems along their horizontal axis, each once."""
    found = {}
    for problem in CONVS:
        row = replace(problem, H=1, R=1, stride=(1, problem.stride[1]), pad=(0, problem.pad[1]),
                      dilation=(1, problem.dilation[1]))  # fmt: skip
        found.setdefault(replace(row, why=""), row)
    return list(found.values())


@pytest.mark.parametrize("turn, problem", list(enumerate(rows())), ids=str)
@pytest.mark.parametrize("backend", NAMES)
def test_named_problems(backend, turn, problem, strict, exhaustive):
    """The convolution, and the transposed one that leads back from its result."""
    skip_half(backend, turn, exhaustive)
    if interpreted(backend) and problem.why == "many filters" and not exhaustive:
        pytest.skip("a step for each few of many filters: --exhaustive runs it")
    N, C, _, W = problem.x_size
    (stride,), (pad,), (dilation,) = (pair[1:] for pair in problem.geometry[:3])
    Q = conv_out_size(W, problem.S, stride, pad, dilation)
    rest = W - conv_transpose_out_size(Q, problem.S, stride, pad, dilation, 0)
    w = whole(problem.K, C // problem.groups, problem.S)
    for function, x, arguments in (
        ("conv1d", whole(N, C, W), (None, stride, pad, dilation, problem.groups)),
        (
            "conv_transpose1d",
            whole(N, problem.K, Q),
            (None, stride, pad, rest, problem.groups, dilation),
        ),
    ):
        expected = results(lambda x, w, f=function, a=arguments: getattr(F, f)(x, w, *a), x, w)
        with fastconv.backend(backend):
            got = results(
                lambda x, w, f=function, a=arguments: getattr(fastconv, f)(x, w, *a),
                *(t.float().to(device_of(backend)) for t in (x, w)),
            )
        assert all(map(torch.equal, got, expected)), function


@pytest.mark.parametrize("name", POOLS)
@pytest.mark.parametrize("backend", NAMES)
def test_pools(backend, name, strict):
    x = torch.randperm(2 * 3 * 28).view(2, 3, 28).double() * 12
    with fastconv.backend(backend):
        got = results(lambda x: POOLS[name](fastconv, x), x.float().to(device_of(backend)))
    torch.testing.assert_close(got, results(lambda x: POOLS[name](F, x), x), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("x_last", [False, True])
@pytest.mark.parametrize("w_last", [False, True])
def test_memory_formats_follow_torch(x_last, w_last):
    x, w = whole(2, 4, 9), whole(4, 4, 3)
    x, w = row_last(x) if x_last else x, row_last(w) if w_last else w
    for function, order in product(
        (
            lambda m, x, w: m.conv1d(x, w),
            lambda m, x, w: m.conv_transpose1d(x, w),
            *(lambda m, x, w, f=f: f(m, x) + 0 * w.sum() for f in POOLS.values()),
        ),
        (torch.Tensor.contiguous, row_last),
    ):
        for _ in range(3):  # the second and third one's calls are prepared
            ours, torchs = (results(partial(function, m), x, w, order=order) for m in (fastconv, F))
            assert [t.stride() for t in ours] == [t.stride() for t in torchs]


def test_finite_differences():
    x, w, b = (
        torch.randn(s, dtype=torch.float64, requires_grad=True)
        for s in ((2, 4, 8), (6, 2, 3), (6,))
    )

    def convolution(x, w, b):
        return fastconv.conv1d(x, w, b, 2, 1, 2, 2, activation="silu")

    def transposed(x, w, b):
        return fastconv.conv_transpose1d(
            x[:, :, :4], w[:4], b[:4], 2, 1, 1, 2, 2, activation="silu"
        )

    for function, tensors in (
        (convolution, (x, w, b)),
        (transposed, (x, w, b)),
        *((lambda x, f=f: f(fastconv, x), (x,)) for f in POOLS.values()),
    ):
        assert gradcheck(function, tensors, check_forward_ad=True, check_batched_grad=True)
        assert gradgradcheck(function, tensors)


@pytest.mark.parametrize("dynamic", [False, True])
def test_compiled(dynamic, strict):
    net = torch.nn.Sequential(
        fastconv.Conv1d(3, 6, 4, padding="same"),
        fastconv.MaxPool1d(2),
        fastconv.ConvReLU1d(6, 6, 3, groups=6),
        fastconv.AvgPool1d(3, 2, 1),
        fastconv.ConvTranspose1d(6, 3, 3, 2, 1, 1),
        fastconv.AdaptiveMaxPool1d(5),
        fastconv.AdaptiveAvgPool1d(2),
    )
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for size in ((2, 3, 40), (3, 3, 31)):
        x = torch.randn(size)
        ours, plain = results(compiled, x), results(net, x)
        torch.testing.assert_close(ours, plain)
    torch.testing.assert_close(torch.export.export(net, (x,)).module()(x), net(x))


def test_messages_name_the_function_along_one_axis():
    x, w = torch.randn(1, 2, 9), torch.randn(4, 2, 3)
    assert "conv1d float32 on cpu: cpu" in str(fastconv.explain(fastconv.conv1d, x, w))
    text = str(fastconv.explain(fastconv.conv_transpose1d, x, w.transpose(0, 1)))
    assert "conv_transpose1d float32 on cpu: cpu" in text and "dgrad of ConvProblem" in text
    assert "max_pool1d" in str(fastconv.explain(fastconv.MaxPool1d(2), x))
    with pytest.raises(NotImplementedError, match=r"fastconv\.conv1d"):
        fastconv.conv1d(x.long(), w.long(), backend="cpu")
    with pytest.raises(RuntimeError, match=r"residual of size \[1, 4, 7\]"):
        fastconv.conv1d(x, w, residual=x)
    with pytest.raises(RuntimeError, match=r"residual of size \[1, 4, 11\]"):
        fastconv.conv_transpose1d(x, w.transpose(0, 1), residual=x)


def test_plans_on_the_cpu_fill_vectors():
    """Long rows along pixels, where the others' vectors would be mostly empty or transposed."""

    def plans(x_size, w_size, channels_last=False, **arguments):
        x, w = torch.empty(x_size, device="meta"), torch.empty(w_size, device="meta")
        decision = fastconv.explain(fastconv.conv1d, x, w, **arguments)[0]
        _, found = BACKENDS["cpu"].explain("conv1d", decision.call, x.dtype, channels_last)
        return [plan.algorithm for plan in found.values()]

    def depthwise(W, S, stride, channels_last=False):
        return plans((1, 64, W), (64, 1, S), channels_last, groups=64, stride=stride)

    assert plans((1, 1, 8000), (32, 1, 7)) == ["planes"] * 3
    assert depthwise(200, 4, 1) == ["planes", "planes", "depthwise"]
    assert depthwise(400, 4, 2) == ["planes", "depthwise", "depthwise"]
    assert depthwise(100, 4, 1) == depthwise(200, 9, 1) == ["depthwise"] * 3
    assert depthwise(200, 4, 1, channels_last=True) == ["depthwise"] * 3


def test_tensors_without_strides_go_to_aten(monkeypatch):
    monkeypatch.setattr(fastconv.dispatch, "fallbacks", Counter())  # each reason warns once
    x, w = torch.randn(1, 2, 9), torch.randn(4, 2, 3)
    with pytest.warns(UserWarning, match="conv1d: this call goes to ATen"):
        y = fastconv.conv1d(x.to_mkldnn(), w)
    torch.testing.assert_close(y.to_dense(), F.conv1d(x, w))
