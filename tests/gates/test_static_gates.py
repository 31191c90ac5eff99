"""The gates on the CUDA kernels' machine code hold, and each gate fails a kernel that breaks it."""

import re
from pathlib import Path

import cubins
import pytest
import static_gates as gates

import fastconv

HERE = Path(__file__).parent
pytestmark = pytest.mark.skipif(
    cubins.missing_tool() is not None,
    reason=f"{cubins.missing_tool()} is neither on PATH, in CUDA_HOME nor among Python's packages",
)


def kernel_names():
    """The names of all __global__ functions in csrc/cuda."""
    text = "".join(path.read_text() for path in (cubins.ROOT / "csrc" / "cuda").rglob("*.cu*"))
    return set(re.findall(r"__global__[^;{]*?\b(\w+)\(\s*const __grid_constant__", text))


def test_every_kernel_of_the_package(exhaustive):
    if not exhaustive:
        pytest.skip("reads, or compiles, all kernels: --exhaustive does, and .ci/full")
    built = next(Path(fastconv.__file__).parent.glob("_cuda.*.so"), None)
    kernels = cubins.collect(module=built)
    failed = gates.failures(kernels, gates.rows_by_arch(kernels))
    print("\n".join(gates.summary(kernels, failed)))
    assert not failed
    archs = {kernel.arch for kernel in kernels}
    assert archs
    for arch in archs:  # a list that lost kernels would pass too
        read = {re.match(r"\w+", k.short_name)[0] for k in kernels if k.arch == arch}
        assert read == kernel_names()


@pytest.fixture(scope="module")
def broken(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cubins")
    return cubins.compile_kernels([HERE / "gate_fixture.cu"], cubins.ARCHS, folder)


BROKEN = {
    "conv2d_gather_direct": "spills: stack",
    "conv2d_wgrad_implicit_gemm": "no HMMA",
    "pool2d_unbounded": "no __launch_bounds__",
    "pool2d_hungry": "warps on an SM, needs 32",
    "nobody": "no line of KERNELS",
    "conv2d_implicit_gemm<FixtureVectorGatherNarrow<int>>": "no 16-byte global load",
}


@pytest.mark.parametrize("arch", cubins.ARCHS)
def test_each_gate_fails_the_kernel_that_breaks_it(broken, arch):
    verdicts = {k.short_name.replace(" ", ""): gates.judge(k) for k in broken[arch]}
    for good in (
        "conv2d_implicit_gemm<FixtureVectorGather<int>>",
        "conv2d_fprop_stem<0>",
        "conv2d_fprop_stem<2>",
    ):
        assert verdicts.pop(good) == []
    assert verdicts.keys() == BROKEN.keys()
    for name, reason in BROKEN.items():
        assert len(verdicts[name]) == 1 and reason in verdicts[name][0], (name, verdicts[name])


@pytest.mark.parametrize("arch", cubins.ARCHS)
def test_what_is_read_from_a_cubin(broken, arch):
    good = next(k for k in broken[arch] if "FixtureVectorGather<int>" in k.short_name)
    table = gates.row(good)
    assert table["threads"] == 128 and 8 < table["registers"] < 64 and table["spills"] == 0
    assert table["HMMA"] == 1 and table["LDG.128"] == 1 and table["verdict"] == "ok"
    assert table["code_bytes"] % 16 == 0 and table["code_bytes"] > 200
    assert table["warps_per_sm"] in range(32, 65)


@pytest.mark.parametrize("arch", cubins.ARCHS)
def test_what_is_read_of_a_main_loop(broken, arch):
    rows = {k.short_name: gates.row(k) for k in broken[arch]}
    loop, longer = rows["conv2d_fprop_stem<0>"], rows["conv2d_fprop_stem<2>"]
    assert loop["loop_flop"] == longer["loop_flop"] == 4 * 2 * 128
    assert loop["loop_bytes"] == 4 * 128 and loop["loop_global"] == 1
    assert loop["issue_clk"] == loop["loop_fma"] + loop["loop_integer"] + loop["loop_control"] + 1
    # Each step of the chain is three instructions of the half-rate units, LOP3, SHF and IADD3.
    assert longer["alu_clk"] > loop["alu_clk"] + 8 * 3
    assert rows["conv2d_implicit_gemm<FixtureVectorGather<int>>"]["tensor_clk"] > 0


@pytest.mark.parametrize("arch", cubins.ARCHS)
def test_a_main_loop_that_takes_longer_than_before_fails(broken, arch, tmp_path):
    kernels = [k for k in broken[arch] if k.short_name.startswith("conv2d_fprop_stem")]
    rows = gates.rows_by_arch(kernels)
    gates.write_csv(gates.table_path(arch, tmp_path), rows[arch])
    assert gates.failures(kernels, rows, tmp_path) == {}
    before, after = rows[arch]
    slower = [before, {**after, "kernel": before["kernel"]}]
    failed = gates.failures(kernels, {arch: slower[1:]}, tmp_path)
    assert "its main loop takes" in failed[arch, before["kernel"]][0]
    assert "is in the committed table and gone" in failed[arch, after["kernel"]][0]
    stores = {**before, "store_bytes": 1024, "store_clk": 100}
    gates.write_csv(gates.table_path(arch, tmp_path), [stores, after])
    failed = gates.failures(kernels, {arch: [{**stores, "store_clk": 103}, after]}, tmp_path)
    assert failed.keys() == {(arch, before["kernel"])}
    assert "storing results takes" in failed[arch, before["kernel"]][0]
    gates.write_csv(gates.table_path(arch, tmp_path), rows[arch][:1])
    assert (
        "is in no committed table"
        in gates.failures(kernels, rows, tmp_path)[arch, after["kernel"]][0]
    )


def test_the_command_fails_where_a_kernel_does(broken, monkeypatch, tmp_path, capsys):
    kernels = broken["90a"]
    monkeypatch.setattr(gates, "collect", lambda *_: kernels)
    monkeypatch.setattr("sys.argv", ["static_gates.py", "--csv", str(tmp_path)])
    assert gates.main() == 1
    assert "sm_90a: 9 kernels" in capsys.readouterr().out
    assert len((tmp_path / "static_sm90a.csv").read_text().splitlines()) == 10
    kernels = [k for k in kernels if not gates.judge(k)]
    assert gates.main() == 0
