"""Which configuration a Triton kernel runs with: the table's or, where FASTCONV_AUTOTUNE=1, the
fastest, which is kept. The tests say what is fast."""

import threading

import pytest
import torch
from devices import TRITON_DEVICE as DEVICE
from devices import needs_triton
from problems import integers

import fastconv
from fastconv.backends.triton.launch import kernels, missing_reason

pytestmark = needs_triton
if missing_reason() is None:
    from triton.runtime.errors import OutOfResources

    from fastconv.triton_kernels import conv2d_implicit_gemm, tuning
    from fastconv.triton_kernels.conv2d_implicit_gemm import configs

    CONFIGS = configs(torch.float32)  # of operands()

BACKEND = "triton:implicit_gemm"


class Tuner:
    """Autotuning with times of our own, and a record of what ran."""

    def __init__(self):
        self.times = {}  # config -> microseconds or an error; others take 100
        self.timed = []  # configurations
        self.launched = []  # (config, splits, address of the result)

    def timer(self, run):
        config = run.args[0]
        self.timed.append(config)
        run()
        time = self.times.get(config, 100.0)
        if isinstance(time, Exception):
            raise time
        return time

    def forget(self):
        """As in a new process."""
        tuning._choices_of.cache_clear()
        tuning._untunable.clear()
        self.timed.clear()
        self.launched.clear()


@pytest.fixture
def tuner(monkeypatch, tmp_path):
    tuner = Tuner()
    launch = conv2d_implicit_gemm.launch_conv2d

    def launch_conv2d(op, problem, x, w, y, epilogue, config, math, splits):
        out = y if op.name == "fprop" else x
        tuner.launched.append((config, splits, out.data_ptr()))
        launch(op, problem, x, w, y, epilogue, config, math, splits)

    monkeypatch.setattr(conv2d_implicit_gemm, "launch_conv2d", launch_conv2d)
    monkeypatch.setattr(tuning, "timer", tuner.timer)
    monkeypatch.setenv("FASTCONV_AUTOTUNE", "1")
    monkeypatch.setenv("FASTCONV_CACHE_DIR", str(tmp_path))
    tuner.forget()
    yield tuner
    tuner.forget()


@pytest.fixture
def operands():
    return tuple(
        integers(size, torch.float32).to(DEVICE) for size in ((1, 64, 11, 11), (24, 64, 3, 3))
    )


def convolve(x, w):
    y = fastconv.conv2d(x, w, backend=BACKEND)
    assert torch.equal(y, torch.nn.functional.conv2d(x, w))
    return y


def test_the_fastest_is_kept_and_run(tuner, operands, monkeypatch, tmp_path):
    tuner.times = {CONFIGS[3]: 41.0}
    y = convolve(*operands)
    assert sorted(tuner.timed) == sorted(CONFIGS)
    *trials, (config, _, address) = tuner.launched
    assert config == CONFIGS[3] and address == y.data_ptr()
    # The caller's output is written once, by the winner.
    assert len(trials) == len(CONFIGS) and address not in [out for _, _, out in trials]
    # Smaller tiles are more programs, which need fewer slices.
    assert len({splits for _, splits, _ in trials}) > 1

    monkeypatch.delenv("FASTCONV_AUTOTUNE")
    for forget in (False, True):  # this process and the next
        if forget:
            tuner.forget()
        tuner.launched.clear()
        convolve(*operands)
        assert [config for config, *_ in tuner.launched] == [CONFIGS[3]]
    assert tuner.timed == []
    assert fastconv.info()["tuned"] == str(next(tmp_path.glob("*.json")))


def test_without_the_variable_the_table_decides(tuner, operands, monkeypatch):
    monkeypatch.setenv("FASTCONV_AUTOTUNE", "0")
    tuner.times = {CONFIGS[3]: 41.0}
    convolve(*operands)
    assert tuner.timed == [] and fastconv.info()["tuned"] == "none"
    monkeypatch.setenv("FASTCONV_AUTOTUNE", "1")
    convolve(*operands)
    assert sorted(tuner.timed) == sorted(CONFIGS)


def test_of_equals_the_tables(tuner, operands, monkeypatch):
    convolve(*operands)
    (winner, *_) = tuner.launched[-1]
    monkeypatch.setattr(tuning, "choose", lambda key, table, outs, run: table)
    convolve(*operands)
    assert tuner.launched[-1][0] == winner != CONFIGS[-1]


def test_what_cannot_run_is_passed_over(tuner, operands, caplog):
    tuner.times = dict.fromkeys(CONFIGS[:-1], OutOfResources(300_000, 232_448, "shared memory"))
    with caplog.at_level("DEBUG", "fastconv"):
        convolve(*operands)
    assert tuner.launched[-1][0] == CONFIGS[-1]
    assert (
        caplog.text.count("skipped, OutOfResources: out of resource: shared memory")
        == len(CONFIGS) - 1
    )
    assert "the table's choice could not run" in str(fastconv.explain(convolve, *operands))


def test_where_none_can_run_the_table_decides_and_nothing_is_tried_again(tuner, operands):
    tuner.times = dict.fromkeys(CONFIGS, torch.OutOfMemoryError("no room"))
    for _ in range(2):
        convolve(*operands)
    assert len(tuner.timed) == len(CONFIGS) and fastconv.info()["tuned"] == "none"


def test_other_errors_are_not_hidden(tuner, operands):
    tuner.times = {CONFIGS[1]: RuntimeError("an illegal memory access was encountered")}
    with pytest.raises(RuntimeError, match="illegal"):
        convolve(*operands)


def test_a_damaged_file_is_told_and_replaced(tuner, operands, tmp_path):
    convolve(*operands)
    path = next(tmp_path.glob("*.json"))
    path.write_bytes(path.read_bytes()[:-20])
    tuner.forget()
    with pytest.warns(UserWarning, match="not JSON") as told:
        convolve(*operands)
        convolve(*operands)
    ours = [str(w.message) for w in told if "fastconv" in str(w.message)]  # Triton may warn, too
    assert len(ours) == 1 and str(path) in ours[0]
    assert len(tuner.timed) == len(CONFIGS)
    tuner.forget()
    convolve(*operands)
    assert tuner.timed == []


def test_explain_follows(tuner, operands, monkeypatch):
    monkeypatch.setenv("FASTCONV_AUTOTUNE", "0")
    explanation = fastconv.explain(convolve, *operands)
    assert str(explanation).count("from the table") == 3
    monkeypatch.setenv("FASTCONV_AUTOTUNE", "1")
    tuner.times = {CONFIGS[3]: 41.0, tuner.launched[0][0]: 52.0}
    convolve(*operands)
    lines = str(explanation).splitlines()
    (fprop,) = [line for line in lines if "tuned: 41.0 us, the table's choice 52.0 us" in line]
    assert "fprop: implicit_gemm" in fprop and str(CONFIGS[3]) in fprop
    assert str(explanation).count("from the table") == 2


@pytest.mark.parametrize("pool", ["max_pool2d", "avg_pool2d"])
def test_pools_are_tuned(tuner, operands, pool):
    def passes(library, **options):
        x = operands[0][:, :3].clone().requires_grad_()
        y = getattr(library, pool)(x, 2, **options)
        return y, *torch.autograd.grad(y, x, torch.ones_like(y))

    expected = passes(torch.nn.functional)
    stems = "pool2d_reduce", f"pool2d_{pool[:3]}"
    forward, backward = (kernels(stem).CONFIGS for stem in stems)
    tuner.times = {forward[1]: 41.0}
    for _ in range(2):
        got = passes(fastconv, backend="triton")
        assert all(torch.equal(a, b) for a, b in zip(got, expected))
    assert sorted(tuner.timed) == sorted([*forward, *backward])
    with fastconv.backend("triton"):
        explanation = fastconv.explain(getattr(fastconv, pool), operands[0][:, :3], 2)
    lines = [line for line in str(explanation).splitlines() if "tuned: 41.0 us" in line]
    assert len(lines) == 2 and all(str(forward[1]) in line for line in lines)


def test_threads_tune_once(tuner, operands):
    threads = [threading.Thread(target=convolve, args=operands) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(tuner.timed) == len(CONFIGS)


def test_no_tuning_without_a_clock_or_into_a_graph(monkeypatch):
    monkeypatch.setenv("FASTCONV_AUTOTUNE", "1")
    out = torch.empty(1)
    monkeypatch.setattr(tuning, "IS_INTERPRETED", True)
    assert not tuning._is_wanted("key", out)
    monkeypatch.setattr(tuning, "IS_INTERPRETED", False)
    for capturing in (True, False):
        monkeypatch.setattr(torch.cuda, "is_current_stream_capturing", lambda c=capturing: c)
        monkeypatch.setattr(torch.cuda, "device", lambda device: torch.no_grad())
        assert tuning._is_wanted("key", out) is not capturing


def test_keys_read_well_and_meet_in_buckets():
    def key(dtype=torch.float16, math="fp16", layout="channels", gemm_m=4000, **more):
        extents = {"gemm_m": gemm_m, "gemm_n": 64, "gemm_k": 513} | more
        return tuning.make_key("conv2d_implicit_gemm", "fprop", dtype, math, layout, **extents)

    assert key() == (
        "conv2d_implicit_gemm fprop float16 fp16 channels gemm_m=4096 gemm_n=64 gemm_k=1024"
    )
    assert key(gemm_m=2049) == key(gemm_m=4096) == key()
    others = [key(gemm_m=2048), key(gemm_m=4097), key(layout="channels/pixels"), key(groups=2)]
    others += [key(torch.float32, "tf32"), key(torch.float32, "tf32x3"), key(torch.bfloat16, "")]
    assert len({key(), *others}) == 8
    for dtype, math in ((torch.float16, "fp16"), (torch.float32, "tf32"), (torch.float64, "")):
        assert tuning.candidates(key(dtype, math)) == configs(dtype) != ()
    nchw, nhwc = torch.empty(2, 3, 4, 5), torch.empty(2, 4, 5, 3).permute(0, 3, 1, 2)
    assert tuning.layout(nchw, nchw) == "pixels" and tuning.layout(nhwc, nhwc) == "channels"
    assert tuning.layout(nchw, nhwc) == "pixels/channels"
