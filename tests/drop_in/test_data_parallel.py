"""A converted network under DistributedDataParallel follows a single process.

Functions without `test_` run in the ranks, which import this module.
"""

import pytest
import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F
from fresh_process import run_fresh
from small_network import equal, images, network

import fastconv

RANKS = 2
STEPS = 5


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
