"""Training in several processes, each on its part of the batch; on CPUs by gloo, on GPUs by NCCL.

torchrun --nproc-per-node 2 data_parallel.py
"""

import os

import torch
import torch.distributed as dist
import torch.nn as nn
import torch.nn.functional as F

import fastconv

on_gpu = torch.cuda.is_available()
dist.init_process_group("nccl" if on_gpu else "gloo")
rank, ranks = dist.get_rank(), dist.get_world_size()
device = torch.device("cuda", int(os.environ["LOCAL_RANK"])) if on_gpu else torch.device("cpu")

torch.manual_seed(0)  # the same weights and the same batch in every process
model = nn.Sequential(
    nn.Conv2d(3, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
    nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1),
    nn.Flatten(), nn.Linear(32, 10),
)  # fmt: skip
x, target = torch.randn(4 * ranks, 3, 16, 16), torch.arange(4 * ranks) % 10

# Convert before DistributedDataParallel, or after: the parameters are the same objects.
parallel = nn.parallel.DistributedDataParallel(fastconv.convert(model).to(device))
part = slice(4 * rank, 4 * rank + 4)
loss = F.cross_entropy(parallel(x[part].to(device)), target[part].to(device))
loss.backward()

# The mean of the processes' gradients is the gradient of the whole batch.
alone = fastconv.convert(model).to(device)
whole = F.cross_entropy(alone(x.to(device)), target.to(device))
for parameter, gradient in zip(
    parallel.parameters(), torch.autograd.grad(whole, list(alone.parameters())), strict=True
):
    torch.testing.assert_close(parameter.grad, gradient, rtol=1e-3, atol=1e-5)
print(f"process {rank} of {ranks}: the gradients are those of the whole batch")
dist.destroy_process_group()
