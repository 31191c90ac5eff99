"""A fused network's programs: the bits are those of the graph run layer by layer, also in threads,
children and copies, and their memory is given back."""

import copy
import gc
import os
import pickle
import threading
import weakref

import pytest
import torch
import torch.fx as fx
import torch.nn as nn
from fuse_blocks import lively
from fuse_programs import Rows, Small, images, practised, runs, small_program

import fastconv
from fastconv.bench.models import NETWORKS
from fastconv.fusion.memory_plan import ALIGNMENT, plan
from fastconv.fusion.network import programs_of
from fastconv.fusion.recording import Kind, Recorder

LAYOUTS = (torch.contiguous_format, torch.channels_last)
QUICK = ("resnet18", "mobilenet_v2", "squeezenet1_1", "efficientnet_b0")


class LivePeak(fx.Interpreter):
    """Runs a graph layer by layer; `bytes` is the most that its results took at a time."""

    def __init__(self, network):
        super().__init__(network)
        self.bytes, self.results = 0, []

    def run_node(self, node):
        result = super().run_node(node)
        self.results.append(weakref.ref(result))
        alive = {id(tensor): tensor.nbytes for r in self.results if (tensor := r()) is not None}
        self.bytes = max(self.bytes, sum(alive.values()))
        return result


@pytest.fixture
def network():
    return small_program()


@pytest.mark.parametrize("layout", LAYOUTS, ids=["NCHW", "channels_last"])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_bits_are_those_of_layer_by_layer(name, layout, exhaustive):
    if name not in QUICK and not exhaustive:
        pytest.skip(f"{', '.join(QUICK)} run; --exhaustive runs all")
    for dtype in (torch.float32, *([torch.float64, torch.bfloat16] if exhaustive else ())):
        model = lively(NETWORKS[name](num_classes=10)).to(dtype, memory_format=layout)
        one, other = (images(seed, size=32).to(dtype, memory_format=layout) for seed in (1, 2))
        fused = practised(fastconv.fuse(model), one)
        with torch.no_grad():
            first = programs_of(fused).run((one,))
            kept = first.clone()
            second = programs_of(fused).run((other,))
            for x, y in ((one, first), (other, second)):
                expected = fused.forward(x)
                assert torch.equal(y, expected) and y.stride() == expected.stride()
            peak = LivePeak(fused)
            peak.run(one)
        assert torch.equal(first, kept)  # a result is no part of the arena
        assert 0 < programs_of(fused).free_bytes <= peak.bytes


@pytest.mark.parametrize("channels_inner", [False, True])
def test_layers_along_one_axis_are_native_calls(channels_inner):
    model = lively(Rows()).float()
    one, other = torch.randn(2, 2, 3, 16)
    if channels_inner:
        one, other = (x.transpose(1, 2).contiguous().transpose(1, 2) for x in (one, other))
    fused = practised(fastconv.fuse(model), one)
    with torch.no_grad():
        y, expected = programs_of(fused).run((other,)), fused.forward(other)
        assert torch.equal(y, expected) and y.stride() == expected.stride()
        torch.testing.assert_close(y, model(other), rtol=1e-4, atol=1e-5)
        recorder = Recorder(fused)
        recorder.run(one)
    kinds = [value.kind for value in recorder.values.values()]
    assert kinds == [Kind.ARGUMENT] + [Kind.CALLS] * (len(kinds) - 1)


def test_what_a_network_is_given_and_returns_may_be_several():
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.pool = nn.AvgPool2d(2)

        def forward(self, x, y, flag=True):
            z = self.conv(x) + self.conv(y)
            return {"inner": z, "both": (self.pool(z), x), "flat": z.flatten(1), "flag": flag}

    fused = practised(fastconv.fuse(Several().eval()), images(1), images(2))
    with torch.no_grad():
        got, expected = fused(images(3), x := images(4)), fused.forward(images(3), x)
        given = images(5)
        assert fused(given, x)["both"][1] is given
    assert got.keys() == expected.keys() and got["flag"] is True
    torch.testing.assert_close(got, expected, rtol=0, atol=0)


class Mixed(nn.Module):
    """Layers and functions without a native call, in place, of several results, and views."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.relu = nn.ReLU(inplace=True)
        self.mirrored = nn.Conv2d(4, 8, 3, padding=1, padding_mode="reflect")

    def forward(self, x):
        y = self.conv(x)
        z = self.relu(y + 1.0)
        a, b = torch.chunk(self.mirrored(self.norm(z)), 2, 1)
        negated = torch.imag(torch.complex(a, b).conj())
        flat = negated[:, :, ::2].reshape(negated.size(0), 2, -1)
        return (a * negated + z).relu_(), flat.sum(-1), y


def test_functions_of_python_work_between_native_calls():
    x = images(size=9)
    fused = practised(fastconv.fuse(Mixed().eval()), x)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), fused.forward(x), rtol=0, atol=0)


class Elementwise(nn.Module):
    def __init__(self, dim):
        super().__init__()
        self.dim = dim

    def forward(self, x, y, scale):
        added, scaled = x + y, y * scale
        joined = torch.cat([added, scaled, added], self.dim)
        joined = torch.cat([joined, joined * joined], dim=0)
        return torch.cat([joined], axis=1)  # a name that torch takes too


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_sums_products_and_concatenations_have_torchs_bits(dtype):
    big = torch.randn(3, 2, 5, 67, 70, generator=torch.Generator().manual_seed(0)) * 100
    for dim, (x, y, *_) in ((1, big), (-1, big[:, :, :, :3, :4])):
        for first in (x, x.contiguous(memory_format=torch.channels_last), x[..., :1]):
            given = [t.to(dtype) for t in (first, y, y[:, :, :1, :1])]
            fused = practised(fastconv.fuse(Elementwise(dim).eval()), *given)
            with torch.no_grad():
                got, expected = programs_of(fused).run(tuple(given)), fused.forward(*given)
            assert torch.equal(got, expected) and got.stride() == expected.stride()


class Fire(nn.Module):
    """Two convolutions side by side; their results may be read once more."""

    def __init__(self, reads_again):
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.last = nn.Conv2d(12, 2, 1)
        self.reads_again = reads_again

    def forward(self, x):
        left, right = self.left(x), self.right(x)
        y = self.last(torch.cat([left, right], 1))
        return (y, left.sum(), right.sum()) if self.reads_again else y


@pytest.mark.parametrize("layout", LAYOUTS, ids=["NCHW", "channels_last"])
@pytest.mark.parametrize("reads_again", [False, True])
def test_convolutions_write_into_what_they_are_concatenated_to(reads_again, layout):
    x = images().contiguous(memory_format=layout)
    fused = practised(fastconv.fuse(Fire(reads_again).eval().to(memory_format=layout)), x)
    with torch.no_grad():
        torch.testing.assert_close(fused(x), fused.forward(x), rtol=0, atol=0)
    # No more than the concatenated tensor lies in the arena.
    assert programs_of(fused).free_bytes == x.new_empty(2, 12, 16, 16).nbytes


def test_threads_compute_at_once(network):
    inputs = [images(seed) for seed in range(4)]
    with torch.no_grad():
        expected = [network.forward(x) for x in inputs]
    wrong = []

    def compute(number):
        with torch.no_grad():
            for _ in range(50):
                if not torch.equal(network(inputs[number]), expected[number]):
                    wrong.append(number)

    threads = [threading.Thread(target=compute, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_call_within_a_call_has_an_arena_of_its_own(network):
    x, outer, inner = images(), images(1), []

    def call_again(layer, arguments):
        if not inner:
            inner.append(None)
            inner[0] = network(x)

    with torch.no_grad():
        results = network.forward(x), network.forward(outer)
        network.linear.register_forward_pre_hook(call_again)
        for _ in range(4):
            inner.clear()
            got = network(outer)
            assert torch.equal(inner[0], results[0]) and torch.equal(got, results[1])
        assert runs(network, outer)


def test_forked_children_run_programs(network):
    x = images()
    with torch.no_grad():
        expected = network(x)
        if (child := os.fork()) == 0:
            os._exit(0 if runs(network, x) and torch.equal(network(x), expected) else 1)
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda n: pickle.loads(pickle.dumps(n))])
def test_copies_make_programs_of_their_own(network, copied):
    x, other = images(), copied(network)
    with torch.no_grad():
        assert not runs(other, x)
        practised(other, x)
        assert torch.equal(other(x), network(x))
        expected = network(x)
        other.left.weight.zero_()
        assert torch.equal(network(x), expected) and not torch.equal(other(x), expected)


def test_memory_is_given_back(network):
    programs = programs_of(network)
    assert programs.free_bytes > 0
    fastconv.empty_cache()
    assert programs.free_bytes == 0
    with torch.no_grad():
        assert runs(network, images())
    assert programs.free_bytes > 0


def test_a_network_is_released_with_its_programs():
    network = practised(fastconv.fuse(Small().eval()), images())
    alive = weakref.ref(network)
    del network
    gc.collect()
    assert alive() is None


def test_inner_results_share_memory():
    sizes = [(100, 0, 1), (1000, 1, 2), (100, 2, 3), (1000, 3, 4), (64, 0, 4)]
    offsets, total = plan(sizes)
    assert total == 1024 + 128 + 64
    blocks = [(offset, offset + size, first, last)
              for offset, (size, first, last) in zip(offsets, sizes)]  # fmt: skip
    for i, (begin, end, first, last) in enumerate(blocks):
        assert begin % ALIGNMENT == 0 and end <= total
        for other_begin, other_end, other_first, other_last in blocks[:i]:
            apart = end <= other_begin or other_end <= begin
            assert apart or last < other_first or other_last < first


@pytest.mark.parametrize("layout", LAYOUTS, ids=["NCHW", "channels_last"])
def test_no_page_is_mapped_anew(layout, exhaustive):
    if not exhaustive:
        pytest.skip("224 pixels: --exhaustive")
    resource = pytest.importorskip("resource")
    x = images(batch=8, size=224).contiguous(memory_format=layout)
    model = NETWORKS["mobilenet_v2"]().eval().to(memory_format=layout)
    network = practised(fastconv.fuse(model), x)
    with torch.no_grad():
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        for _ in range(5):
            network(x)
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
    assert faults < 50  # for inner results of 219 MB, 53,000 pages
