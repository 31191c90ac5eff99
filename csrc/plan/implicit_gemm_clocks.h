// How long the implicit GEMM's kernels take, in clocks of a multiprocessor, to choose among tiles
// and splits. Only ratios matter to the choice. Instructions are counted in the machine code, their
// clocks are an H100's; nothing here was measured on a GPU.
#pragma once

#include <algorithm>
#include <cstdint>

#include "plan/implicit_gemm_geometry.h"
#include "problem/math.h"

namespace fastconv {

// Of mma.sync's m16n8k16 (TF32: m16n8k8) on one of the four sub-partitions.
constexpr double kMmaClocks = 6.4;
constexpr int kSubPartitions = 4;
// Shared memory moves so many bytes a clock. An ldmatrix of four matrices is 512 bytes.
constexpr double kSharedBytesPerClock = 128, kFragmentBytes = 512;
// A multiprocessor's part of what L2 gives in a clock while all ask.
constexpr double kL2BytesPerClock = 38.8;
// Instructions of a warp for one slab where it loads element by element, and for each element.
constexpr double kElementGatherInstructions = 130, kElementInstructions = 8;
// What a block waits for in every slab unless others work meanwhile: barrier and fragments.
constexpr double kSlabLatency = 200;
// To fill a block's pipeline and to store its tile.
constexpr double kBlockClocks = 2500;
// To start another kernel after the last block; bytes of partial sums, mostly in L2, that the whole
// device writes or reads in a clock, and bytes of memory.
constexpr double kLaunchClocks = 4000, kPartialBytesPerClock = 3000;
constexpr double kMemoryBytesPerClock = 1700;

// Of the busiest unit of a multiprocessor, for one slab of a tile, of which lanes load
// single_elements one by one.
inline double slab_clocks(const GemmTile& tile, CudaMath math, double single_elements) {
  constexpr double kSteps = 2, kMmaM = 16, kMmaN = 8, kLanes = 32;
  const double warps = tile.warps_m * tile.warps_n;
  const double products = math == CudaMath::tf32x3 ? 3 : 1;
  const double mmas = tile.m / kMmaM * (tile.n / kMmaN) * kSteps * products;
  const double fragments =
      warps * kSteps * (tile.m / tile.warps_m / kMmaM + tile.n / tile.warps_n / (2 * kMmaN));
  const double slab_bytes = (tile.m + tile.n) * kGemmSlabBytes;
  const double shared_bytes = fragments * kFragmentBytes + slab_bytes;
  const double instructions =
      single_elements == 0
          ? 0
          : warps * kElementGatherInstructions + single_elements / kLanes * kElementInstructions;
  return std::max({mmas * kMmaClocks / kSubPartitions, shared_bytes / kSharedBytesPerClock,
                   slab_bytes / kL2BytesPerClock, instructions / kSubPartitions});
}

// Blocks of a tile that share a multiprocessor. Its shared memory is what one block can get and
// what CUDA keeps for that block.
inline int64_t resident_blocks(const GemmTile& tile, const CudaDevice& device) {
  constexpr int64_t kReservedBytes = 1 << 10;  // kept for each block
  constexpr int64_t kTableBytes = 4 << 10;  // of rows or pixels, beside the ring of slabs; at most
  const int64_t by_registers = warps_per_sm(tile) / (tile.warps_m * tile.warps_n);
  const int64_t bytes = static_cast<int64_t>(tile.m + tile.n) * kGemmSlabBytes * kGemmStages +
                        kTableBytes + kReservedBytes;
  const int64_t by_memory = (device.shared_memory + kReservedBytes) / bytes;
  return std::max<int64_t>(std::min(by_registers, by_memory), 1);
}

// What there is to do with one tile, without splits.
struct GemmWork {
  int64_t blocks = 0;
  double slabs = 0;  // of a block, on average
};

// Until the last multiprocessor has stored its tiles. Blocks that share one share its busiest unit
// and hide each other's waiting.
inline double gemm_clocks(const GemmTile& tile, double clocks_of_slab, const GemmWork& work,
                          int64_t splits, const CudaDevice& device) {
  const double slabs = work.slabs / static_cast<double>(splits);
  const int64_t blocks = div_up(work.blocks * splits, std::max<int64_t>(device.sm_count, 1));
  const int64_t rounds = div_up(blocks, resident_blocks(tile, device));
  const double busy = static_cast<double>(blocks) * slabs * clocks_of_slab + kBlockClocks;
  // A block of fewer warps than sub-partitions leaves some of them to others.
  const double used = std::min(tile.warps_m * tile.warps_n, kSubPartitions);
  const double alone =
      slabs * (clocks_of_slab * kSubPartitions / used + kSlabLatency) + kBlockClocks;
  return std::max(busy, static_cast<double>(rounds) * alone);
}

// To start a kernel that copies tensors of so many bytes, and what memory takes to read and write
// them.
inline double copy_clocks(int64_t bytes) {
  return kLaunchClocks + 2.0 * static_cast<double>(bytes) / kMemoryBytesPerClock;
}

inline double reduce_clocks(int64_t slice_bytes, int64_t splits) {
  return kLaunchClocks + 2.0 * static_cast<double>(slice_bytes) * static_cast<double>(splits) /
                             kPartialBytesPerClock;
}

}  // namespace fastconv
