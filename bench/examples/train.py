"""Training with automatic mixed precision, channels_last and torch.compile. Nothing in it is
particular to fastconv but the line with convert.

python train.py --device cuda
"""

import argparse

import torch
import torch.nn.functional as F

import fastconv
from fastconv.bench.models import NETWORKS

parser = argparse.ArgumentParser()
parser.add_argument("--network", default="resnet18", choices=NETWORKS)
parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
parser.add_argument("--compiler", default="inductor", help="a backend of torch.compile")
parser.add_argument("--steps", type=int, default=10)
parser.add_argument("--batch", type=int, default=8)
parser.add_argument("--image-size", type=int, default=64)
options = parser.parse_args()

torch.manual_seed(0)
model = fastconv.convert(NETWORKS[options.network]())
model = model.to(options.device, memory_format=torch.channels_last)
step = torch.compile(model, fullgraph=True, backend=options.compiler)
optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
dtype = torch.float16 if options.device == "cuda" else torch.bfloat16
scaler = torch.amp.GradScaler(options.device, enabled=dtype == torch.float16)

size = options.batch, 3, options.image_size, options.image_size
x = torch.randn(size, device=options.device).to(memory_format=torch.channels_last)
target = torch.arange(options.batch, device=options.device)
losses = []
for _ in range(options.steps):
    optimizer.zero_grad()
    with torch.autocast(options.device, dtype):
        loss = F.cross_entropy(step(x), target)
    scaler.scale(loss).backward()
    scaler.step(optimizer)
    scaler.update()
    losses.append(loss.item())
    print(f"loss {losses[-1]:.3f}")
assert losses[-1] < losses[0], "the loss did not fall"
