"""Each wrapper of csrc/cuda/device does what its comment says: on a GPU, where the inline PTX runs,
and in the emulator, where its host twin does. Both are held against the same formulas."""

import ctypes
import importlib.util
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest
import torch

CSRC = Path(__file__).parents[2] / "csrc"
SOURCE = Path(__file__).parent / "device_wrappers.cu"
sys.path.insert(0, str(CSRC))
from fastconv_build.toolkit import Toolkit, find_tool  # noqa: E402

THREADS, LANES = 128, 32
NVCC = find_tool("nvcc")
ARCHS = ["80", "90a"]  # that have all of the instructions


def _nvcc(arch, target, *more):
    toolkit = Toolkit(NVCC)
    libraries = [f"-L{folder}" for folder in toolkit.library_folders]
    command = [toolkit.nvcc, "-std=c++20", "-O3", f"-I{CSRC}", *more, *libraries]
    command += [f"-gencode=arch=compute_{arch},code=sm_{arch}", str(SOURCE), "-o", str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return target


def _here():
    """The architecture of the GPU that is there, or None."""
    if not torch.cuda.is_available():
        return None
    arch = "".join(map(str, torch.cuda.get_device_capability()))
    return "90a" if arch == "90" else arch


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """compiled(what) is a file: for an architecture its cubin, for "gpu" the library for the GPU
    that is there. All are compiled at the same time, and a test waits for the one it needs."""
    if NVCC is None:
        pytest.skip("needs nvcc")
    folder = tmp_path_factory.mktemp("wrappers")
    jobs = {arch: partial(_nvcc, arch, folder / f"{arch}.cubin", "-cubin") for arch in ARCHS}
    if arch := _here():
        library = ("-shared", "-Xcompiler=-fPIC", "-cudart=static")
        jobs = {"gpu": partial(_nvcc, arch, folder / "device_wrappers.so", *library), **jobs}
    with ThreadPoolExecutor(len(jobs)) as pool:
        futures = {what: pool.submit(job) for what, job in jobs.items()}
        yield lambda what: futures[what].result()


class Wrappers:
    def __init__(self, path, device):
        self._library, self.device = ctypes.CDLL(str(path)), device

    def __getattr__(self, name):
        def call(*arguments):
            values = [
                ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else a
                for a in arguments
            ]
            if self.device == "cuda":
                torch.cuda.synchronize()  # the library's launches are on its own default stream
            status = getattr(self._library, f"run_{name}")(*values)
            assert status == 0, f"{name}: CUDA status {status}"

        return call


@pytest.fixture(scope="module", params=["gpu", "twin"])
def wrappers(request):
    if request.param == "gpu":
        if _here() is None:
            pytest.skip("needs a GPU")
        path = request.getfixturevalue("compiled")("gpu")
        torch.zeros(1, device="cuda")  # makes the context that the library's launches run in
        return Wrappers(path, "cuda")
    if importlib.util.find_spec("ninja") is None or sys.platform != "linux":
        pytest.skip("the emulator needs Linux, g++ and ninja")
    from emulator.build import build_library

    return Wrappers(build_library(SOURCE), "cpu")


@pytest.mark.parametrize("arch", ARCHS)
def test_the_ptx_assembles(arch, compiled):
    assert compiled(arch).stat().st_size > 0


def test_every_wrapper_with_a_twin_is_here():
    """Every header that has other code for the emulator is tested in this file."""
    included = SOURCE.read_text()
    for header in (CSRC / "cuda" / "device").glob("*.cuh"):
        text = header.read_text()
        if "FASTCONV_EMULATOR" in text or "asm" in text:
            assert f'#include "cuda/device/{header.name}"' in included, header.name


def words(x):
    """The bytes of x as 32-bit words."""
    return x.contiguous().view(torch.int32)


def fragments(a, b):
    """The registers (warps, lane, register) of a (M x K, row major) and b (K x N, column major)."""
    g, t = torch.arange(LANES) // 4, torch.arange(LANES) % 4
    a_words = words(a).view(*a.shape[:2], -1)  # (warps, 16, 8)
    b_words = words(b.transpose(1, 2)).view(len(b), 8, -1)  # (warps, 8, 8 words or 8 floats)
    columns = [t, t + 4]  # in words: 16-bit elements lie in pairs
    a_registers = [a_words[:, g + 8 * (i % 2), columns[i // 2]] for i in range(4)]
    b_registers = [b_words[:, g, columns[i]] for i in range(2)]
    return torch.stack(a_registers, -1).contiguous(), torch.stack(b_registers, -1).contiguous()


def accumulators(d):
    """(warps, 16, 8) as registers (warps, lane, 4), and back."""
    g, t = torch.arange(LANES) // 4, torch.arange(LANES) % 4
    rows = torch.stack([g, g, g + 8, g + 8], -1)
    columns = torch.stack([2 * t, 2 * t + 1, 2 * t, 2 * t + 1], -1)
    return d[:, rows, columns].contiguous(), (rows, columns)


def tf32(x):
    """Rounded to 10 bits of mantissa, ties away from zero."""
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


MMA = [torch.float16, torch.bfloat16, torch.float32]


@pytest.mark.parametrize("dtype", MMA, ids=["float16", "bfloat16", "tf32"])
def test_mma(wrappers, dtype):
    warps, k = 64, 8 if dtype == torch.float32 else 16
    sizes = (warps, 16, k), (warps, k, 8), (warps, 16, 8)
    for kind in ("integers", "normals"):
        if kind == "integers":
            a, b, c = (torch.randint(-8, 9, size).float() for size in sizes)
        else:
            a, b, c = map(torch.randn, sizes)
        a, b = (tf32(a), tf32(b)) if dtype == torch.float32 else (a.to(dtype), b.to(dtype))
        registers, places = accumulators(c)
        arguments = [*fragments(a, b), registers]
        arguments = [tensor.to(wrappers.device) for tensor in arguments]
        wrappers.mma(MMA.index(dtype), warps, *arguments)
        got = torch.empty_like(c)
        got[:, places[0], places[1]] = arguments[2].cpu()
        exact = c.double() + a.double() @ b.double()
        if kind == "integers":
            assert torch.equal(got.double(), exact)
        else:
            # The matrix units align and truncate the products of one instruction: a few units in
            # the last place of the largest one.
            scale = c.double().abs() + a.double().abs() @ b.double().abs()
            assert ((got.double() - exact).abs() <= 2**-20 * scale).all()


@pytest.mark.parametrize("transposed", [0, 1])
def test_ldmatrix(wrappers, transposed):
    x = torch.arange(4 * 8 * 8, dtype=torch.int16).view(4, 8, 8)
    out = torch.zeros(LANES, 4, dtype=torch.int32, device=wrappers.device)
    wrappers.ldmatrix(transposed, x.to(wrappers.device), out)
    expected = x.transpose(1, 2) if transposed else x
    g, t = torch.arange(LANES) // 4, torch.arange(LANES) % 4
    pairs = torch.stack([expected[:, g, 2 * t], expected[:, g, 2 * t + 1]], -1)  # (4, lane, 2)
    assert torch.equal(out.cpu(), words(pairs).view(4, LANES).T)


@pytest.mark.parametrize("size", [16, 4])
def test_cp_async(wrappers, size):
    """Two groups; a copy that is not valid fills with zeros; the address may then be anything."""
    source = torch.randint(-(2**31), 2**31, (2, THREADS, size // 4)).to(torch.int32)
    valid = (torch.rand(2, THREADS) < 0.7).to(torch.int32)
    out = torch.full_like(source, 7, device=wrappers.device)
    call = getattr(wrappers, f"cp_async_{size}")
    call(source.to(wrappers.device), valid.to(wrappers.device), out)
    expected = (source * valid[..., None]).roll(-1, 1)
    assert torch.equal(out.cpu(), expected)


def test_conversions(wrappers):
    """Every half and bfloat16, ties between halves, and random bits."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    half, bfloat16 = every.view(torch.float16).float(), every.view(torch.bfloat16).float()
    ties = (half.double() * (1 + 2**-11)).float()
    random = torch.randint(-(2**31), 2**31, (2**16,)).to(torch.int32).view(torch.float32)
    x = torch.cat([half, bfloat16, ties, random]).to(wrappers.device)
    outputs = [
        torch.zeros(len(x), dtype=dtype, device=wrappers.device)
        for dtype in (torch.int32, torch.float16, torch.bfloat16, torch.float32, torch.float32)
    ]
    wrappers.convert(ctypes.c_int64(len(x)), x, *outputs)
    as_tf32, as_half, as_bfloat16, from_half, from_bfloat16 = (out.cpu() for out in outputs)
    x = x.cpu()

    def agree(actual, expected):
        same = (actual == expected) | (actual.isnan() & expected.isnan())
        assert same.all(), (actual[~same][:4], expected[~same][:4])

    agree(as_half, x.half())
    agree(as_bfloat16, x.bfloat16())
    agree(from_half, x.half().float())
    agree(from_bfloat16, x.bfloat16().float())
    finite = x.isfinite()
    agree(as_tf32.view(torch.float32)[finite], tf32(x)[finite])
    assert (as_tf32.view(torch.float32)[x.isnan()].isnan()).all()
    assert torch.equal(as_tf32.view(torch.float32)[x.isinf()], x[x.isinf()])


def test_divmod(wrappers):
    edges = torch.tensor([0, 1, 2, 3, 2**31 - 1, 2**31 - 2, 2**30, 65535, 65536])
    n = torch.cat([edges, torch.randint(0, 2**31, (2000,))])
    divisors = [1, 2, 3, 5, 7, 9, 49, 64, 112, 3136, 65537, 2**30 - 1, 2**30, 2**31 - 1]
    divisors += torch.randint(1, 2**31, (50,)).tolist()
    n32 = n.to(torch.int32).to(wrappers.device)
    for divisor in divisors:
        quotient, remainder = torch.zeros_like(n32), torch.zeros_like(n32)
        wrappers.divmod(divisor, ctypes.c_int64(len(n)), n32, quotient, remainder)
        assert torch.equal(quotient.cpu().long(), n // divisor), divisor
        assert torch.equal(remainder.cpu().long(), n % divisor), divisor


@pytest.mark.parametrize("size", [2, 4, 8])
def test_vectors(wrappers, size):
    x = torch.randn(THREADS, size).half()
    y = torch.zeros_like(x, device=wrappers.device)
    wrappers.vector(size, x.to(wrappers.device), y)
    assert torch.equal(y.cpu(), x.flip(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=["float16", "bfloat16"])
def test_packed_comparisons(wrappers, dtype):
    """Every number against random ones, NaN, infinities and both zeros."""
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(dtype)
    special = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, torch.nan, 1.0]).to(dtype)
    a = torch.cat([every, every, every])
    b = torch.cat([every[torch.randperm(2**16)], special[torch.randint(0, 6, (2**16,))], every])
    packed = [words(tensor).to(wrappers.device) for tensor in (a, b)]
    masks = [torch.zeros_like(packed[0]) for _ in range(2)]
    index = [torch.float16, torch.bfloat16].index(dtype)
    wrappers.packed(index, ctypes.c_int64(len(packed[0])), *packed, *masks)
    greater, is_nan = (mask.cpu().view(torch.int16) for mask in masks)
    assert torch.equal(greater, -(a.float() > b.float()).to(torch.int16))
    assert torch.equal(is_nan, -a.isnan().to(torch.int16))
