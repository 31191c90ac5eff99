"""Every configuration of every Triton kernel is right, and the tables choose among them."""

import pytest
import torch
from devices import TRITON_DEVICE as DEVICE
from devices import needs_triton
from oracles import assert_exact, conv_passes
from problems import CONVS, Conv, drawn, integers

import fastconv
from fastconv.backends import BACKENDS
from fastconv.backends.conv2d import conv_problem
from fastconv.backends.triton.launch import kernels, missing_reason
from fastconv.problem import DTYPES, ConvOp

pytestmark = needs_triton
STEMS = {} if missing_reason() else kernels("plan")._KERNELS
KERNELS = sorted(STEMS)
DEPTHWISE = Conv("two filters a channel", N=1, C=3, K=6, H=7, W=6, pad=(1, 1), groups=3)
IDS = [f"{op}-{algorithm}" for algorithm, op in KERNELS]


def choose_always(index, patch):
    """The configuration of this index among a key's, or the last."""
    tuning = kernels("tuning")

    def choose(key, table, outs, run):
        configs = tuning.candidates(key)
        return configs[min(index, len(configs) - 1)]

    patch.setattr(tuning, "choose", choose)


def one_pass(backend, op, problem, x, w, dy, channels_last):
    """The result of the pass named op: y, dx or dw. channels_last is the layout of dx and dw."""
    if op == "fprop":
        return backend.conv2d_fprop(x, w, None, None, problem.geometry, "none")
    if op == "dgrad":
        return backend.conv2d_dgrad(dy, w, x.shape, channels_last, problem.geometry)
    return backend.conv2d_wgrad(dy, x, w.shape, channels_last, problem.geometry)


@pytest.mark.parametrize("algorithm, op", KERNELS, ids=IDS)
@pytest.mark.parametrize(
    "dtype, channels_last",
    [(torch.float16, False), (torch.float32, True), (torch.float64, False)],
    ids=["float16-nchw", "float32-nhwc", "float64-nchw"],
)
def test_every_configuration_is_right(algorithm, op, dtype, channels_last, monkeypatch, exhaustive):
    turn = (torch.float16, torch.float32, torch.float64).index(dtype)
    grouped = next(problem for problem in CONVS if problem.why == "grouped odd")
    problem = DEPTHWISE if algorithm == "depthwise" else grouped
    x, w, dy = drawn(integers, problem, dtype, channels_last, 8, device=DEVICE)
    expected = conv_passes(problem, x.double(), w.double(), dy.double())
    expected = expected[("fprop", "dgrad", "wgrad").index(op)]
    backend = BACKENDS[f"triton:{algorithm}"]
    configs = list(enumerate(kernels("tuning").configs_for(STEMS[algorithm, op], dtype)))
    # float64 has configurations of its own.
    sampled = DEVICE == "cpu" and dtype != torch.float64 and not exhaustive
    for index, config in configs[turn::2] if sampled else configs:
        choose_always(index, monkeypatch)
        got = one_pass(backend, op, problem, x, w, dy, channels_last)
        assert_exact(got, expected, str(config))


POOLS = {
    "max": lambda library, x: library.max_pool2d(x, 3, 2, 1, return_indices=True),
    "max dilated": lambda library, x: library.max_pool2d(x, 2, 1, 0, 2),
    "average": lambda library, x: library.avg_pool2d(x, 2),
    "adaptive": lambda library, x: library.adaptive_avg_pool2d(x, 2),
}


@pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])
@pytest.mark.parametrize("pool", POOLS)
def test_every_pooling_configuration_is_right(pool, channels_last, monkeypatch):
    x = integers((1, 3, 8, 6), torch.float32, 8, channels_last).to(DEVICE)

    def passes(library):
        leaf = x.detach().requires_grad_()
        y = POOLS[pool](library, leaf)
        outputs = y if isinstance(y, tuple) else (y,)
        dy = torch.arange(outputs[0].numel(), device=DEVICE).view(outputs[0].shape) % 7 - 3.0
        return *outputs, *torch.autograd.grad(outputs[0], leaf, dy)

    expected = passes(torch.nn.functional)
    for index, config in enumerate(kernels("pool2d_reduce").CONFIGS):
        choose_always(index, monkeypatch)
        with fastconv.backend("triton"):
            for got, wanted in zip(passes(fastconv), expected, strict=True):
                assert_exact(got.detach(), wanted.detach(), str(config))


@pytest.mark.parametrize("algorithm, op", KERNELS, ids=IDS)
def test_tables_choose_among_the_configurations(algorithm, op):
    stem = STEMS[algorithm, op]
    kernel = kernels(stem)
    assert 1 <= len(set(kernel.CONFIGS)) == len(kernel.CONFIGS) <= 6
    large = Conv("large", N=64, C=256, H=56, W=56, K=256, pad=(1, 1))
    depthwise = Conv("wide depthwise", N=64, C=960, H=28, W=28, K=960, groups=960, R=5, S=5)
    for o in (*CONVS, large, depthwise):
        if algorithm == "depthwise" and o.groups != o.C:
            continue
        problem = conv_problem(o.x_size, o.w_size, o.geometry)
        for dtype in DTYPES:
            suits = kernels("tuning").configs_for(stem, dtype)
            assert set(suits) <= set(kernel.CONFIGS)
            for multiprocessors in (2, 108, 132):
                about = (ConvOp.__members__[op], problem, dtype)
                assert kernel.table_config(*about, multiprocessors) in suits
                for config in suits:
                    assert kernel.slices(*about, config, multiprocessors) >= 1
