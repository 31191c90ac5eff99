"""The pieces of `fastconv bench`: shapes, the float64 oracle, timers, the report."""

import csv
import subprocess
import sys
import time
from collections import Counter
from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch

from fastconv.backends import BACKENDS
from fastconv.bench.cases.operators import make_inputs
from fastconv.bench.cases.selection import Case, select_cases
from fastconv.bench.cases.shapes import HERE, Layer, Pool, load_layers, load_pools, pair
from fastconv.bench.measure import baselines, ceilings, load, measure, timing, timing_cuda
from fastconv.bench.measure.ceilings import Ceilings
from fastconv.bench.measure.record import Row
from fastconv.bench.measure.timing import Side
from fastconv.bench.measure.verify import exact_result, judge, reference_rounding
from fastconv.bench.models.resnet import ResNet18
from fastconv.bench.models.unet import UNet
from fastconv.bench.models.wavenet import WaveNet
from fastconv.bench.report.console import print_report
from fastconv.bench.report.summary import best_layout_ratios

LAYER = Layer("net", "conv", 3, 4, 9, 7, 6, 3, 3, 1, 1, 1, 2)


@pytest.mark.parametrize("pass_", ["fprop", "dgrad", "wgrad"])
@pytest.mark.parametrize("op", ["conv2d", "conv_transpose2d"])
def test_the_float64_reference_taken_sample_by_sample_is_the_whole(op, pass_):
    case = Case(op, pass_, "nchw", "float32", replace(LAYER, transposed=op != "conv2d"))
    inputs = make_inputs(case, "cpu")
    exact = exact_result(case, inputs)
    x, w = (t.detach().double().requires_grad_() for t in inputs.tensors)
    if op == "conv2d":
        y = torch.nn.functional.conv2d(x, w, None, 1, 1, 1, 2)
    else:
        y = torch.nn.functional.conv_transpose2d(x, w, None, 1, 1, 0, 2, 1)
    if pass_ == "fprop":
        whole = y
    else:
        whole = torch.autograd.grad(y, x if pass_ == "dgrad" else w, inputs.dy.double())[0]
    torch.testing.assert_close(exact, whole, rtol=1e-13, atol=1e-13)


def test_twice_torchs_error_is_allowed_and_no_more():
    exact = torch.linspace(-1, 1, 101, dtype=torch.float64)
    off_by = lambda error: (exact + error * (torch.arange(101) == 7)).float()  # noqa: E731
    assert judge(off_by(1.9e-4), off_by(1e-4), exact).wrong is None
    assert judge(off_by(2.1e-4), off_by(1e-4), exact).wrong is not None


@pytest.mark.parametrize("op", ["conv2d", "avg_pool2d", "max_pool2d+indices"])
def test_float64_is_allowed_its_references_own_rounding_and_no_more(op):
    shape = LAYER if op == "conv2d" else Pool("net", "pool", "max", 3, 4, 9, 7, 3, 2, 1)
    case = Case(op, "fprop" if op == "conv2d" else "fwd", "nchw", "float64", shape)
    inputs = make_inputs(case, "cpu")
    exact, rounding = exact_result(case, inputs), reference_rounding(case, inputs)
    values = exact[0] if isinstance(exact, tuple) else exact
    assert 1e-15 < rounding / values.abs().max() < 1e-13

    def verdict(off):
        result = values + off * (torch.arange(values.numel()) == 7).view_as(values)
        return judge(
            (result, *exact[1:]) if isinstance(exact, tuple) else result, exact, exact, rounding
        )

    assert verdict(rounding).wrong is None
    assert verdict(2 * rounding).wrong is not None
    assert reference_rounding(replace(case, dtype="float32"), inputs) == 0


def test_layers_csv_holds_the_convolutions_of_resnet18():
    seen = set()

    def note(conv, inputs, y):
        x = inputs[0]
        seen.add((*x.shape[1:], *y.shape[1:2], *conv.kernel_size, conv.stride[0], conv.padding[0]))

    with torch.device("meta"):
        model = ResNet18()
        for module in model.modules():
            if isinstance(module, torch.nn.Conv2d):
                module.register_forward_hook(note)
        model(torch.empty(1, 3, 224, 224))
    layers = [o for o in load_layers() if o.model == "resnet18"]
    assert {(o.C, o.H, o.W, o.K, o.R, o.S, o.stride, o.pad) for o in layers} == seen
    with open(HERE / "layers.csv", newline="") as file:
        counts = [int(row["count_in_model"]) for row in csv.DictReader(file)]
    macs = sum(
        count * o.with_batch(1).flops() / 2
        for o, count in zip(load_layers(), counts, strict=True)
        if o.model == "resnet18" and o.N == 32
    )
    assert macs == pytest.approx(1.8136e9, rel=1e-3)  # published, less the linear layer
    assert sum(p.numel() for p in model.parameters()) == 11_689_512  # as torchvision's
    assert {"conv1.weight", "layer2.0.downsample.1.running_var"} < set(model.state_dict())


def convolutions_of(model, x):
    """{(C, H, W, K, R, S, stride, dilation, transposed): how many} of a network."""
    seen = Counter()

    def note(conv, inputs, y):
        C, *plane = inputs[0].shape[1:]
        sizes = plane, conv.kernel_size, conv.stride, conv.dilation
        plane, filters, stride, dilation = ((1, *t) if len(t) == 1 else tuple(t) for t in sizes)
        transposed = isinstance(conv, torch.nn.ConvTranspose2d)
        seen[(C, *plane, y.shape[1], *filters, stride, dilation, transposed)] += 1

    for module in model.modules():
        if isinstance(module, torch.nn.modules.conv._ConvNd):
            module.register_forward_hook(note)
    model(x)
    return seen


def rows_of(model):
    """The same, of the network's rows in layers.csv."""
    with open(HERE / "layers.csv", newline="") as file:
        counts = [int(row["count_in_model"]) for row in csv.DictReader(file)]
    return {
        (o.C, o.H, o.W, o.K, o.R, o.S, pair(o.stride), pair(o.dilation), o.transposed): count
        for o, count in zip(load_layers(), counts, strict=True)
        if o.model == model
    }


def test_layers_csv_holds_convolutions_of_a_unet():
    """Its sizes are those of figure 1 of the paper (test_unet.py), at 512 x 512 pixels."""
    with torch.device("meta"):
        seen = convolutions_of(UNet(), torch.empty(1, 1, 512, 512))
    rows = rows_of("unet")
    assert rows.items() <= seen.items()
    transposed = [(C, H, K) for C, H, _, K, *_, is_transposed in rows if is_transposed]
    assert transposed == [(1024, 32, 512), (512, 64, 256), (256, 128, 128), (128, 256, 64)]
    assert {row for row in seen if row[-1]} <= rows.keys()
    unet = [o for o in load_layers() if o.model == "unet" and o.name.startswith("up")]
    assert all(o.out_size()[1:] == (o.C // 2, 2 * o.H, 2 * o.W) for o in unet)


def test_layers_csv_holds_convolutions_of_a_wavenet():
    """Its dilations are those of section 2.1 of the paper, 1, 2, 4, ..., 512, twice."""
    with torch.device("meta"):
        seen = convolutions_of(WaveNet(), torch.empty(1, 256, 16000))
    rows = rows_of("wavenet")
    assert rows.items() <= seen.items() and len(rows) == 8
    gated = {row[7][1]: count for row, count in seen.items() if row[0] == 64 and row[5] == 2}
    assert gated == {2**i: 2 for i in range(10)}
    assert {row[7][1] for row in rows} >= {1, 512}


def test_cases_are_selected_once_each():
    every = select_cases([1, 8], ["nchw"], ["fprop", "fwd"], ["float32"])
    keys = [(case.op, case.shape.problem) for case in every]
    assert len(keys) == len(set(keys))
    assert {case.shape.N for case in every} == {1, 8}
    assert {case.op for case in every} >= {"conv2d", "conv2d+bias+relu", "max_pool2d"}
    assert {case.shape.N for case in select_cases(None, ["nchw"], ["bwd"], ["float16"])} == {
        32,
        128,
    }
    quick = select_cases([1], ["nchw"], ["fprop", "fwd"], ["float32"], quick=True)
    families = {case.family for case in quick}
    assert families >= {"stem (C=3)", "dense RxS", "depthwise 3x3", "max pool"}
    assert all(isinstance(pool, Pool) and pool.out_size()[2] > 0 for pool in load_pools())


def test_percentiles_and_turns():
    timed = timing.summarise([float(v) for v in range(1, 102)], "wall")
    assert (timed.p20_us, timed.median_us, timed.p80_us) == (21, 51, 81)
    turns = [side for _, side in timing.in_turns(["a", "b"], 3)]
    assert turns == ["a", "b", "b", "a", "a", "b"]


def test_the_cpu_timer_measures():
    sides = [Side("slow", [lambda: time.sleep(0.008)]), Side("quick", [lambda: time.sleep(0.002)])]
    timings = timing.time_cpu(sides, 0.05)
    assert timings["slow"].median_us >= 8000 and timings["quick"].median_us >= 2000
    assert timings["slow"].median_us > timings["quick"].median_us


def test_a_side_without_cuda_graph_has_all_sides_timed_by_events(monkeypatch):
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    captured = lambda side: (None, "no graph") if side.name == "b" else (lambda: None, None)  # noqa: E731
    monkeypatch.setattr(timing_cuda, "_captured", captured)
    monkeypatch.setattr(timing_cuda, "_elapsed_us", lambda run: (run(), 12.0)[1])
    calls = {"a": 0, "b": 0}

    def call(name):
        calls[name] += 1

    sides = [Side(name, [lambda name=name: call(name)] * 3) for name in calls]
    timings = timing_cuda.time_cuda(sides, 0.001)
    for name, timed in timings.items():
        assert timed.method == "cuda events" and timed.note == "b: no graph"
        assert timed.median_us == 4.0  # 12 us for three calls
        assert calls[name] > 3


def test_ceilings_are_rates_of_a_copy_and_of_products(monkeypatch):
    products = {torch.float32: 2e12, torch.float64: 1e12}
    monkeypatch.setattr(ceilings, "copy_rate", lambda device, size: 30e9)
    monkeypatch.setattr(ceilings, "peak_product_rate", lambda device, dtype: products[dtype])
    found = Ceilings.measured("cpu", ["float32", "float64"])
    assert (found.copy_gbs, found.fp32_tflops, found.fp64_tflops) == (30, 2, 1)
    assert found.bf16_tflops is None and found.as_dict()["ceiling_bf16_tflops"] is None
    assert list(found.as_dict()) == Ceilings.columns()


def test_other_programs_are_noticed(monkeypatch):
    if load._busy_seconds() is None:
        pytest.skip("no /proc/stat here")
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        with load.OthersLoad() as others:
            time.sleep(0.5)
        spinning.kill()
    assert others.cpus > load.DISTURBED_LIMIT
    monkeypatch.setattr(load, "_busy_seconds", time.process_time)  # nobody but us
    with load.OthersLoad() as alone:
        sum(range(1_000_000))
    assert alone.cpus < 0.05


def test_disturbed_lines_count_where_there_are_no_others_and_are_marked(capsys):
    from rich.console import Console

    names = (
        "conv2d",
        "fprop",
        "dense",
        "net",
        "layer",
        "n1",
        "nchw",
        "float32",
        2,
        "cpu",
        "direct",
    )
    times = {"us": 1.0, "p20_us": 1.0, "p80_us": 1.0, "tflops": 1.0, "gbs": 1.0}
    times |= {f"baseline_{k}": 9.0 for k in ("us", "p20_us", "p80_us")} | {"x_baseline": 9.0}
    rows = [Row(*names, **times, baseline="torch", others_cpus=cpus) for cpus in (1.0, 0.01)]
    print_report(Console(), rows[:1])
    out = " ".join(capsys.readouterr().out.split())
    assert "disturbed (!) on 1" in out and "dense fprop 1 9.00 !" in out and "more than 0.2" in out
    print_report(Console(), rows)
    out = " ".join(capsys.readouterr().out.split())
    assert "faster (^) on 1" in out and "dense fprop 1 9.00 ^" in out
    print_report(Console(), [replace(rows[0], disturbed_limit=1.5)])
    assert "disturbed (!) on 0" in " ".join(capsys.readouterr().out.split())


PAGE_FAULTS = """
import torch
from fastconv.bench.measure.timing import Side, keep_pages, time_cpu
sides = [Side(name, [lambda: torch.empty(16 << 20).fill_(1)]) for name in "ab"]
def worst():
    return max(timed.page_faults for timed in time_cpu(sides, 0.1).values())
print(worst(), keep_pages(), worst())
"""


def test_timed_calls_with_large_outputs_take_no_page_faults(tmp_path):
    """64 MiB are 16,384 pages, which malloc maps anew at every call until pages are kept."""
    done = subprocess.run(
        [sys.executable, "-c", PAGE_FAULTS],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    before, kept, after = done.stdout.split()
    if kept == "False":
        pytest.skip("this C library has no mallopt")
    assert float(after) < 16
    assert float(after) < float(before)


class Counting:
    """A backend that notes its fprops."""

    def __init__(self, backend):
        self.backend, self.calls = backend, 0

    def __getattr__(self, name):
        self.calls += name == "conv2d_fprop"
        return getattr(self.backend, name)


def test_triton_is_timed_against_our_cuda_kernels_too(monkeypatch):
    case, *_ = select_cases([1], ["nchw"], ["fprop"], ["float32"], ["resnet18 l4.ds1x1s2"])
    monkeypatch.setattr(baselines, "cuda", object())
    named = {b.name: b.backend for b in baselines.baselines(case, "cuda", "triton")}
    assert named == {"cuDNN": None, "cuDNN TF32": None, "fastconv CUDA TF32": "cuda"}
    assert len(baselines.baselines(case, "cuda", "cuda")) == 2
    # A baseline of ours runs on the backend it names.
    other = baselines.Baseline("fastconv other", nullcontext, backend="cpu:direct")
    counting = Counting(BACKENDS["cpu:direct"])
    monkeypatch.setitem(BACKENDS, "cpu:direct", counting)
    (row,) = measure.measure(case, "cpu", 0.005, "cpu:implicit_gemm", against=[other])
    assert (row.status, row.backend, row.baseline) == ("ok", "cpu:implicit_gemm", "fastconv other")
    assert row.x_baseline > 0 and counting.calls > 1


def test_the_faster_layout_of_the_baseline_is_the_one_to_beat():
    names = ("conv2d", "fprop", "dense", "net", "layer", "n1")
    rows = [
        Row(*names, layout, "float32", 2, us=ours, baseline_us=theirs, baseline="torch")
        for layout, ours, theirs in (("nchw", 2.0, 9.0), ("channels_last", 1.0, 3.0))
    ]
    best = best_layout_ratios(rows)
    assert [best[id(row)] for row in rows] == [1.5, 3.0]
