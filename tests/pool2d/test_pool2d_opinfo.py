"""PyTorch's own samples and error inputs for the pools, and the errors those leave out."""

import pytest
import torch
import torch.nn.functional as F
from devices import CUDA, TRITON, device_of
from sample_derivatives import derivatives

import fastconv

pytest.importorskip("expecttest")
methods = pytest.importorskip("torch.testing._internal.common_methods_invocations")
NAMES = ("max_pool2d", "avg_pool2d", "adaptive_avg_pool2d", "adaptive_max_pool2d")
OPINFOS = {
    name: next(op for op in methods.op_db if op.name == f"nn.functional.{name}") for name in NAMES
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("backend", ["cpu", CUDA, TRITON])
def test_every_sample(name, backend, strict):
    device = device_of(backend)
    samples = list(OPINFOS[name].sample_inputs(device, torch.float64, requires_grad=True))
    assert len(samples) >= 7
    # Emulation takes its time, interpretation more.
    for sample in samples[:: {"cuda": 3, "triton": max(1, len(samples) // 6)}.get(backend, 1)]:
        with fastconv.backend(backend):
            got = derivatives(getattr(fastconv, name), sample)
        torch.testing.assert_close(got, derivatives(OPINFOS[name].op, sample))


@pytest.mark.parametrize("name", NAMES)
def test_integers_go_to_aten(name):
    function = getattr(fastconv, name)
    x = torch.arange(32).view(1, 2, 4, 4)
    if name.startswith("adaptive"):
        with pytest.raises((NotImplementedError, RuntimeError)):
            function(x, 2)
    else:
        assert torch.equal(function(x, 2), getattr(F, name)(x, 2))
    with pytest.raises(NotImplementedError, match="int64"):
        function(x, 2, backend="cpu")
    with pytest.raises(NotImplementedError):
        function(x.cfloat(), 3)


@pytest.mark.parametrize("name", NAMES)
def test_every_error_input_raises_torchs_error(name):
    errors = list(OPINFOS[name].error_inputs("cpu"))
    assert len(errors) >= 3
    for error in errors:
        sample = error.sample_input
        # torch says "internal error" here, or speaks of a tensor; ours names the argument.
        regex = "output_size" if name == "adaptive_max_pool2d" else error.error_regex
        if error.error_type is ValueError:
            regex = error.error_regex
        with pytest.raises(error.error_type, match=regex):
            getattr(fastconv, name)(sample.input, *sample.args, **sample.kwargs)


X = torch.zeros(1, 2, 6, 6)
HUGE = 2**30  # sizes of windows are 32-bit, as torch's


@pytest.mark.parametrize(
    "name, x, arguments, message",
    [
        ("max_pool2d", X, {"kernel_size": (2, 2, 2)}, "kernel_size"),
        ("max_pool2d", X, {"kernel_size": ()}, "kernel_size"),
        ("max_pool2d", X, {"kernel_size": 2.0}, "kernel_size"),
        ("max_pool2d", X, {"kernel_size": True}, "kernel_size"),
        ("max_pool2d", X, {"kernel_size": 0}, "kernel_size"),
        ("max_pool2d", X, {"kernel_size": 2, "stride": 0}, "stride"),
        ("max_pool2d", X, {"kernel_size": 2, "stride": (1, -1)}, "stride"),
        ("max_pool2d", X, {"kernel_size": 2, "dilation": 0}, "dilation"),
        ("max_pool2d", X, {"kernel_size": 2, "padding": ()}, "padding"),
        ("max_pool2d", X, {"kernel_size": 2, "ceil_mode": None}, "ceil_mode"),
        ("max_pool2d", X, {"kernel_size": 7}, "Output size is too small"),
        ("max_pool2d", X, {"kernel_size": HUGE}, "Output size is too small"),
        ("max_pool2d", X[0, 0], {"kernel_size": 2}, "3D or 4D"),
        ("max_pool2d", X[:, :0], {"kernel_size": 2}, "Expected 3D or 4D"),
        ("avg_pool2d", X, {"kernel_size": 2, "divisor_override": 2.0}, "divisor_override"),
        ("avg_pool2d", X, {"kernel_size": 2, "stride": "a"}, "stride"),
        ("avg_pool2d", X[None], {"kernel_size": 2}, "3D or 4D"),
        ("adaptive_avg_pool2d", X, {"output_size": (2, 2, 2)}, "output_size"),
        ("adaptive_avg_pool2d", X, {"output_size": 2.0}, "output_size"),
        ("adaptive_avg_pool2d", X[..., :0], {"output_size": 2}, "non-zero size"),
        ("adaptive_max_pool2d", X[:, :0], {"output_size": 2}, "non-zero size"),
        ("adaptive_max_pool2d", X[0, 0], {"output_size": 2}, "3D or 4D"),
    ],
)
def test_torchs_error_class(name, x, arguments, message):
    with pytest.raises(Exception) as torchs:
        getattr(F, name)(x, **arguments)
    with pytest.raises(torchs.type, match=message):
        getattr(fastconv, name)(x, **arguments)


@pytest.mark.parametrize("backend", ["cpu", CUDA, TRITON])
def test_sizes_at_the_limit_neither_overflow_nor_take_long(backend, strict):
    x = torch.randn(1, 2, 6, 6, device=device_of(backend))
    with fastconv.backend(backend):
        check_huge_windows(x)


def check_huge_windows(x):
    whole = {"kernel_size": HUGE, "padding": HUGE // 2, "stride": HUGE}
    torch.testing.assert_close(fastconv.max_pool2d(x, **whole), x.amax((2, 3), keepdim=True))
    torch.testing.assert_close(
        fastconv.avg_pool2d(x, **whole, count_include_pad=False), x.mean((2, 3), keepdim=True)
    )
    kernel = {"kernel_size": 2**31 - 1, "padding": 2**30 - 1, "stride": 2**29, "ceil_mode": True}
    y = fastconv.avg_pool2d(x, **kernel, divisor_override=36)
    torch.testing.assert_close(y, x.mean((2, 3), keepdim=True).expand_as(y))


def test_indices_out_of_range_are_an_error():
    arguments = ([2, 2], [2, 2], [0, 0], [1, 1], False, [])
    dy = torch.ones(1, 1, 2, 2)
    for wrong in (-1, 16, 2**40):
        indices = torch.zeros(1, 1, 2, 2, dtype=torch.int64)
        indices[0, 0, 1, 1] = wrong
        for backend in ("cpu", "reference"):
            with pytest.raises(ValueError, match="index"):
                torch.ops.fastconv.pool2d_max_bwd(
                    dy, indices, [1, 1, 4, 4], False, *arguments, backend
                )


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("backend", ["cpu", CUDA, TRITON])
def test_opcheck(layout, backend):
    device, channels_last = device_of(backend), layout is torch.channels_last
    x = torch.randn(2, 3, 6, 7, device=device).to(memory_format=layout).requires_grad_()
    plain = [[3, 3], [2, 2], [1, 1], [1, 1], True, []]
    adaptive = [[], [], [], [], False, [2, 9]]
    cases = ((plain, backend != "cpu"), (plain, False), (adaptive, False))
    if backend == "triton":  # interpreted
        cases = cases[2:] if channels_last else cases[:1]
    for windows, offsets in cases:
        y, places = torch.ops.fastconv.pool2d_max_fwd(x, *windows, offsets, backend)
        dy = torch.randn_like(y).requires_grad_()
        for name, arguments in {
            "max_fwd": (x, *windows, offsets),
            "max_values": (x.detach(), *windows),
            "max_bwd": (dy, places, list(x.shape), channels_last, *windows),
            "avg_fwd": (x, *windows, False, 0),
            "avg_bwd": (dy, list(x.shape), channels_last, *windows, True, -3),
        }.items():
            op = getattr(torch.ops.fastconv, f"pool2d_{name}")
            torch.library.opcheck(op, (*arguments, backend))


def test_wrong_places_are_errors():
    windows = ([2, 2], [2, 2], [0, 0], [1, 1], False, [])
    offsets = torch.zeros(1, 1, 2, 2, dtype=torch.int8)
    with pytest.raises(RuntimeError, match="int8"):
        torch.ops.fastconv.pool2d_max_bwd(
            torch.ones(1, 1, 2, 2), offsets, [1, 1, 4, 4], False, *windows, "cpu"
        )


@pytest.mark.parametrize("backend", [CUDA, TRITON])
def test_a_gather_ignores_wrong_indices(backend):
    windows = ([2, 2], [2, 2], [0, 0], [1, 1], False, [])
    device = device_of(backend)
    for wrong in (-1, 16, 2**40, -(2**63)):
        indices = torch.zeros(1, 1, 2, 2, dtype=torch.int64, device=device)
        indices[0, 0, 1, 1] = wrong
        dx = torch.ops.fastconv.pool2d_max_bwd(
            torch.ones(1, 1, 2, 2, device=device), indices, [1, 1, 4, 4], False, *windows, backend
        )
        assert dx.sum() == 1 and dx[0, 0, 0, 0] == 1
