"""What a device can do at best, measured once a process: the roofline (Williams, Waterman and
Patterson, CACM 52(4), 2009). No call takes less time than its bytes and its FLOPs need."""

import functools
import time
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from ..problem import DTYPES, allows_tf32

_COPY_SIZES = {"cpu": range(18, 28), "cuda": range(20, 31)}  # log2 of bytes read and written
_PRODUCT_SIZES = {"cpu": (256, 512, 1024), "cuda": (1024, 2048, 4096, 8192)}
_SECONDS = 0.015  # for how long one copy or product is repeated
_FEWEST_RUNS = 3  # how often at least, however long it takes
_LONGEST_RUN = 0.03  # seconds; after a product that takes longer no larger one is tried
_CALLS_BETWEEN_EVENTS = 5
# Matrix units make a product of float32's accuracy out of so many of TF32.
_TF32_PRODUCTS = 3


def copy_rate(device, size):
    """Bytes per second, read and written, of the fastest of some copies of size / 2 bytes."""
    source = torch.ones(size // 8, dtype=torch.float32, device=device)
    target = torch.zeros_like(source)
    return size / _best_seconds(lambda: target.copy_(source), source.device)


def product_rate(device, dtype, size):
    """FLOP per second, two a multiply-add, of the fastest of some products of two (size, size)
    matrices of the dtype."""
    generator = torch.Generator(device).manual_seed(0)
    a = torch.randn(size, size, generator=generator, device=device).to(dtype)
    return 2 * size**3 / _best_seconds(lambda: a @ a, a.device)


def _best_seconds(function, device):
    run = _gpu_seconds if device.type == "cuda" else _cpu_seconds
    function()
    runs, end = [], time.perf_counter() + _SECONDS
    while len(runs) < _FEWEST_RUNS or time.perf_counter() < end:
        runs.append(run(function))
    return min(runs)


def _cpu_seconds(function):
    begin = time.perf_counter()
    function()
    return time.perf_counter() - begin


def _gpu_seconds(function):
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    for _ in range(_CALLS_BETWEEN_EVENTS):
        function()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / _CALLS_BETWEEN_EVENTS


@dataclass(frozen=True)
class Roofline:
    """The rates of one device, number of threads and dtype.

    copies are (bytes, bytes per second) of copies of many sizes, since tensors that fit into a
    cache move at the cache's speed; product is the FLOP per second of a matrix product."""

    copies: tuple
    product: float

    def bytes_us(self, size):
        """Microseconds that so many bytes take at the best rate of the copies of about that size
        and of larger ones."""
        largest, _ = self.copies[-1]
        rates = [rate for copied, rate in self.copies if 2 * copied > min(size, largest)]
        return size / max(rates) * 1e6

    def flops_us(self, flops):
        """Microseconds of so many FLOPs at the rate of the matrix product."""
        return flops / self.product * 1e6

    def floor_us(self, flops, size):
        """Microseconds: the larger of what FLOPs and bytes take."""
        return max(self.flops_us(flops), self.bytes_us(size))


def roofline(device, dtype):
    """The Roofline of a device for calls of a dtype, with torch's present number of threads.

    Args:
        device: "cpu", "cuda:0", ...
        dtype: of the tensors. float16 and bfloat16 are held to float32's products where those are
            the faster ones, as kernels may sum in float32. On a GPU float32 is held to three TF32
            products for one, or to one where cuDNN's setting allows TF32.

    Returns:
        Roofline, or None for devices other than CPUs and CUDA's and dtypes that fastconv has no
        kernels for. The first call for a device, number of threads and dtype measures it, for some
        tenths of a second.
    """
    device = torch.device(device)
    if device.type not in _COPY_SIZES or dtype not in DTYPES:
        return None
    if device.type == "cuda" and not torch.cuda.is_available():
        return None
    threads = torch.get_num_threads()
    return Roofline(
        _copies(device, threads), _products(device, threads, dtype, _tf32(device, dtype))
    )


def _tf32(device, dtype):
    return device.type == "cuda" and dtype == torch.float32 and allows_tf32()


@functools.lru_cache(maxsize=64)
def _copies(device, threads):
    with _undisturbed(device):
        sizes = (2**exponent for exponent in _COPY_SIZES[device.type])
        return tuple((size, copy_rate(device, size)) for size in sizes)


@functools.lru_cache(maxsize=64)
def _products(device, threads, dtype, allow_tf32):
    with _undisturbed(device):
        if device.type == "cuda" and dtype == torch.float32:
            with matmul_tf32(True):
                tf32 = peak_product_rate(device, dtype)
            if allow_tf32:
                return tf32
            with matmul_tf32(False):
                return max(peak_product_rate(device, dtype), tf32 / _TF32_PRODUCTS)
        dtypes = {dtype, torch.float32} if dtype.itemsize == 2 else {dtype}
        return max(peak_product_rate(device, each) for each in dtypes)


def peak_product_rate(device, dtype):
    """FLOP per second of the size of product that runs fastest."""
    device, best = torch.device(device), 0
    for size in _PRODUCT_SIZES[device.type]:
        rate = product_rate(device, dtype, size)
        best = max(best, rate)
        if 2 * size**3 / rate > _LONGEST_RUN:
            break
    return best


@contextmanager
def _undisturbed(device):
    """A context without autocast and gradients, in which the device is the current one."""
    with torch.no_grad(), torch.autocast(device.type, enabled=False):
        if device.type == "cuda":
            with torch.cuda.device(device):
                yield
        else:
            yield


@contextmanager
def matmul_tf32(allowed):
    """Whether a GPU may round the factors of float32 products to TF32."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
