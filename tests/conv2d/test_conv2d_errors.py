"""Bad arguments: torch's class of exception, a message that names the argument, and no crash."""

import pytest
import torch
import torch.nn.functional as F

import fastconv

X, W = torch.zeros(2, 4, 5, 5), torch.zeros(6, 4, 3, 3)

CASES = {
    "list input": (([1.0], W), {}),
    "weight None": ((X, None), {}),
    "1-D input": ((torch.zeros(4), W), {}),
    "2-D input": ((torch.zeros(4, 5), W), {}),
    "5-D input": ((torch.zeros(1, 1, 4, 5, 5), W), {}),
    "3-D weight": ((X, torch.zeros(6, 4, 3)), {}),
    "too few channels": ((torch.zeros(2, 3, 5, 5), W), {}),
    "groups do not divide": ((X, torch.zeros(6, 2, 3, 3)), {"groups": 4}),
    "fewer filters than groups": ((X, torch.zeros(1, 2, 3, 3)), {"groups": 2}),
    "groups 0": ((X, W), {"groups": 0}),
    "groups huge": ((X, W), {"groups": 2**70}),
    "stride 0": ((X, W), {"stride": 0}),
    "stride -1": ((X, W), {"stride": (1, -1)}),
    "stride float": ((X, W), {"stride": 1.5}),
    "stride bool": ((X, W), {"stride": True}),
    "stride None": ((X, W), {"stride": None}),
    "stride of 3": ((X, W), {"stride": (1, 1, 1)}),
    "stride empty": ((X, W), {"stride": ()}),
    "padding -1": ((X, W), {"padding": -1}),
    "padding word": ((X, W), {"padding": "full"}),
    "same with stride": ((X, W), {"padding": "same", "stride": 2}),
    "padding 10**5 asks for terabytes": ((X, W), {"padding": 10**6}),
    "padding near 2**63": ((X, W), {"padding": 2**62}),
    "dilation 0": ((X, W), {"dilation": 0}),
    "dilation huge": ((X, W), {"dilation": 2**62}),
    "kernel beyond input": ((X, torch.zeros(6, 4, 7, 7)), {}),
    "empty kernel": ((X, torch.zeros(6, 4, 0, 3)), {"padding": 1}),
    "no filters": ((X, torch.zeros(0, 4, 3, 3)), {}),
    "H = 0": ((torch.zeros(2, 4, 0, 5), W), {"padding": 1}),
    "bias of wrong length": ((X, W, torch.zeros(5)), {}),
    "bias of wrong rank": ((X, W, torch.zeros(6, 1)), {}),
    "bias float64": ((X, W, torch.zeros(6).double()), {}),
    "weight float64": ((X, W.double()), {}),
    "bool tensors": ((X.bool(), W.bool()), {}),
    "sparse input": ((X.to_sparse(), W), {}),
}


@pytest.mark.parametrize("case", CASES)
def test_raises_what_torch_raises(case):
    args, kwargs = CASES[case]
    with pytest.raises(Exception) as torchs:
        F.conv2d(*args, **kwargs)
    with pytest.raises(Exception) as ours:
        fastconv.conv2d(*args, **kwargs)
    assert issubclass(ours.type, torchs.type), f"{ours.type} instead of {torchs.type}: {ours.value}"
    assert len(str(ours.value)) > 20


@pytest.mark.parametrize(
    "kwargs, match",
    [
        ({"activation": "sine"}, "activation.*'sine'"),
        ({"activation": "none"}, "activation.*'none'"),
        ({"activation": 3}, "activation.*3"),
        ({"activation": "relu(0.2)"}, "'relu' has no parameter, got 'relu\\(0.2\\)'"),
        ({"activation": "leaky_relu(nan)"}, "negative_slope, a finite number.*nan"),
        ({"activation": "leaky_relu(0.2"}, "negative_slope.*'leaky_relu\\(0.2'"),
        ({"activation": "elu()"}, "alpha.*'elu\\(\\)'"),
        ({"backend": "cudnn"}, "backend.*'cudnn'"),
    ],
)
def test_unknown_names(kwargs, match):
    with pytest.raises(ValueError, match=match):
        fastconv.conv2d(X, W, **kwargs)


@pytest.mark.parametrize(
    "residual", [torch.zeros(2, 6, 3, 4), torch.zeros(6, 3, 3), torch.zeros(2, 6, 3, 3).double()]
)
def test_residual_must_fit(residual):
    with pytest.raises(RuntimeError, match="residual"):
        fastconv.conv2d(X, W, residual=residual)


def test_storage_smaller_than_sizes_claim():
    for name in ("x", "w", "b"):
        tensors = {"x": X.clone(), "w": W.clone(), "b": torch.zeros(6)}
        tensors[name].untyped_storage().resize_(8)
        with pytest.raises(RuntimeError, match="storage"):
            fastconv.conv2d(*tensors.values())


@pytest.mark.parametrize("backend", ["cpu", "cpu:direct", "cpu:implicit_gemm", "reference"])
def test_sizes_at_the_end_of_64_bits_neither_wrap_nor_hang(backend):
    x, w = torch.randn(1, 4, 5, 5, requires_grad=True), torch.randn(4, 4, 3, 3)
    for stride in (2**31, 2**62, 2**63 - 1):
        y = fastconv.conv2d(x, w, stride=stride, backend=backend)
        torch.testing.assert_close(y, F.conv2d(x, w)[:, :, :1, :1])
        (dx,) = torch.autograd.grad(y.sum(), x)
        torch.testing.assert_close(dx[0, :, :3, :3], w.sum(0))


def test_numpy_integers_do_not_wrap():
    numpy = pytest.importorskip("numpy")
    y = fastconv.conv2d(X, W, padding=numpy.int8(100))
    assert y.shape == F.conv2d(X, W, padding=100).shape


def test_a_default_device_does_not_move_results():
    """Kernels write to memory: whatever they allocate lies where their arguments lie."""
    x, w = torch.randn(1, 2, 6, 6, requires_grad=True), torch.randn(3, 2, 3, 3, requires_grad=True)
    b = torch.zeros(3, requires_grad=True)
    with torch.device("meta"):
        y, indices = fastconv.max_pool2d(fastconv.conv2d(x, w, b), 2, return_indices=True)
        y.sum().backward()
    assert {t.device.type for t in (y, indices, x.grad, w.grad, b.grad)} == {"cpu"}
    assert b.grad.tolist() == [4.0, 4.0, 4.0]


def test_a_named_backend_never_falls_back():
    with pytest.raises(NotImplementedError, match="int64"):
        fastconv.conv2d(X.long(), W.long(), backend="cpu")
    with pytest.raises(NotImplementedError, match="one channel per group"):
        fastconv.conv2d(X, W, backend="cpu:depthwise")
    with pytest.raises(NotImplementedError, match="sparse"), fastconv.backend("reference"):
        fastconv.conv2d(X.to_sparse(), W)


def test_strict_raises_what_auto_would_leave_to_aten(monkeypatch):
    y = fastconv.conv2d(X.long(), W.long())
    assert torch.equal(y, F.conv2d(X.long(), W.long()))
    assert any("int64" in reason for reason in fastconv.info()["fallbacks"])
    monkeypatch.setenv("FASTCONV_STRICT", "1")
    with pytest.raises(NotImplementedError, match="int64"):
        fastconv.conv2d(X.long(), W.long())


@pytest.mark.parametrize(
    "args",
    [
        (X, W[:, :2]),
        (X[0], W),
        (X, W[0]),
        (X.double(), W),
        (X, W.half()),
    ],
)
def test_raw_ops_check_their_operands(args):
    """torch.ops.fastconv is reachable too: it raises, it does not read out of bounds."""
    geometry = ([1, 1], [0, 0], [1, 1], 1)
    with pytest.raises((RuntimeError, ValueError)):
        torch.ops.fastconv.conv2d_fprop(*args, None, None, *geometry, "none", "cpu")


def test_raw_ops_check_gradients_bias_and_residual():
    geometry = ([1, 1], [0, 0], [1, 1], 1)
    ops = torch.ops.fastconv
    for dy in (torch.zeros(2, 6, 2, 3), torch.zeros(1, 6, 3, 3), torch.zeros(2, 6, 3)):
        with pytest.raises(RuntimeError, match="dy"):
            ops.conv2d_dgrad(dy, W, X.shape, False, *geometry, "cpu")
        with pytest.raises(RuntimeError, match="dy"):
            ops.conv2d_wgrad(dy, X, W.shape, False, *geometry, "cpu")
    with pytest.raises(RuntimeError, match="b "):
        ops.conv2d_fprop(X, W, torch.zeros(3), None, *geometry, "none", "cpu")
    with pytest.raises(RuntimeError, match="residual"):
        ops.conv2d_fprop(X, W, None, torch.zeros(2, 6, 3, 2), *geometry, "none", "cpu")
    with pytest.raises(RuntimeError, match="saved"):
        ops.epilogue_backward(torch.zeros(2, 6, 3, 3), torch.zeros(2, 6, 3, 2), "relu", "cpu")
    with pytest.raises(RuntimeError, match="two each"):
        ops.conv2d_fprop(X, W, None, None, [1], [0], [1], 1, "none", "cpu")
