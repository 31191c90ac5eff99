"""fastconv across processes and files: data parallel training, forked and spawned children, data
loaders; modules, state_dicts and exported programs in a process that did not make them.

Functions without `test_` run in child processes, which import this module.
"""

import contextlib
import copy
import os
import pickle
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F

import fastconv
from fastconv.bench.models.resnet import ResNet18

CHILD_SECONDS = 180  # then it hangs; seconds suffice on an idle machine
HELPER_SECONDS = 10
RANKS = 2
STEPS = 5
THREADS = 2


# ---- fresh interpreters --------------------------------------------------------------------------


def run_fresh(folder, *calls, **environment):
    """Runs calls (function of this module, *arguments), each in an interpreter of its own and all
    at the same time. Fails where one fails, hangs or leaves a process behind."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, sys.path)])
    environment = {**os.environ, "FASTCONV_STRICT": "1", **environment, "PYTHONPATH": path}
    logs = [folder / f"log{i}.txt" for i in range(len(calls))]
    children = []
    try:
        for call, log in zip(calls, logs):
            children.append(start_fresh(*call, log=log, cwd=folder, env=environment))
        codes = wait_for(children)
        assert codes == [0] * len(calls), "\n".join(log.read_text() for log in logs)
        assert not [row for child in children for row in wait_for_group(child.pid)]
    finally:
        for child in children:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()


def start_fresh(function, *arguments, log, **options):
    """As the leader of a process group, which its own children will belong to."""
    code = f"import test_processes; test_processes.{function.__name__}(*{arguments!r})"
    command = [sys.executable, "-c", code]
    with log.open("w") as file:
        return subprocess.Popen(
            command, stdout=file, stderr=file, start_new_session=True, **options
        )


def wait_for(children):
    """Exit codes of all, as soon as one has failed; None: it still runs."""
    deadline = time.monotonic() + CHILD_SECONDS
    while True:
        codes = [child.poll() for child in children]
        if None not in codes or any(codes) or time.monotonic() > deadline:
            return codes
        time.sleep(0.02)


def wait_for_group(group):
    """What still lives of a process group after a while: multiprocessing's own helpers end a moment
    after their parent."""
    deadline = time.monotonic() + HELPER_SECONDS
    while True:
        listing = subprocess.run(
            ["ps", "-eo", "pgid=,stat=,args="], capture_output=True, text=True, check=True
        ).stdout
        rows = [line.split(maxsplit=2) for line in listing.splitlines()]
        living = [row for row in rows if int(row[0]) == group and not row[1].startswith("Z")]
        if not living or time.monotonic() > deadline:
            return living
        time.sleep(0.02)


# ---- networks and what they compute --------------------------------------------------------------


def network(seed=0, norm=nn.Identity):
    """(N, 3, H, W) -> (N, 5), of torch's layers; one has more than 1 MiB of float64 weights."""
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 64, 3, padding=1, bias=False),
        norm(64),
        nn.ReLU(),
        nn.MaxPool2d(3, 2, 1),
        nn.Conv2d(64, 64, 3, stride=2, padding=1, groups=64),
        nn.SiLU(),
        nn.Conv2d(64, 256, 3, padding=1),
        nn.ReLU(),
        nn.AvgPool2d(2, ceil_mode=True),
        nn.Conv2d(256, 32, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(32, 5),
    )


def images(count):
    return torch.randn(count, 3, 15, 13, generator=torch.Generator().manual_seed(1))


def answers(net, x):
    """Output, gradients of input and parameters, and buffers after a forward and backward pass."""
    net.zero_grad()
    x = x.detach().requires_grad_()
    y = net(x)
    y.backward(torch.linspace(-1, 1, y.numel(), dtype=y.dtype).reshape(y.shape))
    return [y.detach(), x.grad, *(p.grad.clone() for p in net.parameters()), *net.buffers()]


def equal(some, others):
    """Bit by bit."""
    return len(some) == len(others) and all(map(torch.equal, some, others))


# ---- data parallel training ----------------------------------------------------------------------


def batch():
    return images(8).double(), torch.arange(8) % 5


def train(net, x, target):
    """Losses and gradients of every step of SGD, and the parameters afterwards."""
    optimizer = torch.optim.SGD(net.parameters(), lr=0.5, momentum=0.9)
    losses, gradients = [], []
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), target)
        loss.backward()
        losses.append(loss.detach().cpu())
        gradients.append([p.grad.cpu().clone() for p in net.parameters()])
        optimizer.step()
    return torch.stack(losses), gradients, [p.detach().cpu() for p in net.parameters()]


def train_as_rank(rank, transport, device, folder):
    """Saves what eager and compiled training gave, and the number of compiled graphs."""
    from torch._dynamo.testing import CompileCounterWithBackend  # seconds, for ranks alone

    dist.init_process_group(
        transport, init_method=f"file://{folder}/rendezvous", rank=rank, world_size=RANKS
    )
    if device == "cuda":
        torch.cuda.set_device(rank)
    x, target = (whole.chunk(RANKS)[rank].to(device) for whole in batch())
    counter = CompileCounterWithBackend("aot_eager")
    nets = [data_parallel(network(seed=rank).double().to(device)) for _ in range(2)]
    nets[1] = torch.compile(nets[1], backend=counter)
    results = [train(net, x, target) for net in nets]
    torch.save((results, counter.frame_count), f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()


def data_parallel(net):
    """In several buckets: the first gradients travel while the backward pass still runs."""
    return nn.parallel.DistributedDataParallel(fastconv.convert(net), bucket_cap_mb=1)


@pytest.mark.parametrize(
    "transport, device",
    [
        ("gloo", "cpu"),
        pytest.param(
            "nccl",
            "cuda",
            marks=pytest.mark.skipif(torch.cuda.device_count() < RANKS, reason="needs two GPUs"),
        ),
    ],
)
def test_data_parallel_ranks_follow_the_whole_batch(transport, device, tmp_path):
    """Eager and compiled. Every rank begins with parameters of its own, which rank 0's replace.

    aot_eager: graphs are cut at the buckets, traced and functionalised as for Inductor, whose code
    generation test_compile.py covers, without the time its compilations would take here."""
    calls = [(train_as_rank, rank, transport, device, str(tmp_path)) for rank in range(RANKS)]
    run_fresh(tmp_path, *calls)
    whole = train(fastconv.convert(network().double()), *batch())
    saved = [torch.load(tmp_path / f"rank{rank}.pt") for rank in range(RANKS)]
    assert all(graphs > 1 for _, graphs in saved)
    for ranks in zip(*(results for results, _ in saved)):  # eager, compiled
        losses, gradients, parameters = zip(*ranks)
        means = torch.stack(losses).mean(0)
        for rank in range(RANKS):
            torch.testing.assert_close(
                (means, gradients[rank], parameters[rank]), whole, rtol=1e-11, atol=1e-13
            )
            assert equal(parameters[rank], parameters[0])


# ---- children of a process that has run kernels on several threads -------------------------------


def step():
    """A forward and a backward pass of fastconv alone: torch's own parallel kernels hang in a
    process forked after OpenMP has started its threads."""
    torch.manual_seed(0)
    x, w, dw = torch.randn(2, 8, 20, 20), torch.randn(16, 8, 3, 3), torch.randn(16, 1, 3, 3)
    tensors = [t.requires_grad_() for t in (x, w, torch.randn(16), dw)]
    y = fastconv.conv2d(*tensors[:3], padding=1, activation="silu")
    y = fastconv.conv2d(fastconv.max_pool2d(y, 2), dw, groups=16)
    y = fastconv.avg_pool2d(y, 2)
    y.backward(torch.ones_like(y))
    return [y.detach(), *(t.grad for t in tensors)]


def thread_count():
    return len(os.listdir("/proc/self/task"))


def send_step(method, generations, results, received):
    """Sends a step and the number of threads before and after. The sender of a tensor must live
    until it has been received."""
    torch.set_num_threads(THREADS)
    before = thread_count()
    result = step()
    after = thread_count()
    results.put((before, after, result))
    if generations > 1:
        start_child(method, generations - 1, results, received)
    received.wait()


def start_child(method, *arguments):
    context = torch.multiprocessing.get_context(method)
    context.Process(target=send_step, args=(method, *arguments)).start()


def compare_steps(method, generations):
    torch.set_num_threads(THREADS)
    expected = step()
    context = torch.multiprocessing.get_context(method)
    results, received = context.SimpleQueue(), context.Event()
    start_child(method, generations, results, received)
    steps = [results.get() for _ in range(generations)]
    received.set()
    for before, after, result in steps:
        assert before < after, "the step ran on one thread"
        assert equal(result, expected)


class Convolved(torch.utils.data.Dataset):
    """(convolution of an image, the process that computed it)."""

    def __init__(self):
        self.images = images(8)
        self.layer = fastconv.Conv2d(3, 16, 3, padding=1).requires_grad_(False)

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        return self.layer(self.images[index]), os.getpid()


def use_threads(worker):
    """A loader's workers begin with one."""
    torch.set_num_threads(THREADS)


def compare_loaded(method):
    torch.set_num_threads(THREADS)
    dataset = Convolved()
    expected = torch.stack([y for y, _ in dataset])
    loader = torch.utils.data.DataLoader(
        dataset,
        batch_size=2,
        num_workers=2,
        multiprocessing_context=method,
        worker_init_fn=use_threads,
    )
    batches, workers = zip(*loader)
    assert torch.equal(torch.cat(batches), expected)
    workers = set(torch.cat(workers).tolist())
    assert len(workers) == 2 and os.getpid() not in workers


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize(
    "compare, arguments",
    [
        (compare_steps, ("fork", 2)),  # a child and the child's child
        (compare_steps, ("spawn", 1)),
        (compare_loaded, ("fork",)),
        (compare_loaded, ("spawn",)),
    ],
    ids=["fork", "spawn", "loader-fork", "loader-spawn"],
)
def test_children_compute_the_parents_bits(compare, arguments, tmp_path):
    """The parent sees no GPU: autograd refuses to run in forks of a process that does."""
    run_fresh(tmp_path, (compare, *arguments), CUDA_VISIBLE_DEVICES="")


# ---- copies and files ----------------------------------------------------------------------------


def normed_network(seed=0):
    return network(seed, norm=nn.BatchNorm2d)


def count_call(module, args, y):
    module.calls = getattr(module, "calls", 0) + 1


def compare_files(folder):
    """What another process wrote against the answers that it expects, with as many threads: torch's
    own sums depend on that."""
    torch.set_num_threads(torch.load(f"{folder}/threads.pt"))
    kinds = [type(module) for module in fastconv.convert(normed_network())]
    expected = torch.load(f"{folder}/expected.pt")
    filled = fastconv.convert(normed_network(seed=1))
    filled.load_state_dict(torch.load(f"{folder}/state.pt", weights_only=True))
    pickled = pickle.loads(Path(folder, "net.pickle").read_bytes())
    saved = torch.load(f"{folder}/net.pt", weights_only=False)
    for net in (filled, pickled, saved):
        assert [type(module) for module in net] == kinds
        assert equal(answers(net, images(4)), expected["training"])
    assert pickled[0].calls == saved[0].calls == 1
    program = torch.export.load(f"{folder}/program.pt2")
    assert torch.ops.fastconv.conv2d_fprop.default in {node.target for node in program.graph.nodes}
    assert equal(answers(program.module(), images(5)), expected["program"])


def test_a_fresh_process_reads_what_was_written(tmp_path):
    net = fastconv.convert(normed_network())
    answers(net, images(4))  # buffers are no longer the initial ones
    evaluated = copy.deepcopy(net).eval()
    net[0].register_forward_hook(count_call)
    (tmp_path / "net.pickle").write_bytes(pickle.dumps(net))
    torch.save(net, tmp_path / "net.pt")
    torch.save(net.state_dict(), tmp_path / "state.pt")
    batch = torch.export.Dim("batch", min=2, max=64)
    program = torch.export.export(evaluated, (images(3),), dynamic_shapes={"input": {0: batch}})
    torch.export.save(program, tmp_path / "program.pt2")
    expected = {"training": answers(net, images(4)), "program": answers(evaluated, images(5))}
    torch.save(expected, tmp_path / "expected.pt")
    torch.save(torch.get_num_threads(), tmp_path / "threads.pt")
    run_fresh(tmp_path, (compare_files, str(tmp_path)))


def test_a_state_dict_passes_through_the_converted_network_unchanged():
    plain = normed_network()
    answers(plain, images(4))
    converted, back = fastconv.convert(normed_network(seed=1)), normed_network(seed=2)
    converted.load_state_dict(plain.state_dict())
    back.load_state_dict(converted.state_dict())
    before, after = plain.state_dict(), back.state_dict()
    assert list(before) == list(after) and before._metadata == converted.state_dict()._metadata
    assert equal(list(before.values()), list(after.values()))
    twin = fastconv.convert(copy.deepcopy(plain))
    assert equal(answers(converted, images(4)), answers(twin, images(4)))


class Watched(nn.Module):
    """Two layers of one weight, one bias frozen, and a hook that is a method of this module."""

    def __init__(self):
        super().__init__()
        self.layers = fastconv.convert(nn.Sequential(nn.Conv2d(3, 3, 3), nn.Conv2d(3, 3, 3)))
        self.layers[1].weight = self.layers[0].weight
        self.layers[1].bias.requires_grad_(False)
        self.layers[1].register_forward_hook(self.watch)
        self.calls = 0

    def watch(self, module, args, y):
        self.calls += 1

    def forward(self, x):
        return self.layers(x)


def test_deepcopy_shares_nothing_with_its_original():
    net = Watched()
    other = copy.deepcopy(net)
    first, second = other.layers
    assert type(first) is type(second) is fastconv.Conv2d
    assert first.weight is second.weight and not second.bias.requires_grad
    pointers = [{p.data_ptr() for p in module.parameters()} for module in (net, other)]
    assert pointers[0].isdisjoint(pointers[1])
    y = net(images(2))
    assert torch.equal(other(images(2)), y)
    assert (net.calls, other.calls) == (1, 1)
    other(images(2)).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    with torch.no_grad():
        first.weight.zero_()
    assert torch.equal(net(images(2)), y)


# ---- a whole network as one graph ----------------------------------------------------------------


def test_compiled_resnet18_trains_on_every_batch_size_without_recompiling(strict):
    torch.manual_seed(0)
    net = fastconv.convert(ResNet18(num_classes=5), inplace=True)
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(net), fullgraph=True, dynamic=True, backend="aot_eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        for count in (2, 5, 3):
            x = torch.randn(count, 3, 64, 64)
            assert equal(answers(compiled, x), answers(net, x)), f"batch {count}"
