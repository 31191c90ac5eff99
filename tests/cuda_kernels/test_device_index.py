"""What a backend says about a device is asked of the tensor's, not of the one in use."""

import pytest
import torch
from devices import needs_triton
from torch._subclasses import FakeTensorMode

import fastconv
from fastconv.backends.cuda import conv2d as cuda
from fastconv.backends.triton import launch as triton_launch


@pytest.fixture
def two_devices(monkeypatch):
    """As dispatch sees them: tensors are fake, cuda:0 is in use, only cuda:1 can run kernels."""

    def reason(index):
        return None if index == 1 else f"cuda:{index} is too old"

    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "DEVICE", "cuda")
    monkeypatch.setattr(cuda, "cuda", object())
    monkeypatch.setattr(cuda, "unusable_reason", reason)
    monkeypatch.setattr(triton_launch, "device_type", lambda: "cuda")
    monkeypatch.setattr(triton_launch, "_gpu_reason", reason)


@pytest.mark.parametrize("backend", ["cuda", pytest.param("triton", marks=needs_triton)])
def test_the_device_is_the_tensors(backend, two_devices, monkeypatch):
    if backend == "triton":
        monkeypatch.setattr(cuda, "cuda", None)
        monkeypatch.setattr(cuda, "cuda_missing", "built with FASTCONV_CUDA=0")
    for index in (0, 1):
        with FakeTensorMode():
            x, w = (torch.empty(1, 2, 4, 4, device=f"cuda:{index}") for _ in range(2))
            (conv,) = fastconv.explain(fastconv.conv2d, x, w)
            (pool,) = fastconv.explain(fastconv.max_pool2d, x, 2)
        for decision in (conv, pool):
            assert decision.backend == (backend if index == 1 else None)
            assert ("too old" in decision.rejected.get(backend, "")) == (index == 0)
