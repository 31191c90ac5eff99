"""What the model of speed knows of a GPU: the one table of constants, each with its source.

Sources: [A100] and [H100] are NVIDIA's whitepapers of these GPUs; [guide] is the CUDA C++
Programming Guide, tables "Technical Specifications per Compute Capability" and "Throughput of
Native Arithmetic Instructions"; [Luo] is Luo et al., "Benchmarking and Dissecting the Nvidia Hopper
GPU Architecture", arXiv 2402.13499; [PMC] is table 3 of PMC10448217; [assumed] nobody measured for
this package.
"""

from dataclasses import dataclass

SUB_PARTITIONS = 4  # of an SM, each issuing one warp instruction a clock [A100, H100]
WARP = 32  # threads


@dataclass(frozen=True)
class Machine:
    name: str
    arch: str  # whose machine code it runs: "90a"
    capability: int
    sms: int
    clock_hz: float
    tensor_flop: int  # dense 16-bit FLOP per clock and SM; TF32 is half
    mma_sync_share: float  # of that, what HMMA reaches
    fma_lanes: int  # float32 FMAs per clock and SM
    integer_lanes: int  # 32-bit adds, compares, logic, and multiplications: the same rate
    double_lanes: int  # float64 FMAs per clock and SM
    special_lanes: int  # exp2, reciprocal, conversions between float and integer
    shared_bytes_per_clock: int  # of an SM's shared memory and L1, which are one
    l2_bytes_per_clock: int
    memory_bytes_per_s: float
    memory_share: float  # of that, what a large copy reaches
    shared_memory: int  # bytes, of an SM
    block_shared_memory: int  # bytes that one block can get
    l2_bytes: int
    registers: int = 64 << 10  # of an SM [guide]
    warps: int = 64  # of an SM, at most [guide]
    blocks: int = 32  # of an SM, at most [guide]
    reserved_shared_memory: int = 1 << 10  # bytes that each block takes besides its own [guide]
    launch_us: float = 2.0  # from a kernel's start to its first block, and its end [assumed]
    fill_clocks: int = 1000  # until a block's first operands are there: a load's latency [assumed]

    def peak_flops(self, dtype, on_tensor_cores, allow_tf32=False):
        """FLOP per second for tensors of a torch.dtype. float32 is held to three TF32
        products for one where TF32 itself is not allowed, or to its FMAs if these are faster."""
        per_clock = 2 * (self.double_lanes if dtype.itemsize == 8 else self.fma_lanes)
        if on_tensor_cores and dtype.itemsize == 4:
            per_clock = max(per_clock, self.tensor_flop / 2 / (1 if allow_tf32 else 3))
        elif on_tensor_cores and dtype.itemsize == 2:
            per_clock = self.tensor_flop
        return per_clock * self.sms * self.clock_hz

    @property
    def memory_bytes_per_clock(self):
        """Of one SM's share."""
        return self.memory_bytes_per_s * self.memory_share / self.clock_hz / self.sms

    @property
    def plan_arguments(self):
        """What a CudaConvCall asks of its device."""
        return self.sms, self.block_shared_memory, self.l2_bytes


MACHINES = {
    machine.name: machine
    for machine in (
        Machine(
            name="a100",  # SXM4, 80 GB
            arch="80",
            capability=80,
            sms=108,  # [A100]
            clock_hz=1.41e9,  # boost, which it keeps under load [A100]
            tensor_flop=2048,  # [A100]: 312 TFLOP/s
            mma_sync_share=1.0,  # [A100]: mma is its only way
            fma_lanes=64,  # [guide]
            integer_lanes=64,  # [guide]
            double_lanes=32,  # [guide]
            special_lanes=16,  # [guide]
            shared_bytes_per_clock=128,  # [A100]
            l2_bytes_per_clock=5120,  # [A100]
            memory_bytes_per_s=2.039e12,  # [A100], 80 GB
            memory_share=0.9,  # [assumed]
            shared_memory=164 << 10,  # [guide]
            block_shared_memory=163 << 10,  # [guide]
            l2_bytes=40 << 20,  # [A100]
        ),
        Machine(
            name="h100",  # SXM5, 80 GB
            arch="90a",
            capability=90,
            sms=132,  # [H100]
            clock_hz=1.755e9,  # under load [assumed]; the boost is 1.83e9 [H100]
            tensor_flop=4096,  # [H100]: 989.4 TFLOP/s at the boost
            mma_sync_share=0.63,  # [Luo]: 62.9 % on average, the rest needs wgmma
            fma_lanes=128,  # [guide]
            integer_lanes=64,  # [guide]
            double_lanes=64,  # [guide]
            special_lanes=16,  # [guide]
            shared_bytes_per_clock=128,  # [H100]
            l2_bytes_per_clock=5120,  # [PMC]: 8,986 GB/s at 1.755e9
            memory_bytes_per_s=3.352e12,  # [H100]
            memory_share=0.9,  # [assumed]: 3.0 TB/s
            shared_memory=228 << 10,  # [guide]
            block_shared_memory=227 << 10,  # [guide]
            l2_bytes=50 << 20,  # [H100]
        ),
    )
}
MACHINE_OF_ARCH = {machine.arch: machine for machine in MACHINES.values()}
