"""From a kernel's clocks to microseconds: blocks on multiprocessors, bytes through L2 and memory.

A kernel takes as long as the slowest of
- its blocks: each SM gets the same number, rounded up, and its busiest unit works for all of them;
- their latencies: where few blocks are on an SM a warp waits for its own instructions;
- the bytes of all loads and stores, through L2;
- the bytes that must cross memory.
These overlap perfectly; bank conflicts, divergence and misses of the instruction cache are not
here, so that a prediction is rather too short. It is too long where lanes read the same words of
shared memory, as in the direct kernels and in wgrad's table of pixels: each lane counts as if it
had its own.
"""

from dataclasses import dataclass, replace

from .kernel_speeds import KernelSpeed
from .machines import SUB_PARTITIONS, WARP, Machine

# Clocks from one instruction of a warp to its next, waiting for operands included [assumed].
_WARP_INTERVAL = 2.0
_US = 1e6


@dataclass(frozen=True)
class Launch:
    """One launch of a kernel. `turns` and so on are of a block, on average where blocks differ."""

    kernel: KernelSpeed
    blocks: int
    turns: float
    memory_bytes: float  # of all blocks, that cross memory
    threads: int = 0  # of a block; 0: as many as the kernel is compiled for
    load_turns: float = 0
    store_turns: float = 0
    other_bytes: float = 0  # of all blocks, loaded and stored beside the main loop
    shared_memory: int = 0  # bytes that a block asks for, where its type does not say


@dataclass(frozen=True)
class Prediction:
    """Of a call, or of one kernel of it."""

    us: float
    roofline_us: float
    limiter: str  # tensor, shared, fma, alu, issue, epilogue, latency, L2, memory or launch
    waves: float  # blocks over those that fit on the GPU at a time

    @property
    def share(self):
        """Of the roofline."""
        return self.roofline_us / self.us

    def with_roofline(self, us):
        return replace(self, roofline_us=us)


def launch_prediction(launch: Launch, machine: Machine) -> Prediction:
    kernel = launch.kernel
    threads = launch.threads or kernel.threads
    scale = threads / kernel.threads  # clocks are of the block that the kernel is compiled for
    per_sm = _blocks_per_sm(launch, threads, machine)
    blocks = -(-launch.blocks // machine.sms)  # of the SM that has the most
    resident = min(per_sm, blocks)

    loop = launch.turns * kernel.loop_clocks * scale
    beside = scale * (
        kernel.once_clocks
        + launch.load_turns * kernel.load_clocks
        + launch.store_turns * kernel.store_clocks
    )
    instructions = launch.turns * kernel.loop_instructions + beside / scale * SUB_PARTITIONS / (
        kernel.threads / WARP
    )
    alone = machine.fill_clocks + instructions * _WARP_INTERVAL
    moved = launch.blocks * launch.turns * kernel.loop_bytes * scale + launch.other_bytes
    seconds = {
        kernel.unit if loop >= beside else "epilogue": blocks * (loop + beside) / machine.clock_hz,
        "latency": -(-blocks // resident) * alone / machine.clock_hz,
        "L2": moved / machine.l2_bytes_per_clock / machine.clock_hz,
        "memory": launch.memory_bytes / machine.memory_bytes_per_s / machine.memory_share,
    }
    limiter = max(seconds, key=seconds.get)
    us = seconds[limiter] * _US
    return Prediction(
        us + machine.launch_us,
        0,
        limiter if us > machine.launch_us else "launch",
        launch.blocks / (machine.sms * per_sm),
    )


def _blocks_per_sm(launch, threads, machine):
    warps = -(-threads // WARP)
    # Registers are given to warps: where blocks are smaller more of them fit.
    room = launch.kernel.blocks_per_sm * (launch.kernel.threads // WARP) // warps
    if launch.shared_memory:
        bytes_of_block = launch.shared_memory + machine.reserved_shared_memory
        room = min(room, machine.shared_memory // bytes_of_block)
    return max(1, min(room, machine.warps // warps, machine.blocks))


def copy_prediction(memory_bytes: float, machine: Machine) -> Prediction:
    """Of a kernel that only moves bytes: what fits into half of L2 stays there."""
    in_l2 = memory_bytes < machine.l2_bytes / 2
    rate = machine.l2_bytes_per_clock * machine.clock_hz
    us = memory_bytes / (rate if in_l2 else machine.memory_bytes_per_s * machine.memory_share) * _US
    name = "L2" if in_l2 else "memory"
    return Prediction(us + machine.launch_us, 0, name if us > machine.launch_us else "launch", 1)


def sequence(predictions: list[Prediction], roofline_us: float) -> Prediction:
    """Of kernels one after the other: what limits the longest limits them all, its waves count."""
    longest = max(predictions, key=lambda prediction: prediction.us)
    us = sum(prediction.us for prediction in predictions)
    return replace(longest, us=us).with_roofline(roofline_us)


def roofline_us(flop: float, memory_bytes: float, peak_flops: float, machine: Machine) -> float:
    """The larger of what FLOP take at a peak and bytes at that of memory."""
    return max(flop / peak_flops, memory_bytes / machine.memory_bytes_per_s) * _US
