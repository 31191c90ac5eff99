"""The thread pool: many callers at once, fork, errors, and the same bits for every thread count."""

import subprocess
import sys
import textwrap
import threading

import torch

import fastconv


def test_many_python_threads_at_once(threads):
    threads(2)
    x, w = torch.randn(2, 16, 24, 24), torch.randn(24, 16, 3, 3)
    expected = fastconv.conv2d(x, w, padding=1)
    results = [None] * 6

    def work(i):
        for _ in range(10):
            results[i] = fastconv.conv2d(x, w, padding=1)

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
        assert not worker.is_alive()
    assert all(torch.equal(r, expected) for r in results)


def test_forked_child_has_a_pool_of_its_own(tmp_path):
    """The parent's threads do not exist in a forked child; one that waited for them would hang."""
    code = textwrap.dedent("""
        import os, torch, fastconv
        torch.set_num_threads(2)
        x, w = torch.ones(2, 8, 16, 16), torch.ones(8, 8, 3, 3)
        assert fastconv.conv2d(x, w)[0, 0, 0, 0].item() == 72
        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                os._exit(0 if fastconv.conv2d(x, w)[0, 0, 0, 0].item() == 72 else 1)
            assert os.waitpid(pid, 0)[1] == 0
        assert fastconv.conv2d(x, w)[0, 0, 0, 0].item() == 72
    """)
    done = subprocess.run(
        [sys.executable, "-c", code], timeout=60, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr


def test_helpers_take_over_the_callers_floating_point_mode(threads):
    """Flushed denormals must be flushed in every task, whichever thread runs it."""
    threads(2)
    x, w = torch.full((4, 16, 40, 40), 1e-39), torch.ones(16, 16, 3, 3)
    plain = fastconv.conv2d(x, w)
    assert plain.min() > 0
    if not torch.set_flush_denormal(True):
        return
    try:
        for _ in range(5):
            assert fastconv.conv2d(x, w).count_nonzero() == 0
    finally:
        torch.set_flush_denormal(False)
    assert torch.equal(fastconv.conv2d(x, w), plain)


def test_training_step_is_bitwise_the_same_for_every_thread_count(threads):
    def step():
        torch.manual_seed(0)
        x = torch.randn(3, 5, 23, 19, requires_grad=True)
        w, b = torch.randn(30, 5, 3, 3, requires_grad=True), torch.randn(30, requires_grad=True)
        y = fastconv.conv2d(x, w, b, stride=2, padding=1, activation="gelu")
        y = fastconv.avg_pool2d(fastconv.max_pool2d(y, 3, 2, 1), 2)
        y.square().sum(dtype=torch.float64).backward()
        return y.detach(), x.grad, w.grad, b.grad

    results = []
    for count in (1, 2, 2, 7):
        threads(count)
        results.append(step())
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other))
