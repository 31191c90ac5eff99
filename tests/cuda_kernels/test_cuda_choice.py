"""When calls go to CUDA kernels, and what is told where they cannot."""

from types import SimpleNamespace

import pytest
import torch

import fastconv
from fastconv._native import cuda, cuda_missing
from fastconv.backends.cuda import launch as cuda_launch
from fastconv.backends.cuda.launch import DEVICE

pytestmark = [
    pytest.mark.skipif(cuda is None, reason=f"no CUDA kernels: {cuda_missing}"),
    pytest.mark.usefixtures("strict"),
]


def test_tensor_cores_have_no_float64():
    x = torch.ones(1, 1, 3, 3, dtype=torch.float64, device=DEVICE)
    with pytest.raises(NotImplementedError, match="float64"):
        fastconv.conv2d(x, x, backend="cuda:implicit_gemm")


def test_strides_that_an_algorithm_cannot_follow():
    """What only the strides forbid is known only with the tensors: an error, or another way."""
    huge = torch.empty(2**31 + 64, dtype=torch.float16, device=DEVICE)
    x = huge.as_strided((1, 2, 3, 3), (2**31, 2**31 - 1, 3, 1)).fill_(1)
    w = torch.ones(3, 2, 3, 3, dtype=torch.float16, device=DEVICE)
    with pytest.raises(ValueError, match="spans"):
        fastconv.conv2d(x, w, backend="cuda:implicit_gemm")
    assert (fastconv.conv2d(x, w, backend="cuda") == 18).all()


@pytest.mark.parametrize(
    "archs, capability, usable",
    [
        ("sm_80, sm_90a, sm_100, PTX", 75, False),
        ("sm_80, sm_90a, sm_100, PTX", 80, True),
        ("sm_80, sm_90a, sm_100, PTX", 89, True),
        ("sm_80, sm_90a, sm_100, PTX", 90, True),
        ("sm_80, sm_90a, sm_100, PTX", 120, True),
        ("sm_90a", 80, False),
        ("sm_90a", 100, False),
        ("sm_80, sm_90a", 120, False),
    ],
)
def test_a_device_without_machine_code_is_told_from_one_with(
    monkeypatch, archs, capability, usable
):
    module = SimpleNamespace(
        archs=archs,
        driver_status=cuda.driver_status,  # native, as it is on a GPU
        device_properties=lambda index: (1, 1, 1, capability),
    )
    monkeypatch.setattr(cuda_launch, "cuda", module)
    caches = (cuda_launch._unusable_reason, cuda_launch.device_properties)
    for function in caches:
        function.cache_clear()
    try:
        reason = cuda_launch.unusable_reason(0)
        # dispatch asks while a compiler is tracing it.
        torch._dynamo.reset()
        compiled = torch.compile(
            lambda x: x + (cuda_launch.unusable_reason(0) is None),
            fullgraph=True,
            backend="eager",
        )
        assert compiled(torch.zeros(())) == usable
    finally:
        for function in caches:
            function.cache_clear()
    assert (reason is None) == usable, reason
    assert usable or f"sm_{capability}" in reason
