"""Forked and spawned children of a process that has run kernels on several threads.

Functions without `test_` run in child processes, which import this module.
"""

import os
import sys

import pytest
import torch
from fresh_process import run_fresh
from small_network import equal, images

import fastconv

THREADS = 2


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
    until it has been received. It forks first: sending starts a thread of multiprocessing's, whose
    locks a fork would copy as they happen to be."""
    torch.set_num_threads(THREADS)
    before = thread_count()
    result = step()
    after = thread_count()
    if generations > 1:
        start_child(method, generations - 1, results, received)
    results.put((before, after, result))
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
