"""Calls that were met before: found again by their signature, and run by one native call.

The first call with a signature takes the long road: arguments are checked and normalised, a backend
and a plan are chosen. What was found is then remembered (csrc/bindings/prepared/call_cache.h), and
the next call with that signature computes at once, as long as torch does nothing but compute.
"""

import torch

from ._native import core, cuda
from .dispatch import state
from .problem import allows_tf32

CallCache = core.CallCache
remember = core.remember_call

# Not torch.compiler.is_compiling: fake tensors, by which torch.export traces, have no signature.
is_traced = torch.compiler.is_dynamo_compiling


def _empty_strided(size, strides, dtype):
    return torch.empty_strided(size, strides, dtype=dtype, device="cpu")


TORCH = {
    "tensor": torch.Tensor,
    "parameter": torch.nn.Parameter,
    # The compiler's own allocation of outputs takes half the time.
    "empty_strided": getattr(torch._C._dynamo.guards, "_empty_strided_cpu", _empty_strided),
    "empty_strided_cuda": getattr(torch._C._dynamo.guards, "_empty_strided_cuda", None),
    "cuda_device": getattr(torch._C, "_cuda_getDevice", None),
    "cuda_stream": getattr(torch._C, "_cuda_getCurrentRawStream", None),
    "cuda_is_emulated": cuda is not None and cuda.is_emulated,
    "allows_tf32": allows_tf32,
    # The C table of DLPack's exchange, which torch has from 2.10 on.
    "exchange": getattr(torch.Tensor, "__dlpack_c_exchange_api__", None),
    "grad_mode": torch.is_grad_enabled,
    "num_threads": torch.get_num_threads,
    "forward_ad": torch.autograd.forward_ad,
    "dispatch": state,
    "active": (
        torch._C._len_torch_dispatch_stack,
        torch._C._len_torch_function_stack,
        torch._C._are_functorch_transforms_active,
        torch._C._get_tracing_state,
        torch._C._is_any_autocast_enabled,
        torch._C._autograd._profiler_enabled,
    ),
}
core.connect_torch(TORCH)
