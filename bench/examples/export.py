"""A network exported by torch.export, with fastconv's operators and with ATen's, and to ONNX where
onnx and onnxscript are installed.

python export.py --out network.onnx
"""

import argparse
import importlib.util

import torch

import fastconv
from fastconv.bench.models import NETWORKS

parser = argparse.ArgumentParser()
parser.add_argument("--network", default="resnet18", choices=NETWORKS)
parser.add_argument("--image-size", type=int, default=64)
parser.add_argument("--out", default="network.onnx")
options = parser.parse_args()

model = fastconv.convert(NETWORKS[options.network]().eval())
x = torch.randn(1, 3, options.image_size, options.image_size)


def operators(program):
    targets = (str(node.target) for node in program.graph.nodes if node.op == "call_function")
    return sorted({target for target in targets if "conv2d" in target or "pool2d" in target})


with torch.no_grad():
    expected = model(x)
    program = torch.export.export(model, (x,))  # to be run where fastconv is installed
    plain = program.run_decompositions(fastconv.export_decompositions())  # runs everywhere
    for each in (program, plain):
        print("exported:", *operators(each))
        torch.testing.assert_close(each.module()(x), expected, rtol=1e-3, atol=1e-4)
    if all(importlib.util.find_spec(name) for name in ("onnx", "onnxscript")):
        torch.onnx.export(model, (x,), options.out, dynamo=True)  # ATen's operators, without a step
        print("exported:", options.out)
