"""torch.func's transforms over every operator: plain, under a dispatch mode, traced and compiled.

Right is what torch's operator gives under the same transform, which nothing watches.
"""

import contextlib

import pytest
import torch
import torch.autograd.forward_ad as fwd
import torch.nn.functional as F
from activation_names import NAMES
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

import fastconv
from fastconv.explanation.observer import observe


def conv2d(x, w, b=None, residual=None, activation=None, library=F):
    if library is fastconv:
        return fastconv.conv2d(x, w, b, activation=activation, residual=residual)
    y = F.conv2d(x, w, b)
    y = y if residual is None else y + residual
    return y if activation is None else getattr(F, activation)(y)


OPERATORS = {  # name: (function of (library, *tensors), which tensors it takes)
    "conv2d": (lambda library, *args: conv2d(*args, library=library), "xw"),
    "conv2d+bias": (lambda library, *args: conv2d(*args, library=library), "xwb"),
    "conv2d+relu": (lambda library, *args: conv2d(*args, "relu", library), "xwbr"),
    "conv2d+silu": (lambda library, *args: conv2d(*args, "silu", library), "xwbr"),
    "max_pool2d": (lambda library, x: library.max_pool2d(x, 2, 1), "x"),
    "indices": (lambda library, x: library.max_pool2d(x, 2, return_indices=True)[0], "x"),
    "avg_pool2d": (lambda library, x: library.avg_pool2d(x, 2, 1), "x"),
    "adaptive_avg_pool2d": (lambda library, x: library.adaptive_avg_pool2d(x, 3), "x"),
    "adaptive_max_pool2d": (lambda library, x: library.adaptive_max_pool2d(x, 3), "x"),
    "conv1d": (lambda library, x, w, b: library.conv1d(x[:, :, 0], w[:, :, 0], b), "xwb"),
    "conv_transpose1d": (
        lambda library, x, w, b: library.conv_transpose1d(x[:, :, 0], w[:, :, 0], b, 2),
        "xwb",
    ),
    "max_pool1d": (lambda library, x: library.max_pool1d(x[:, :, 0], 2, 1), "x"),
    "avg_pool1d": (lambda library, x: library.avg_pool1d(x[:, :, 0], 2, 1), "x"),
}
SIZES = {"x": (1, 2, 4, 4), "w": (2, 2, 3, 3), "b": (2,), "r": (1, 2, 2, 2)}


def case(name):
    """(fastconv's operator, torch's, arguments)."""
    torch.manual_seed(0)
    function, letters = OPERATORS[name]
    args = tuple(torch.randn(SIZES[letter], dtype=torch.float64) for letter in letters)
    return *(lambda *a, library=library: function(library, *a) for library in (fastconv, F)), args


def everything(args):
    return tuple(range(len(args)))


def others(args):
    return tuple(a.cos() for a in args)


def stacked(args):
    return tuple(torch.stack([a, a.sin(), 2 * a]) for a in args)


def energy(f):
    return lambda *args: f(*args).sin().sum()


def in_first(f, args):
    return lambda x: f(x, *args[1:])


def gradient_through_vjp(f, args):
    pull = vjp(f, *args)[1]
    return grad(lambda dy: sum(dx.square().sum() for dx in pull(dy)))(f(*args).cos())


def detached_inside(f, args):
    def loss(x):
        with torch.no_grad():
            y = f(x, *args[1:])
        return y.sum() * x.sum()

    return grad(loss)(args[0])


TRANSFORMS = {
    "grad": lambda f, args: grad(energy(f), everything(args))(*args),
    "vjp": lambda f, args: vjp(f, *args)[1](f(*args).cos()),
    "vjp in x": lambda f, args: vjp(in_first(f, args), args[0])[1](f(*args).cos()),
    "jvp": lambda f, args: jvp(f, args, others(args)),
    "jvp in x": lambda f, args: jvp(in_first(f, args), args[:1], others(args[:1])),
    "vmap": lambda f, args: vmap(f)(*stacked(args)),
    "vmap in x": lambda f, args: vmap(in_first(f, args))(*stacked(args[:1])),
    "linearize": lambda f, args: linearize(f, *args)[1](*others(args)),
    "jacrev": lambda f, args: jacrev(f, everything(args))(*args),
    "jacrev by rows": lambda f, args: jacrev(f, chunk_size=1)(*args),
    "jacfwd": lambda f, args: jacfwd(f, everything(args))(*args),
    "hessian": lambda f, args: hessian(energy(f))(*args),
    "grad of grad": lambda f, args: grad(lambda x: grad(energy(f))(x, *args[1:]).square().sum())(
        args[0]
    ),
    "grad of vjp's function": gradient_through_vjp,
    "vmap of grad": lambda f, args: vmap(grad(energy(f), everything(args)))(*stacked(args)),
    "no_grad inside": detached_inside,
}


class Onlooker(TorchDispatchMode):
    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        return function(*args, **(kwargs or {}))


WATCHERS = {
    "nobody": contextlib.nullcontext,
    "a mode": Onlooker,
    "a counter of FLOPs": lambda: FlopCounterMode(display=False),
}


@pytest.fixture(autouse=True)
def _one_thread(threads):
    threads(1)  # the others would only wait, and of so small problems that is most of the time


@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("operator", OPERATORS)
def test_eager_and_under_modes(operator, transform):
    ours, theirs, args = case(operator)
    results = {}
    for name, watcher in WATCHERS.items():
        with watcher():
            results[name] = TRANSFORMS[transform](ours, args)
    expected = TRANSFORMS[transform](theirs, args)
    torch.testing.assert_close(results, dict.fromkeys(WATCHERS, expected))


def captured_and_aot(graph, inputs):
    """A backend of torch.compile: the graph as dynamo captured it, and through AOTAutograd."""
    aot = torch._dynamo.lookup_backend("aot_eager")(graph, inputs)

    def run(*args):
        results = graph(*args)
        torch.testing.assert_close(aot(*args), results)
        return results

    return run


def compiled(function, **options):
    torch._dynamo.reset()
    return torch.compile(function, fullgraph=True, backend=captured_and_aot, **options)


@pytest.mark.parametrize("operator", OPERATORS)
def test_compiled(operator):
    """All in one graph: what takes time is to trace the operator."""
    ours, theirs, args = case(operator)
    names = ["jvp", "vmap of grad"]
    if operator == "conv2d+silu":
        names += ["vjp in x", "vmap in x", "jacrev by rows", "jacfwd", "hessian"]

    def run(f, *args):
        return {name: TRANSFORMS[name](f, args) for name in names}

    torch.testing.assert_close(compiled(run)(ours, *args), run(theirs, *args))


def test_linearize_is_compiled_once_torchs_own_operators_are():
    ours, theirs, args = case("avg_pool2d")
    run = TRANSFORMS["linearize"]
    try:
        compiled(lambda *args: run(theirs, args))(*args)
    except torch._dynamo.exc.Unsupported:
        pytest.skip("torch.compile takes no linearize, not of torch's operators either")
    torch.testing.assert_close(compiled(lambda *args: run(ours, args))(*args), run(theirs, args))


# Without grad mode fastconv picks what has no backward of its own: forward mode works all the same.
FUSED = ["conv2d+silu", "max_pool2d"]


@pytest.mark.parametrize("operator", FUSED)
def test_forward_mode_compiled_without_grad_mode(operator):
    ours, theirs, args = case(operator)

    @torch.no_grad()
    def run(f, *args):
        return TRANSFORMS["jvp"](f, args), TRANSFORMS["vmap"](f, args)

    torch.testing.assert_close(compiled(run)(ours, *args), run(theirs, *args))


def dual(f, args):
    """(y, its tangent), where the other arguments than the first require a gradient instead."""
    args = [arg.clone().requires_grad_() for arg in args]
    with fwd.dual_level():
        return tuple(fwd.unpack_dual(f(fwd.make_dual(args[0], others(args)[0]), *args[1:])))


@pytest.mark.parametrize("operator", OPERATORS)
def test_dual_tensors_under_a_mode_and_traced(operator):
    ours, theirs, args = case(operator)
    expected = dual(theirs, args)
    with Onlooker():
        torch.testing.assert_close(dual(ours, args), expected)
    traced = make_fx(lambda *args: TRANSFORMS["jvp"](ours, args))(*args)
    torch.testing.assert_close(traced(*args), TRANSFORMS["jvp"](theirs, args))


@pytest.mark.parametrize("activation", ["none", *NAMES])
def test_derivatives_of_the_op_of_a_convolution(activation):
    def fprop(*args):
        geometry = [1, 1], [0, 0], [1, 1], 1
        return torch.ops.fastconv.conv2d_fprop(*args, *geometry, activation, "cpu")

    check_derivatives(fprop, case("conv2d+silu")[2])


def test_derivatives_of_the_op_that_finds_no_places():
    def maxima(x):
        windows = [2, 2], [1, 1], [0, 0], [1, 1], False, []
        return torch.ops.fastconv.pool2d_max_values(x, *windows, "cpu")

    check_derivatives(maxima, case("max_pool2d")[2])


def check_derivatives(function, args):
    for arg in args:
        arg.requires_grad_()
    assert torch.autograd.gradcheck(function, args, fast_mode=True, check_forward_ad=True)
    assert torch.autograd.gradgradcheck(function, args, fast_mode=True)


@pytest.mark.parametrize("operator", OPERATORS)
def test_a_kept_wrapper_of_a_transform_that_is_over(operator):
    ours, theirs, args = case(operator)
    kept = []
    vjp(lambda *args: (kept.extend(args), ours(*args))[1], *args)
    torch.testing.assert_close(ours(*kept), theirs(*args))


@pytest.mark.parametrize("operator", OPERATORS)
def test_vmap_over_an_empty_batch(operator):
    """torch's convolution takes an empty batch of x alone, and forgets how many images x has."""
    ours, _, args = case(operator)
    none = tuple(arg.new_empty(0, *arg.shape) for arg in args)
    size = ours(*args).shape
    assert vmap(ours)(*none).shape == (0, *size)
    assert vmap(in_first(ours, args))(none[0]).shape == (0, *size)
    gradients = vmap(grad(energy(ours), everything(args)))(*none)
    assert [g.shape for g in gradients] == [n.shape for n in none]
    rows = jacrev(lambda *args: ours(*args).flatten()[:0], everything(args))(*args)
    assert [row.shape for row in rows] == [n.shape for n in none]


def test_transformed_calls_are_timed():
    ours, _, args = case("conv2d")
    decisions = observe(lambda: TRANSFORMS["vmap of grad"](ours, args))
    assert [decision.time_us > 0 for decision in decisions] == [True]
