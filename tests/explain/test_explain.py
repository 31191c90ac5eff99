"""fastconv.explain's rows and times, and a model that is as it was before."""

import contextlib
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module

import fastconv
from fastconv.dispatch import state


class Block(nn.Module):
    """Two convolutions, the second one used twice, and a functional pooling."""

    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(fastconv.Conv2d(3, 4, 3), nn.ReLU())
        self.shared = fastconv.Conv2d(4, 4, 1)

    def forward(self, x):
        return fastconv.max_pool2d(self.shared(self.shared(self.first(x))), 2)


def image(channels=3, size=10):
    return torch.randn(2, channels, size, size)


def global_hooks():
    return [
        dict(hooks)
        for hooks in (
            torch_module._global_forward_pre_hooks,
            torch_module._global_forward_hooks,
            torch_module._global_forward_hooks_always_called,
        )
    ]


@contextlib.contextmanager
def nothing_left_behind(model):
    hooks, own_hooks = global_hooks(), [dict(m._forward_pre_hooks) for m in model.modules()]
    yield
    assert global_hooks() == hooks
    assert [dict(m._forward_pre_hooks) for m in model.modules()] == own_hooks
    assert state.recorder is None and state.observer is None


# ---- rows ----------------------------------------------------------------------------------------


def test_rows_are_calls_with_the_innermost_modules_name():
    model = nn.Sequential(Block(), fastconv.AvgPool2d(2))
    rows = fastconv.explain(model, image()).rows()
    assert [(row.layer, row.operator) for row in rows] == [
        ("0.first.0", "conv2d"),
        ("0.shared", "conv2d"),
        ("0.shared", "conv2d"),
        ("0", "max_pool2d"),
        ("1", "avg_pool2d"),
    ]
    assert [row.backend for row in rows] == ["cpu"] * 5


def test_functions_have_names_of_the_modules_they_call():
    model = nn.Sequential(Block())
    explanation = fastconv.explain(lambda x: model(fastconv.max_pool2d(x, 1)), image())
    assert [decision.layer for decision in explanation] == [
        "",
        "0.first.0",
        "0.shared",
        "0.shared",
        "0",
    ]
    assert fastconv.explain(fastconv.Conv2d(3, 4, 1), image())[0].layer == ""


def test_modules_made_while_running_go_by_their_callers_name():
    class Dynamic(nn.Module):
        def forward(self, x):
            return fastconv.MaxPool2d(2)(x)

    (row,) = fastconv.explain(nn.Sequential(Dynamic()), image()).rows()
    assert row.layer == "0"


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_flops_and_bytes_are_those_of_the_definition(dtype):
    model = nn.Sequential(
        fastconv.Conv2d(4, 6, (3, 1), stride=2, padding=1, groups=2),
        fastconv.MaxPool2d(3, stride=1),
        fastconv.AdaptiveAvgPool2d((2, 1)),
    ).to(dtype)
    conv, pool, adaptive = fastconv.explain(model, image(4, 9).to(dtype)).rows()
    size = dtype.itemsize
    # y of the convolution is 5 x 6: (9 + 2 - 3) / 2 + 1 by (9 + 2 - 1) / 2 + 1.
    assert conv.flops == 2 * 2 * 6 * 5 * 6 * (4 // 2) * 3 * 1
    assert conv.bytes == (2 * 4 * 9 * 9 + 6 * 2 * 3 * 1 + 2 * 6 * 5 * 6) * size
    assert pool.flops == 2 * 6 * 3 * 4 * 9
    assert pool.bytes == 2 * 6 * (5 * 6 + 3 * 4) * size
    # Rows 0-1 and 1-2 of 3, all 4 columns: 16 elements a plane.
    assert adaptive.flops == 2 * 6 * 16
    assert adaptive.bytes == 2 * 6 * (3 * 4 + 2) * size
    assert {row.dtype for row in (conv, pool, adaptive)} == {dtype}


def test_a_transposed_convolution_is_a_dgrad():
    (row,) = fastconv.explain(fastconv.ConvTranspose2d(16, 8, 2, 2), image(16)).rows()
    assert (row.operator, row.algorithm) == ("conv_transpose2d", "implicit_gemm")
    assert row.reason.startswith("dense product: 8 rows")  # fprop would have 16
    assert row.flops == 2 * 2 * 16 * 10 * 10 * 8 * 2 * 2
    assert row.bytes == 4 * (2 * 16 * 10 * 10 + 16 * 8 * 2 * 2 + 2 * 8 * 20 * 20)
    (row,) = fastconv.explain(fastconv.ConvTranspose1d(16, 8, 2, 2), image(16)[:, :, 0]).rows()
    assert (row.operator, row.algorithm) == ("conv_transpose1d", "implicit_gemm")


def test_autocasts_dtype_is_what_counts():
    layer = fastconv.Conv2d(3, 8, 3)
    with torch.autocast("cpu", torch.bfloat16):
        (row,) = fastconv.explain(layer, image()).rows()
    assert row.dtype == torch.bfloat16
    assert row.bytes == (2 * 3 * 100 + 8 * 27 + 2 * 8 * 64) * 2


def test_channels_last_is_told():
    explanation = fastconv.explain(Block(), image().to(memory_format=torch.channels_last))
    assert all(row.channels_last for row in explanation.rows())
    assert "float32, channels_last, on cpu" in str(explanation)
    assert "float32, NCHW, on cpu" in str(fastconv.explain(Block(), image()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_implicit_gemm_tells_its_register_tile(dtype):
    layer = fastconv.Conv2d(16, 32, 3).to(dtype)
    (row,) = fastconv.explain(layer, image(16).to(dtype)).rows()
    vector = {"baseline": 16, "avx2": 32, "avx512": 64}[fastconv.info()["instruction_set"]]
    rows, columns = map(int, row.tile.split("x"))
    assert row.algorithm == "implicit_gemm"
    assert columns == 2 * vector // dtype.itemsize
    assert rows == {16: 4, 32: 6, 64: 12}[vector]
    depthwise = fastconv.explain(fastconv.Conv2d(4, 4, 3, groups=4), image(4)).rows()[0]
    assert (depthwise.algorithm, depthwise.tile) == ("depthwise", "")


@pytest.mark.filterwarnings("ignore:Complex modules are a new feature")
def test_atens_rows_have_the_reason_and_a_time():
    model = nn.Sequential(fastconv.Conv2d(3, 4, 3), nn.Identity()).to(torch.complex64)
    explanation = fastconv.explain(model, image().to(torch.complex64))
    (row,) = explanation.rows()
    assert (row.layer, row.backend, row.algorithm) == ("0", "ATen", "")
    assert row.reason == "cpu: no kernels for torch.complex64"
    assert row.time_us > 0 and row.floor_us is None and row.percent_of_floor is None
    assert "ran by ATen:\n  0: cpu: no kernels for torch.complex64" in str(explanation)


def test_layers_that_are_not_fastconvs_are_named():
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), fastconv.Conv2d(4, 4, 1), nn.MaxPool2d(1), nn.LPPool2d(1, 1)
    )
    explanation = fastconv.explain(model, image())
    assert [row.layer for row in explanation.rows()] == ["1"]
    text = str(explanation)
    assert "not fastconv's: 0 (Conv2d), 2 (MaxPool2d); fastconv.convert swaps them" in text
    assert "not fastconv's: 3: LPPool2d -> left: fastconv has no kernel for it" in text
    assert "not fastconv's" not in str(fastconv.explain(Block(), image()))
    nothing = str(fastconv.explain(nn.Sequential(nn.Conv2d(3, 4, 1)), image()))
    assert nothing.startswith("no fastconv operator was called") and "0 (Conv2d)" in nothing


# ---- times ---------------------------------------------------------------------------------------


def test_models_are_measured_and_functions_are_not():
    explanation = fastconv.explain(Block(), image())
    assert 1 <= explanation.runs <= 15
    for row in explanation.rows():
        assert row.time_us > 0 and row.floor_us > 0
        assert row.floor_us == max(row.flops_us, row.bytes_us)
        assert row.percent_of_floor == pytest.approx(100 * row.floor_us / row.time_us)
    unmeasured = fastconv.explain(Block(), image(), measure=False)
    assert unmeasured.runs == 0 and "not measured" in str(unmeasured)
    assert {row.time_us for row in unmeasured.rows()} == {None}
    x, w = image(), torch.randn(4, 3, 3, 3)
    assert fastconv.explain(fastconv.conv2d, x, w)[0].time_us is None
    assert fastconv.explain(fastconv.conv2d, x, w, measure=True)[0].time_us > 0


def test_a_time_is_that_of_the_call(monkeypatch):
    """10 ms for every run, and another 100 ms in the first one, which is not counted."""
    clock = [0]
    monkeypatch.setattr("fastconv.explanation.observer.time.perf_counter_ns", lambda: clock[0])
    runs = []

    def slow_conv(*args):
        runs.append(args)
        clock[0] += 10_000_000 if len(runs) > 1 else 110_000_000
        return real(*args)

    backend = fastconv.backends.BACKENDS["cpu"]
    real = backend._convolve
    monkeypatch.setattr(backend, "_convolve", slow_conv)
    (row,) = fastconv.explain(fastconv.Conv2d(3, 4, 3), image()).rows()
    assert row.time_us == 10_000


@pytest.mark.parametrize(
    "usual, others, runs, disturbance",
    [
        (1, 0, 5, ""),
        (3, 0, 15, "half of the runs took 3.0 times the fastest's time or longer"),
        (1, 1e3, 5, "other programs kept 1000.0 of"),
    ],
)
def test_disturbed_runs_are_told_and_repeated(usual, others, runs, disturbance, monkeypatch):
    """One run of three takes 1 ms, the others `usual` ms."""
    clock, calls = [0], []

    def conv(*args):
        calls.append(args)
        clock[0] += 1_000_000 * (1 if len(calls) % 3 == 0 else usual)
        return real(*args)

    monkeypatch.setattr("fastconv.explanation.observer.time.perf_counter_ns", lambda: clock[0])
    backend = fastconv.backends.BACKENDS["cpu"]
    real = backend._convolve
    monkeypatch.setattr(backend, "_convolve", conv)
    for name, value in {"_SECONDS": 60, "_MOST_SECONDS": 60, "_LOAD_SECONDS": 0}.items():
        monkeypatch.setattr(f"fastconv.explanation.medians.{name}", value)
    monkeypatch.setattr(
        "fastconv.explanation.medians.OthersLoad",
        lambda: contextlib.nullcontext(SimpleNamespace(cpus=others)),
    )
    explanation = fastconv.explain(nn.Sequential(fastconv.Conv2d(3, 4, 3)), image())
    assert explanation.runs == runs and explanation.disturbance.startswith(disturbance)
    assert bool(explanation.disturbance) == ("disturbed" in str(explanation)) == bool(disturbance)


def test_runs_that_take_another_way_do_not_count():
    class Alternating(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.runs = fastconv.Conv2d(3, 3, 1), 0

        def forward(self, x):
            self.runs += 1
            return self.conv(x) if self.runs % 2 else self.conv(self.conv(x))

    model = Alternating()
    explanation = fastconv.explain(model, image())
    assert len(explanation) == 1
    assert explanation.runs == (model.runs - 1) // 2
    # Only the first run's way counts, so one that is never taken again has no time.
    model.forward = lambda x: Alternating.forward(model, x) if model.runs == 0 else x
    model.runs = 0
    (row,) = fastconv.explain(model, image()).rows()
    assert row.time_us is None


def test_stand_ins_for_tensors_take_no_time():
    with torch.device("meta"):
        model, x = Block(), torch.empty(2, 3, 10, 10)
    explanation = fastconv.explain(model, x)
    assert explanation.runs == 0
    assert {(row.time_us, row.floor_us) for row in explanation.rows()} == {(None, None)}
    assert "slowest" not in str(explanation)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_on_a_gpu():
    explanation = fastconv.explain(Block().cuda(), image().cuda())
    assert all(row.time_us > 0 and row.floor_us > 0 for row in explanation.rows())


# ---- what a model is afterwards ------------------------------------------------------------------


class Counting(nn.Module):
    """A buffer that forward replaces, one that it writes, and random numbers."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = fastconv.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.dropout = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("written", torch.zeros(()), persistent=False)

    def forward(self, x):
        self.calls = self.calls + 1
        self.written += 1
        return self.dropout(self.norm(self.conv(x)))


def test_buffers_and_random_numbers_stay_as_they_were():
    model = Counting().train()
    buffers = {name: (buffer, buffer.clone()) for name, buffer in model.named_buffers()}
    x = image()
    generator = torch.get_rng_state()
    explanation = fastconv.explain(model, x)
    assert torch.equal(torch.get_rng_state(), generator)
    assert explanation.runs >= 1
    assert dict(model.named_buffers()).keys() == buffers.keys()
    for name, buffer in model.named_buffers():
        original, before = buffers[name]
        assert buffer is original and torch.equal(buffer, before), name
    assert model.training and all(p.grad is None for p in model.parameters())
    model(x)
    assert model.norm.num_batches_tracked == 1 and model.calls == 1


def test_an_exception_leaves_nothing_behind():
    class Failing(nn.Module):
        def forward(self, x):
            raise ArithmeticError("as asked")

    model = nn.Sequential(fastconv.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(Failing()))
    buffers = {name: buffer for name, buffer in model.named_buffers()}
    with nothing_left_behind(model), pytest.raises(ArithmeticError, match="as asked"):
        fastconv.explain(model, image())
    assert all(buffer is buffers[name] for name, buffer in model.named_buffers())
    assert model[1].num_batches_tracked == 0
    with nothing_left_behind(model), pytest.raises(RuntimeError):
        fastconv.explain(model, image(7))
    with nothing_left_behind(model):
        fastconv.explain(model[:2], image())


def test_a_failure_inside_that_is_caught_does_not_shift_names():
    class Failing(nn.Module):
        def forward(self, x):
            raise ArithmeticError

    class Catching(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.conv = nn.Sequential(Failing()), fastconv.Conv2d(3, 4, 3)

        def forward(self, x):
            with contextlib.suppress(ArithmeticError):
                self.inner(x)
            return self.conv(fastconv.max_pool2d(x, 1))

    rows = fastconv.explain(nn.Sequential(Catching()), image()).rows()
    assert [row.layer for row in rows] == ["0", "0.conv"]


def test_a_data_parallel_model_is_explained_as_the_model_it_holds():
    model = nn.Sequential(fastconv.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    before = model[1].running_mean.clone()
    assert [one.layer for one in fastconv.explain(nn.DataParallel(model), image())] == ["0"]
    assert torch.equal(model[1].running_mean, before)


@pytest.mark.filterwarnings("ignore:Using `torch.compile.*global hooks")
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")
def test_compiled_and_scripted_modules():
    model = Block()
    compiled = torch.compile(model, backend="eager")
    expected = compiled(image())
    explanation = fastconv.explain(compiled, image())
    assert [row.layer for row in explanation.rows()] == ["first.0", "shared", "shared", ""]
    assert all(row.time_us > 0 for row in explanation.rows())
    assert compiled(image()).shape == expected.shape
    inside = fastconv.explain(nn.Sequential(compiled), image())
    assert [decision.operator for decision in inside] == ["conv2d"] * 3 + ["max_pool2d"]
    scripted = torch.jit.script(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()))
    assert list(fastconv.explain(scripted, image())) == []


# ---- predictions ---------------------------------------------------------------------------------


def test_predictions_for_a_gpu_that_is_not_there():
    explanation = fastconv.explain(Block(), image(), measure=False, predict_for="h100")
    rows = explanation.predictions()
    assert [row.decision.layer for row in rows] == ["first.0", "shared", "shared", ""]
    assert all(row.prediction.us > 0 and row.algorithm and not row.reason for row in rows)
    text = str(explanation)
    assert "on an H100, not measured" in text and "  shared: " in text and "together: " in text
    other = fastconv.explain(Block(), image(), measure=False, predict_for="a100").predictions()
    assert [row.prediction.us for row in other] != [row.prediction.us for row in rows]


def test_no_prediction_says_why_and_none_is_made_unasked():
    x, w = torch.randn(0, 4, 6, 6), torch.randn(4, 4, 3, 3)
    explanation = fastconv.explain(fastconv.conv2d, x, w, predict_for="a100")
    assert "no prediction: it has no elements" in str(explanation)
    assert fastconv.explain(fastconv.conv2d, x, w).predictions() == []
    with pytest.raises(ValueError, match="predict_for must be None or one of"):
        fastconv.explain(fastconv.conv2d, x, w, predict_for="v100")
