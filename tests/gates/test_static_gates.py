"""The gates on the CUDA kernels' machine code hold, and each gate fails a kernel that breaks it."""

import re
from pathlib import Path

import pytest
import static_gates as gates

import fastconv

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    gates.missing_tool() is not None,
    reason=f"{gates.missing_tool()} is neither on PATH, in CUDA_HOME nor among Python's packages",
)


def kernel_names():
    """The names of all __global__ functions in csrc/cuda."""
    text = "".join(path.read_text() for path in (gates.ROOT / "csrc" / "cuda").rglob("*.cu*"))
    return set(re.findall(r"__global__[^;{]*?\b(\w+)\(\s*const __grid_constant__", text))


def test_every_kernel_of_the_package(exhaustive):
    if not exhaustive:
        pytest.skip("reads, or compiles, all kernels: --exhaustive does, and .ci/full")
    built = next(Path(fastconv.__file__).parent.glob("_cuda.*.so"), None)
    kernels = gates.collect(module=built)
    lines = gates.summary(kernels)
    print("\n".join(lines))
    failures = [line for line in lines if " kernels, " not in line]
    assert not failures, "\n".join(failures)
    archs = {kernel.arch for kernel in kernels}
    assert archs
    for arch in archs:  # a list that lost kernels would pass too
        read = {re.match(r"\w+", k.short_name)[0] for k in kernels if k.arch == arch}
        assert read == kernel_names()


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cubins")
    return gates.compile_kernels([HERE / "gate_fixture.cu"], gates.ARCHS, folder)


BROKEN = {
    "conv2d_gather_direct": "spills: stack",
    "conv2d_wgrad_implicit_gemm": "no HMMA",
    "pool2d_unbounded": "no __launch_bounds__",
    "pool2d_hungry": "warps on an SM, needs 32",
    "nobody": "no line of KERNELS",
    "conv2d_implicit_gemm<FixtureVectorGatherNarrow<int>>": "no 16-byte global load",
}


@pytest.mark.parametrize("arch", gates.ARCHS)
def test_each_gate_fails_the_kernel_that_breaks_it(broken, arch):
    verdicts = {k.short_name.replace(" ", ""): gates.judge(k) for k in broken[arch]}
    assert verdicts.pop("conv2d_implicit_gemm<FixtureVectorGather<int>>") == []
    assert verdicts.keys() == BROKEN.keys()
    for name, reason in BROKEN.items():
        assert len(verdicts[name]) == 1 and reason in verdicts[name][0], (name, verdicts[name])


@pytest.mark.parametrize("arch", gates.ARCHS)
def test_what_is_read_from_a_cubin(broken, arch):
    good = next(k for k in broken[arch] if "FixtureVectorGather<int>" in k.short_name)
    table = gates.row(good)
    assert table["threads"] == 128 and 8 < table["registers"] < 64 and table["stack"] == 0
    assert table["HMMA"] == 1 and table["LDG.128"] == 1 and table["verdict"] == "ok"
    assert table["code_bytes"] % 16 == 0 and table["code_bytes"] > 200
    assert table["warps_per_sm"] in range(32, 65)


def test_the_command_fails_where_a_kernel_does(broken, monkeypatch, tmp_path, capsys):
    kernels = broken["90a"]
    monkeypatch.setattr(gates, "collect", lambda *_: kernels)
    monkeypatch.setattr("sys.argv", ["static_gates.py", "--csv", str(tmp_path / "out.csv")])
    assert gates.main() == 1
    assert "sm_90a: 7 kernels" in capsys.readouterr().out
    assert len((tmp_path / "out.csv").read_text().splitlines()) == 8
    kernels = [k for k in kernels if not gates.judge(k)]
    assert gates.main() == 0
