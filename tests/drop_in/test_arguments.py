"""Every argument of every function with values of all sorts, and inputs of all ranks and sizes: the
result is torch's, its strides included, or an error of the class that torch raises."""

import itertools

import pytest
import torch
import torch.nn.functional as F

import fastconv

X, W = torch.randn(2, 4, 6, 6), torch.randn(6, 4, 3, 3)
ROWS, ROW = torch.randn(2, 4, 6), torch.randn(6, 4, 3)
VOLUMES, VOLUME = torch.randn(2, 4, 5, 6, 6), torch.randn(6, 4, 2, 3, 3)

# function -> (arguments before the one under test, the arguments to test)
ARGUMENTS = {
    "conv2d": ((X, W), ("stride", "padding", "dilation", "groups")),
    "conv_transpose2d": (
        (X, W.transpose(0, 1)),
        ("stride", "padding", "output_padding", "groups", "dilation"),
    ),
    "max_pool2d": (
        (X,),
        ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    ),
    "avg_pool2d": (
        (X,),
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad", "divisor_override"),
    ),
    "adaptive_avg_pool2d": ((X,), ("output_size",)),
    "adaptive_max_pool2d": ((X,), ("output_size", "return_indices")),
    "conv1d": ((ROWS, ROW), ("stride", "padding", "dilation", "groups")),
    "conv_transpose1d": (
        (ROWS, ROW.transpose(0, 1)),
        ("stride", "padding", "output_padding", "groups", "dilation"),
    ),
    "conv3d": ((VOLUMES, VOLUME), ("stride", "padding", "dilation", "groups")),
    "max_pool1d": (
        (ROWS,),
        ("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    ),
    "avg_pool1d": (
        (ROWS,),
        ("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad"),
    ),
    "adaptive_avg_pool1d": ((ROWS,), ("output_size",)),
    "adaptive_max_pool1d": ((ROWS,), ("output_size", "return_indices")),
}

VALUES = [
    None, True, False, 0, 1, 2, -1, 1.0, 2.5, 1j, "valid", "same", "x",
    (), [], [1], (1,), [2], [1, 1], (2, 1), [1, 1, 1], [1.0, 1], [True, 1], ["a", 1], [[1, 1]],
    [None, 1], (None, None), (2, None), torch.Size((1, 1)), range(1, 3), range(2), {1, 2}, {1: 2},
    2**31, -(2**31), 2**62, 2**63 - 1, -(2**63), -(2**63) + 1, 2**63, 2**70, -(2**70),
    [2**63, 1], [-(2**63), 1], (2**31, 1),
    torch.tensor(1), torch.tensor([1]), torch.tensor([1, 2]), torch.tensor(1.0),
    torch.tensor([1.0, 2.0]), torch.tensor(True), [torch.tensor(1), 1], [torch.tensor(1.0), 1],
]  # fmt: skip


def _arrays():
    numpy = pytest.importorskip("numpy")
    # Older versions make an index of it, on which torch's own functions disagree.
    bools = [] if hasattr(numpy.bool_, "__index__") else [numpy.bool_(True)]
    return [
        *bools, numpy.int64(1), numpy.float64(1), numpy.array(1), numpy.array([2]),
        numpy.array([1, 2]), numpy.array([1.0, 2.0]), [numpy.int32(1), 1],
    ]  # fmt: skip


# Where torch is not the measure: (argument, value as text), or these of one function -> why.
TORCHS_OWN = {
    ("dilation", repr(2**63 - 1)): "its reach overflows there, and a result comes out",
    ("groups", "tensor(True)"): "an internal assertion fails",
    ("divisor_override", "tensor(True)"): "its other ints may be such tensors",
    ("divisor_override", "tensor([1])"): "its other ints may be such tensors",
    ("divisor_override", "array(1)"): "its other ints may be such arrays",
    **{
        (name, "array(1)"): "an internal assertion fails"
        for name in ("stride", "padding", "dilation", "kernel_size")
    },
    **{
        (f"adaptive_{kind}_pool1d", "output_size", "array(1)"): "an internal assertion fails"
        for kind in ("avg", "max")
    },
    ("max_pool1d", "stride", repr(2**31)): "it takes more than 32 bits only without indices",
    **{
        ("max_pool1d", name, repr(value)): "it overflows and computes for minutes"
        for name in ("kernel_size", "stride", "dilation")
        for value in (2**62, 2**63 - 1, -(2**63) + 1, -(2**63))
    },
}


def answer(function, *args, **kwargs):
    """(class of the error) or (sizes, strides, dtypes), values."""
    try:
        result = function(*args, **kwargs)
    except Exception as error:
        assert len(str(error)) > 10
        return type(error), ()
    results = result if isinstance(result, tuple) else (result,)
    return [(tuple(t.shape), t.stride(), t.dtype) for t in results], results


def assert_same(ours, torchs):
    (got, values), (expected, torchs_values) = ours, torchs
    if isinstance(expected, type):
        assert isinstance(got, type) and issubclass(got, expected), f"{got} instead of {expected}"
        return
    assert got == expected
    for value, other in zip(values, torchs_values):
        torch.testing.assert_close(value, other, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.parametrize(
    "name, argument", [(name, a) for name, (_, found) in ARGUMENTS.items() for a in found]
)
def test_values_of_arguments(name, argument):
    args = ARGUMENTS[name][0]
    needed = {} if argument == "kernel_size" or "pool" not in name else {"kernel_size": 2}
    if name.startswith("adaptive"):
        needed = {} if argument == "output_size" else {"output_size": 2}
    wrong = []
    for value in (*VALUES, *_arrays()):
        case = (name, argument, repr(value))
        if case in TORCHS_OWN or case[1:] in TORCHS_OWN:
            continue
        kwargs = {**needed, argument: value}
        try:
            assert_same(
                answer(getattr(fastconv, name), *args, **kwargs),
                answer(getattr(F, name), *args, **kwargs),
            )
        except AssertionError as error:
            wrong.append(f"{argument}={value!r}: {error}")
    assert not wrong, "\n".join(wrong)


SIZES = [
    (), (4,), (0,), (4, 6), (0, 6), (4, 6, 6), (0, 6, 6), (4, 0, 6), (4, 6, 0), (2, 4, 6, 6),
    (0, 4, 6, 6), (2, 0, 6, 6), (2, 4, 0, 6), (2, 4, 6, 0), (0, 0, 6, 6), (2, 4, 6, 1),
    (2, 4, 1, 1), (2, 1, 6, 6), (0, 4, 0, 6), (1, 2, 4, 6, 6), (1, 1, 2, 4, 6, 6),
]  # fmt: skip
OUTPUT_SIZES = (1, 0, 2, 8, (1, 1), (1, 2), (0, 2), (2, 0), (None, 2), (7, None), (1,), (1, 2, 3))


def images():
    for size in SIZES:
        x = torch.randn(size)
        yield x
        if len(size) in (3, 4):
            yield x.transpose(-1, -2)
        if len(size) == 4:
            yield x.contiguous(memory_format=torch.channels_last)
        if len(size) == 3:
            yield x[None].contiguous(memory_format=torch.channels_last)[0]


def calls():
    """name -> function of torch's or fastconv's functions and an input."""
    yield "conv2d", lambda m, x: m.conv2d(x, W, padding=1)
    yield "conv2d, no filters", lambda m, x: m.conv2d(x, W[:0], padding=1)
    yield "conv2d, no channels", lambda m, x: m.conv2d(x, W[:, :0], padding=1)
    yield "conv2d, same", lambda m, x: m.conv2d(x, W[:, :, :2], padding="same")
    yield "conv_transpose2d", lambda m, x: m.conv_transpose2d(x, W.transpose(0, 1), padding=1)
    yield "conv_transpose2d, no channels", lambda m, x: m.conv_transpose2d(x, W[:0, :, :2])
    yield "max_pool2d", lambda m, x: m.max_pool2d(x, 2, return_indices=True)
    # Of fewer than 3 dimensions torch has an IndexError here, and a RuntimeError in max_pool2d.
    yield "avg_pool2d", lambda m, x: m.avg_pool2d(x, 2) if x.dim() > 2 else x
    for size in OUTPUT_SIZES:
        yield f"adaptive_avg_pool2d {size}", lambda m, x, s=size: m.adaptive_avg_pool2d(x, s)
        yield (
            f"adaptive_max_pool2d {size}",
            lambda m, x, s=size: m.adaptive_max_pool2d(x, s, return_indices=True),
        )
    yield "conv1d", lambda m, x: m.conv1d(x, ROW, padding=1)
    yield "conv1d, no filters", lambda m, x: m.conv1d(x, ROW[:0], padding=1)
    yield "conv1d, no channels", lambda m, x: m.conv1d(x, ROW[:, :0], padding=1)
    yield "conv1d, same", lambda m, x: m.conv1d(x, ROW[:, :, :2], padding="same")
    yield "conv_transpose1d", lambda m, x: m.conv_transpose1d(x, ROW.transpose(0, 1), padding=1)
    yield "conv_transpose1d, no channels", lambda m, x: m.conv_transpose1d(x, ROW[:0, :, :2])
    yield "conv3d", lambda m, x: m.conv3d(x, VOLUME, padding=1)
    yield "conv3d, no channels", lambda m, x: m.conv3d(x, VOLUME[:, :0], padding=1)
    yield "max_pool1d", lambda m, x: m.max_pool1d(x, 2, return_indices=True)
    yield "avg_pool1d", lambda m, x: m.avg_pool1d(x, 2)
    for size in (0, 1, 3, 8):
        yield f"adaptive_avg_pool1d {size}", lambda m, x, s=size: m.adaptive_avg_pool1d(x, s)
        yield (
            f"adaptive_max_pool1d {size}",
            lambda m, x, s=size: m.adaptive_max_pool1d(x, s, return_indices=True),
        )


CALLS = dict(calls())


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("name", CALLS)
def test_inputs_of_all_ranks_and_sizes(name):
    wrong = []
    for x in images():
        try:
            assert_same(answer(CALLS[name], fastconv, x), answer(CALLS[name], F, x))
        except AssertionError as error:
            wrong.append(f"{list(x.shape)}, strides {x.stride()}: {error}")
    assert not wrong, "\n".join(wrong)


def test_a_mean_of_what_is_no_image_is_torchs():
    x = torch.randn(3, 5, requires_grad=True)
    decision = fastconv.explain(fastconv.adaptive_avg_pool2d, x, 1)[0]
    assert decision.backend is None and "mean" in str(decision.rejected)
    fastconv.adaptive_avg_pool2d(x, 1).sum().backward()
    torch.testing.assert_close(x.grad, torch.full((3, 5), 1 / 15))
    with pytest.raises(NotImplementedError, match="mean"):
        fastconv.adaptive_avg_pool2d(x, 1, backend="cpu")


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_compiled_strides_of_unbatched_results():
    """By Inductor, which gives views of empty tensors strides of 0."""

    def pools(m, x):
        sizes = ((0, 2), (2, 0), (2, 2))
        return [f(x, s) for f in (m.adaptive_avg_pool2d, m.adaptive_max_pool2d) for s in sizes]

    x = torch.randn(4, 6, 6)
    torch._dynamo.reset()
    results = torch.compile(lambda x: pools(fastconv, x), fullgraph=True)(x)
    assert [y.stride() for y in results] == [y.stride() for y in pools(F, x)]


# ---- out= of avg_pool2d --------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:An output with one or more elements was resized")
@pytest.mark.parametrize("size", [(0,), (2, 4, 3, 3), (7,)])
def test_out(size):
    ours, torchs = torch.full(size, 9.0), torch.full(size, 9.0)
    for function, out in ((fastconv.avg_pool2d, ours), (F.avg_pool2d, torchs)):
        assert function(X, 2, divisor_override=3, out=out) is out
    assert torch.equal(ours, torchs) and ours.stride() == torchs.stride()


def test_out_is_refused_as_torch_refuses_it():
    good = torch.empty(2, 4, 3, 3)
    for x, out in itertools.product(
        (X, X.clone().requires_grad_()), (good, good.double(), good.requires_grad_(), [1], 1)
    ):
        assert_same(answer(fastconv.avg_pool2d, x, 2, out=out), answer(F.avg_pool2d, x, 2, out=out))
    with pytest.raises(NotImplementedError, match="out="):
        fastconv.avg_pool2d(X, 2, out=torch.empty(0), backend="cpu")
