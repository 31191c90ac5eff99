"""Made-up results that the tests of the report share."""

from pathlib import Path

import fastconv.bench
from fastconv.bench.measure.record import Row

# The results that the README files quote.
RESULTS = Path(fastconv.bench.__file__).parent / "results" / "cpu_amd_epyc_2cores"
WHERE = {
    "device": "Abacus <9>",
    "torch": "2.13",
    "commit": "abc",
    "utc": "2026-11-23T10:00:00+00:00",
}
HOSTILE = "<script>alert('$x^{$')</script>"


def layer(ratio, us=10.0, **fields):
    values = {
        "op": "conv2d", "pass_": "fprop", "family": "dense 1x1", "model": "net", "layer": "conv",
        "problem": "n1c8h8k8r1s1p0", "layout": "nchw", "dtype": "float32", "threads": 1,
        "backend": "cpu", "algorithm": "implicit_gemm", "us": us, "baseline": "torch",
        "tflops": 0.1, "gbs": 5.0,
    }  # fmt: skip
    if ratio is not None:
        values |= {"x_baseline": ratio, "baseline_us": ratio * us}
    return Row(**(values | fields))


def network(model, variant, layout, us, ratio, **fields):
    values = {"op": "network", "pass_": "inference", "family": model, "model": model}
    values |= {"layer": variant, "problem": "n8c3h224", "layout": layout, "backend": None}
    return layer(ratio, us, **(values | fields))


LAYERS = [
    layer(2.0, layer=HOSTILE),
    layer(0.5, problem="n1c9h8k8r1s1p0", roofline_percent=87.25),
    layer(4.0, problem="n2c8h8k8r1s1p0", layout="channels_last"),
    layer(9.0, problem="n3c8h8k8r1s1p0", others_cpus=0.7),
    layer(7.77, 123.456, problem="n4c8h8k8r1s1p0", status="wrong", reason="error is <9> times"),
    layer(None, None, pass_="dgrad", status="no kernel", reason="none ran", backend=None),
    layer(1.0, family="max pool", op="max_pool2d", pass_="fwd", tflops=None),
]
NETWORKS = [
    network("resnet18", "converted", "nchw", 80e3, 1.25),
    network("resnet18", "converted", "channels_last", 100e3, 0.9),
    network("resnet18", "fused", "nchw", 60e3, 1.5),
    network("resnet18", "fused", "channels_last", 95e3, 0.95, dtype="bfloat16"),
]
