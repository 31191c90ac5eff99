"""Does the emulator do what the hardware does? Its kernels are in emulator/test_kernels."""

import ctypes
import os
import re
import signal
import subprocess
import sys
import threading

import pytest
import torch

pytest.importorskip("ninja")
from emulator import build, sanitize

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="the emulator needs Linux and g++")

SCHEDULES = [(lazy, seed, workers) for lazy in (0, 1) for seed in (0, 1, 2) for workers in (1, 2)]
SUCCESS, INVALID_VALUE, INVALID_CONFIGURATION = 0, 1, 9
HALF, BFLOAT16, TF32 = range(3)
DTYPES = [torch.float16, torch.bfloat16, torch.float32]


@pytest.fixture(scope="module")
def library():
    return str(build.build_test_kernels())


@pytest.fixture
def kernels(library):
    loaded = ctypes.CDLL(library)
    loaded.fastconv_emulator_configure.argtypes = [ctypes.c_int, ctypes.c_uint64, ctypes.c_int]
    yield Kernels(loaded)
    loaded.fastconv_emulator_configure(1, 0, 0)


class Kernels:
    """kernels.mma(...) calls run_mma with tensors as addresses and expects success."""

    def __init__(self, library):
        self._library = library
        self.configure = library.fastconv_emulator_configure

    def status(self, name, *args):
        args = [ctypes.c_void_p(a.data_ptr()) if isinstance(a, torch.Tensor) else a for a in args]
        return getattr(self._library, name)(*args)

    def __getattr__(self, name):
        def call(*args):
            assert self.status(f"run_{name}", *args) == SUCCESS

        return call


def integers(*size, dtype=torch.float32):
    return torch.randint(-8, 9, size).to(dtype)


def tf32(x):
    return ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)


def words(x):
    """Rows of x as 32-bit words: pairs of 16-bit elements, or floats."""
    return x.contiguous().view(torch.int32)


# Conversions


def test_conversions_to_half_bfloat16_and_tf32(kernels):
    bits = torch.randint(-(2**31), 2**31, (200_000,), dtype=torch.int64).to(torch.int32)
    halves = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    special = [0.0, -0.0, torch.inf, -torch.inf, torch.nan, 65519.9, 65520.0, 2.0**-25, 2.0**-24]
    x = torch.cat(
        [
            bits.view(torch.float32),
            halves.view(torch.float16).float(),
            (halves.view(torch.float16).double() * (1 + 2**-11)).float(),  # ties
            torch.tensor(special),
            torch.randn(100_000) * 1e-6,  # subnormal halves
        ]
    )
    half, bfloat16 = (torch.empty(len(x), dtype=torch.int16) for _ in range(2))
    rounded = torch.empty(len(x), dtype=torch.int32)
    kernels.conversions(x, len(x), half, bfloat16, rounded)
    same = dict(rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(half.view(torch.float16), x.half(), **same)
    torch.testing.assert_close(bfloat16.view(torch.bfloat16), x.bfloat16(), **same)
    assert (rounded & 0x1FFF).eq(0).all()
    torch.testing.assert_close(rounded.view(torch.float32)[~x.isnan()], tf32(x)[~x.isnan()], **same)
    assert rounded.view(torch.float32)[x.isnan()].isnan().all()


def test_conversions_to_float(kernels):
    bits = torch.arange(2**16, dtype=torch.int32).to(torch.int16)
    from_half, from_bfloat16 = torch.empty(2**16), torch.empty(2**16)
    kernels.widenings(from_half, from_bfloat16)
    same = dict(rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(from_half, bits.view(torch.float16).float(), **same)
    torch.testing.assert_close(from_bfloat16, bits.view(torch.bfloat16).float(), **same)


# Warps


@pytest.mark.parametrize("dtype", [HALF, BFLOAT16, TF32], ids=["half", "bfloat16", "tf32"])
def test_mma_fragments(kernels, dtype):
    """Each lane's words are placed as the PTX ISA says, and the product compared with torch's."""
    depth = 8 if dtype == TF32 else 16
    a, b, d = (torch.randn(size) for size in ((16, depth), (depth, 8), (16, 8)))
    a, b = (tf32(m) if dtype == TF32 else m.to(DTYPES[dtype]) for m in (a, b))
    a_words, b_words = words(a), words(b.T)  # (16, 8), (8, 8)
    lane = torch.arange(32)
    g, t = lane // 4, lane % 4
    a_lanes = torch.stack([a_words[g + i, t + j] for j in (0, 4) for i in (0, 8)], 1).contiguous()
    b_lanes = torch.stack([b_words[g, t + j] for j in (0, 4)], 1).contiguous()
    d_lanes = torch.stack([d[g + i, 2 * t + j] for i in (0, 8) for j in (0, 1)], 1).contiguous()
    expected = d.double() + a.double() @ b.double()
    kernels.mma(dtype, a_lanes, b_lanes, d_lanes)
    expected = [expected[g + i, 2 * t + j] for i in (0, 8) for j in (0, 1)]
    torch.testing.assert_close(d_lanes.double(), torch.stack(expected, 1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("transposed", [0, 1])
@pytest.mark.parametrize("count", [1, 2, 4])
def test_ldmatrix_fragments(kernels, count, transposed):
    x = torch.randint(-(2**15), 2**15, (count, 8, 8)).to(torch.int16)
    r = torch.empty(32, count, dtype=torch.int32)
    kernels.ldmatrix(count, transposed, x, r)
    matrices = x.transpose(1, 2) if transposed else x
    assert torch.equal(r, words(matrices).reshape(count, 32).T)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["float", "double"])
@pytest.mark.parametrize("width", [32, 8])
@pytest.mark.parametrize("seed", [0, 3])
def test_shuffles(kernels, dtype, width, seed):
    kernels.configure(1, seed, 1)
    out = torch.empty(32, 5, dtype=dtype)
    run = kernels.shuffles_float if dtype == torch.float32 else kernels.shuffles_double
    run(out, width)

    def expected(lane):
        first, rank = lane // width * width, lane % width
        yield first + 3 * lane % width
        yield lane ^ 5
        yield lane + 3 if rank + 3 < width else lane
        yield lane - 3 if rank >= 3 else lane
        yield lane if lane < 16 else lane ^ 1

    expected = torch.tensor([list(expected(lane)) for lane in range(32)], dtype=dtype) + 0.5
    assert torch.equal(out, expected)


@pytest.mark.parametrize("seed", [0, 3])
def test_ballots(kernels, seed):
    kernels.configure(1, seed, 1)
    out = torch.empty(64, 4, dtype=torch.int32)
    kernels.ballots(out, 64)
    every_third = sum(1 << lane for lane in range(0, 32, 3))
    odd = 0xAAAAAAAA
    for lane in range(64):
        parted = odd & (0xFF if lane % 32 < 8 else 0xFFFFFF00)
        got = [value & 0xFFFFFFFF for value in out[lane].tolist()]
        assert got == [every_third, 10, 10, parted]


# Blocks


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
@pytest.mark.parametrize("dtype", [HALF, BFLOAT16, TF32], ids=["half", "bfloat16", "tf32"])
def test_gemm_under_every_schedule(kernels, dtype, schedule):
    """cp.async in stages, ldmatrix and mma.sync: exact on integers, whatever the order."""
    kernels.configure(*schedule)
    for M, N, K in ((32, 32, 64), (70, 45, 104), (5, 97, 8)):
        a, b = integers(M, K, dtype=DTYPES[dtype]), integers(N, K, dtype=DTYPES[dtype])
        d = torch.full((M, N), torch.nan)
        kernels.gemm(dtype, a, b, d, M, N, K, 0)
        assert torch.equal(d, a.float() @ b.float().T)


def test_lazy_copies_reveal_a_wait_that_is_too_weak(kernels):
    weak_wait = 2
    a = integers(64, 64, dtype=torch.float16)
    for lazy in (0, 1):
        kernels.configure(lazy, 0, 1)
        d = torch.empty(64, 64)
        kernels.gemm(HALF, a, a, d, 64, 64, 64, weak_wait)
        assert torch.equal(d, a.float() @ a.float().T) == (not lazy)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_barriers_and_shuffles_under_every_schedule(kernels, schedule):
    kernels.configure(*schedule)
    x, y = integers(40 * 64), torch.empty(40 * 64)
    kernels.reverse_tiles(x, y, 40, 0)
    assert torch.equal(y, x.view(40, 64).flip(1).flatten())
    sums = torch.empty(20)
    kernels.sum_blocks(x, sums, 20, 128, 0)
    assert torch.equal(sums, x.view(20, 128).sum(1))


def test_seeds_change_the_order_of_threads(kernels):
    orders = []
    for seed in (0, 0, 1, 1, 2):
        kernels.configure(1, seed, 1)
        order = torch.empty(3, 64, dtype=torch.int32)
        kernels.arrival_order(order, 3, 64)
        assert order.sort(1).values.eq(torch.arange(64)).all()
        orders.append(order)
    assert torch.equal(orders[0], orders[1]) and torch.equal(orders[2], orders[3])
    assert not torch.equal(orders[0], orders[2]) and not torch.equal(orders[2], orders[4])


def test_votes(kernels):
    for seed in (0, 1):
        kernels.configure(1, seed, 1)
        out = torch.empty(96, 4, dtype=torch.int32)
        kernels.votes(out, 96)
        assert out.eq(torch.tensor([1, 0, 10, 7])).all()


def test_indices_cover_grid_and_block(kernels):
    out = torch.zeros(12 * 60, dtype=torch.int32)
    kernels.indices(out)
    assert torch.equal(out, torch.arange(12 * 60, dtype=torch.int32))


def test_threads_that_exit_do_not_block_barriers(kernels):
    out = torch.zeros(96, dtype=torch.int32)
    kernels.early_exit(out, 96)
    assert torch.equal(out, (torch.arange(96) % 3 != 0).int())


def test_shared_memory_starts_poisoned(kernels):
    for threads in (512, 64):
        out = torch.zeros(threads, dtype=torch.int32)
        kernels.poison(out, threads)
        assert out.eq(-1).all()


def test_arguments_are_copied(kernels):
    out = torch.zeros(64, dtype=torch.int32)
    kernels.copied_arguments(out)
    assert out.eq(64 * 63 // 2 + 1).all()


def test_launches_from_several_threads(kernels):
    kernels.configure(1, 1, 2)
    a = integers(96, 64, dtype=torch.float16)
    results = [torch.empty(96, 96) for _ in range(8)]

    def work(d):
        for _ in range(3):
            kernels.gemm(HALF, a, a, d, 96, 96, 64, 0)

    threads = [threading.Thread(target=work, args=(d,)) for d in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for d in results:
        assert torch.equal(d, a.float() @ a.float().T)


def test_works_after_fork(kernels):
    x, y = integers(80 * 64), torch.empty(80 * 64)
    kernels.configure(1, 0, 2)
    kernels.reverse_tiles(x, y, 80, 0)
    child = os.fork()
    if child == 0:
        kernels.reverse_tiles(x, y, 80, 0)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0


# What must be refused


@pytest.mark.parametrize(
    ("grid", "block", "shared", "opt_in", "expected"),
    [
        ((1, 1, 1), (1024, 1, 1), 48 << 10, 0, INVALID_VALUE),
        ((1, 1, 1), (1024, 1, 1), 48 << 10, 48 << 10, SUCCESS),
        ((1, 65535, 1), (1, 1, 1), 0, 0, SUCCESS),
        ((1, 1, 1), (32, 1, 1), 227 << 10, 227 << 10, SUCCESS),
        ((1, 1, 1), (32, 1, 1), (227 << 10) + 1, 227 << 10, INVALID_VALUE),
        ((1, 1, 1), (32, 1, 1), 0, (227 << 10) + 1, INVALID_VALUE),
        ((1, 1, 1), (1025, 1, 1), 0, 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (64, 32, 1), 0, 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (1, 1, 65), 0, 0, INVALID_CONFIGURATION),
        ((1, 1, 1), (0, 1, 1), 0, 0, INVALID_CONFIGURATION),
        ((0, 1, 1), (32, 1, 1), 0, 0, INVALID_CONFIGURATION),
        ((1, 65536, 1), (1, 1, 1), 0, 0, INVALID_CONFIGURATION),
        ((1, 1, 65536), (1, 1, 1), 0, 0, INVALID_CONFIGURATION),
    ],
)
def test_limits_of_a_launch(kernels, grid, block, shared, opt_in, expected):
    shared = ctypes.c_size_t(shared)
    assert kernels.status("run_limits", *grid, *block, shared, opt_in) == expected
    assert kernels.status("take_last_error") == expected
    assert kernels.status("take_last_error") == SUCCESS


FAULTS = [
    "deadlock: .*__syncthreads: thread (0,0,0) and 62 more.*__syncwarp: thread (40,0,0) and 0 more",
    "lane 3 exits, but others wait for it in __syncwarp",
    "lane 31 exits, but others wait for it in __syncwarp",
    "different collectives: __ballot_sync and __syncwarp",
    "different barriers: __syncthreads_or and __syncthreads",
    "__ballot_sync: mask 0x1 lacks the calling lane",
    "livelock",
    "cp.async: misaligned shared address",
    "cp.async: .* is not in shared memory",
    "exits without having waited for its cp.async",
    "ldmatrix: misaligned row",
    "mma.m16n8k16.f16: only lanes 0xffff of the warp are there",
    "mma.m16n8k8.tf32: a holds 0x1, which was not rounded to tf32",
    "stack overflow",
]


@pytest.mark.parametrize("number", range(len(FAULTS)))
def test_a_fault_ends_the_process_with_a_report(library, number):
    code = f"import ctypes; ctypes.CDLL({library!r}).run_fault({number})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGABRT, done.stderr
    assert "kernel test_kernels::" in done.stderr
    assert "block (0,0,0), thread (" in done.stderr
    report = done.stderr.replace("\n", " ")
    pattern = FAULTS[number].replace("(", "[(]").replace(")", "[)]")
    assert re.search(pattern, report), done.stderr


# kernel, its arguments (sizes are of float buffers), what the report must say; None: no report
TILES, SUM, GEMM, WARP = "run_reverse_tiles", "run_sum_blocks", "run_gemm", "run_exchange"
GEMM_SIZES = (HALF, 2000, 2000, 2000, 40, 36, 40)
SANITIZED = [
    ("address", TILES, (128, 128, 2, 0), None),
    ("address", GEMM, (*GEMM_SIZES, 0), None),
    ("address", TILES, (128, 128, 2, 2), "use-after-poison.*WRITE.*reverse_tiles"),
    ("address", TILES, (128, 128, 2, 3), "heap-buffer-overflow.*WRITE.*reverse_tiles"),
    ("address", GEMM, (HALF, 400, 2000, 2000, 40, 36, 40, 0), "heap-buffer-overflow.*READ.*gemm"),
    ("thread", TILES, (128, 128, 2, 0), None),
    ("thread", SUM, (192, 3, 3, 64, 0), None),
    ("thread", GEMM, (*GEMM_SIZES, 0), None),
    ("thread", TILES, (128, 128, 2, 1), "data race.*reverse_tiles"),
    ("thread", GEMM, (*GEMM_SIZES, 1), "data race.*gemm"),
    ("thread", GEMM, (*GEMM_SIZES, 3), "data race.*gemm"),
    ("thread", SUM, (192, 3, 3, 64, 1), "data race.*sum_blocks"),
    ("thread", WARP, (32, 0), None),
    ("thread", WARP, (32, 1), "data race.*exchange"),
]
# Without numpy and torch, which only cost time here.
SANITIZED_PROCESS = """
import ctypes, sys
library, name, *args = sys.argv[1:]
libc = ctypes.CDLL(None)
libc.calloc.restype = ctypes.c_void_p
buffers = {"run_gemm": (1, 2, 3), "run_exchange": (0,)}.get(name, (0, 1))
args = [
    ctypes.c_void_p(libc.calloc(ctypes.c_size_t(int(a)), 4)) if i in buffers else int(a)
    for i, a in enumerate(args)
]
assert getattr(ctypes.CDLL(library), name)(*args) == 0
"""


@pytest.mark.parametrize(("sanitizer", "kernel", "args", "report"), SANITIZED)
def test_sanitizers_report_bugs_and_nothing_else(exhaustive, sanitizer, kernel, args, report):
    if not exhaustive:
        pytest.skip("--exhaustive tries it")
    command = [*sanitize.sanitizer_command(sanitizer), "-c", SANITIZED_PROCESS]
    command += [str(build.build_test_kernels(sanitizer)), kernel, *map(str, args)]
    env = sanitize.sanitizer_environment(sanitizer)
    for seed in ("0", "1"):
        env["FASTCONV_EMULATOR_SEED"] = seed
        done = subprocess.run(command, env=env, capture_output=True, text=True)
        if report is None:
            assert done.returncode == 0, done.stderr
        else:
            assert done.returncode != 0
            assert re.search(report, done.stderr, re.DOTALL), done.stderr
