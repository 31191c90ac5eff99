// The arithmetic of an implicit GEMM tile: acc (kTileM x kTileN) += A (kTileM x slab) * B^T, where
// both operands lie in shared memory with their gemm_k elements side by side.
//
//   slab: 64 bytes of a row (32 16-bit elements or 16 floats), four 16-byte chunks; two steps deep.
//   Chunk c of row r lies at 64*r + 16*(c ^ (r/2)%4), so that the eight rows that ldmatrix reads,
//   and the eight that a quarter-warp writes, fall into different banks.
//
// ldmatrix hands 32-bit elements out as well: a row of a matrix is 16 bytes, four floats, and lane
// l receives float l%4 of row l/4, which is just what mma wants of TF32.
#pragma once

#include <cstdint>
#include <type_traits>

#include "cuda/device/ldmatrix.cuh"
#include "cuda/device/mma.cuh"
#include "cuda/device/vector.cuh"
#include "plan/cuda_plan.h"
#include "plan/implicit_gemm_geometry.h"

namespace fastconv::cuda {

template <CudaMath>
struct MathTraits;
template <>
struct MathTraits<CudaMath::fp16> {
  using element_t = __half;
  using mma_t = __half;
};
template <>
struct MathTraits<CudaMath::bf16> {
  using element_t = __nv_bfloat16;
  using mma_t = __nv_bfloat16;
};
template <>
struct MathTraits<CudaMath::tf32> {
  using element_t = float;
  using mma_t = tf32_t;
};
template <>
struct MathTraits<CudaMath::tf32x3> {
  using element_t = float;
  using mma_t = tf32_t;
};

constexpr int kWarpSize = 32;
constexpr int kChunkBytes = 16;
constexpr int kSlabChunks = kGemmSlabBytes / kChunkBytes;
constexpr int kStepsPerSlab = 2;  // one step: mma's depth, 32 bytes of a row
constexpr int kMmaM = 16, kMmaN = 8;

// A position that every tap finds outside of the tensor: no extent reaches 2^30, and two of these
// still fit an int.
constexpr int kNowhere = -(1 << 30);

// Compile-time facts of a tile.
template <CudaMath kMath, GemmKernel kKernel>
struct GemmConfig {
  using element_t = typename MathTraits<kMath>::element_t;
  static constexpr CudaMath kMathMode = kMath;
  static constexpr GemmTile kTile = tile_of(kKernel);
  static constexpr int kTileM = kTile.m, kTileN = kTile.n;
  static constexpr int kWarpsM = kTile.warps_m, kWarpsN = kTile.warps_n;
  static constexpr int kThreads = kWarpsM * kWarpsN * kWarpSize;
  static constexpr int kWarpM = kTileM / kWarpsM, kWarpN = kTileN / kWarpsN;
  static constexpr int kTileK = kGemmSlabBytes / static_cast<int>(sizeof(element_t));
  static constexpr int kVector = kChunkBytes / static_cast<int>(sizeof(element_t));
  static constexpr int kBlocksPerSm = warps_per_sm(kTile) * kWarpSize / kThreads;
};

// Byte offset of a chunk in a slab.
__device__ __forceinline__ int slab_offset(int row, int chunk) {
  return row * kGemmSlabBytes + (chunk ^ ((row >> 1) & (kSlabChunks - 1))) * kChunkBytes;
}

// value = big + small, both TF32, big rounded to nearest; what is lost is below 2^-21 of the value.
//
// kGuarded is slower and gives big and small for every value, except that small of an infinity is
// NaN. Without it the parts are those of a finite value that does not round beyond TF32's largest
// number; of all others, NaN included, small is NaN or has the opposite infinity, and so makes the
// sum NaN. small is truncated; its sign is as often the value's as not, so that this has no
// direction.
template <bool kGuarded>
__device__ __forceinline__ void split_tf32(uint32_t value, uint32_t& big, uint32_t& small) {
  constexpr uint32_t kMantissaRest = (1u << 13) - 1, kHalf = 1u << 12;
  const float whole = __uint_as_float(value);
  if constexpr (kGuarded) {
    big = round_to_tf32(whole);
    if (fabsf(whole) < HUGE_VALF && !(fabsf(__uint_as_float(big)) < HUGE_VALF)) {
      big = value & ~kMantissaRest;
    }
    small = round_to_tf32(whole - __uint_as_float(big));
  } else {
    big = (value + kHalf) & ~kMantissaRest;
    small = truncate_to_tf32(whole - __uint_as_float(big));
  }
}

// The part of a tile that one warp sums: kWarpM x kWarpN, in the layout of mma's accumulators.
template <typename Config>
struct WarpTile {
  static constexpr CudaMath kMath = Config::kMathMode;
  static constexpr int kRows = Config::kWarpM / kMmaM, kColumns = Config::kWarpN / kMmaN;
  using mma_t = typename MathTraits<kMath>::mma_t;
  using FragmentsA = uint32_t[kRows][4];
  using FragmentsB = uint32_t[kColumns][2];

  using Sums = float[kRows][kColumns][4];

  Sums acc = {};

  __device__ __forceinline__ static void multiply_all(Sums& sums, const FragmentsA& a,
                                                      const FragmentsB& b) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) mma<mma_t>(sums[i][j], a[i], b[j]);
    }
  }

  // Adds one step of fragments, which it rounds. tf32x3 adds the small products first. An infinite
  // factor makes them NaN, and kGuarded drops those: `sums` must be of this step alone.
  template <bool kGuarded>
  __device__ __forceinline__ static void multiply(Sums& sums, FragmentsA& a, FragmentsB& b) {
    if constexpr (kMath == CudaMath::tf32x3) {
      FragmentsA a_small;
      FragmentsB b_small;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) split_tf32<kGuarded>(a[i][e], a[i][e], a_small[i][e]);
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) split_tf32<kGuarded>(b[j][e], b[j][e], b_small[j][e]);
      }
      multiply_all(sums, a_small, b);
      multiply_all(sums, a, b_small);
      if constexpr (kGuarded) {
        for_each_sum([&](int i, int j, int e) {
          if (sums[i][j][e] != sums[i][j][e]) sums[i][j][e] = 0.0f;
        });
      }
    } else if constexpr (kMath == CudaMath::tf32) {
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) a[i][e] = round_to_tf32(__uint_as_float(a[i][e]));
      }
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) b[j][e] = round_to_tf32(__uint_as_float(b[j][e]));
      }
    }
    multiply_all(sums, a, b);
  }

  // Runs both steps of a slab. load(step, a, b) fills the fragments. The tensor cores truncate
  // where they add: for tf32x3 they add within the slab only (kGuarded: the step), and these sums
  // are added by FADD, which rounds to nearest.
  template <bool kGuarded, typename Load>
  __device__ __forceinline__ void add_steps(const Load& load) {
    FragmentsA a;
    FragmentsB b;
    if constexpr (kMath == CudaMath::tf32x3) {
      constexpr int kSteps = kGuarded ? 1 : kStepsPerSlab;
      // Unrolled, the guarded loop, which is rare, would need more registers than there are.
#pragma unroll 1
      for (int first = 0; first < kStepsPerSlab; first += kSteps) {
        Sums sums = {};
#pragma unroll
        for (int step = first; step < first + kSteps; ++step) {
          load(step, a, b);
          multiply<kGuarded>(sums, a, b);
        }
        for_each_sum([&](int i, int j, int e) { acc[i][j][e] += sums[i][j][e]; });
      }
    } else {
#pragma unroll
      for (int step = 0; step < kStepsPerSlab; ++step) {
        load(step, a, b);
        multiply<false>(acc, a, b);
      }
    }
  }

  // A slab of both operands in shared memory; a and b are the first rows of this warp's parts.
  template <bool kGuarded>
  __device__ __forceinline__ void add_slab(const unsigned char* a_slab, const unsigned char* b_slab,
                                           int lane) {
    // Matrices of A: (rows 0-7, 8-15) x (chunk 0, 1). Of B: (chunk 0, 1) x (columns 0-7, 8-15).
    // Sixteen rows on, the swizzle is the same; a step on, the chunk's second bit flips.
    const int a_offset = slab_offset(lane % 8 + lane / 8 % 2 * 8, lane / 16);
    const int b_offset = slab_offset(lane % 8 + lane / 16 * 8, lane / 8 % 2);
    constexpr int kStepBytes = kGemmSlabBytes / kStepsPerSlab;
    add_steps<kGuarded>([&](int step, FragmentsA& a, FragmentsB& b) {
      const unsigned char* const a_rows = a_slab + (a_offset ^ (step * kStepBytes));
      const unsigned char* const b_rows = b_slab + (b_offset ^ (step * kStepBytes));
#pragma unroll
      for (int i = 0; i < kRows; ++i) ldmatrix(a[i], a_rows + i * kMmaM * kGemmSlabBytes);
#pragma unroll
      for (int j = 0; j < kColumns; j += 2) {
        uint32_t pair[4];
        ldmatrix(pair, b_rows + j * kMmaN * kGemmSlabBytes);
        b[j][0] = pair[0], b[j][1] = pair[1];
        b[j + 1][0] = pair[2], b[j + 1][1] = pair[3];
      }
    });
  }

  // Calls body(i, j, e) for each sum of a thread.
  template <typename Body>
  __device__ __forceinline__ static void for_each_sum(const Body& body) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
#pragma unroll
      for (int j = 0; j < kColumns; ++j) {
#pragma unroll
        for (int e = 0; e < 4; ++e) body(i, j, e);
      }
    }
  }

  // Calls store(row, column, value) for each sum, rows and columns counted in the warp's part.
  template <typename Store>
  __device__ __forceinline__ void for_each(int lane, const Store& store) const {
    for_each_sum([&](int i, int j, int e) {
      store(i * kMmaM + lane / 4 + e / 2 * 8, j * kMmaN + lane % 4 * 2 + e % 2, acc[i][j][e]);
    });
  }

  // The same for two neighbours of a row at a time.
  template <typename Store>
  __device__ __forceinline__ void for_each_pair(int lane, const Store& store) const {
    for_each_sum([&](int i, int j, int e) {
      if (e % 2 == 0) {
        store(i * kMmaM + lane / 4 + e / 2 * 8, j * kMmaN + lane % 4 * 2,
              Vector<float, 2>{acc[i][j][e], acc[i][j][e + 1]});
      }
    });
  }

  __device__ __forceinline__ bool has_nan() const {
    bool nan = false;
    for_each_sum([&](int i, int j, int e) { nan = nan | (acc[i][j][e] != acc[i][j][e]); });
    return nan;
  }
};

// The sums of a tile by the main loop run(constant kGuarded, tile). Where tf32x3 gives a NaN, some
// factor is infinite or NaN and its small products have hidden what float32 would give: the tile is
// summed again, guarded. Every thread of the block must come here.
template <typename Config, typename Run>
__device__ __forceinline__ WarpTile<Config> sum_tile(const Run& run) {
  WarpTile<Config> tile;
  run(std::false_type{}, tile);
  if constexpr (Config::kMathMode == CudaMath::tf32x3) {
    if (__syncthreads_or(tile.has_nan())) {
      tile = {};
      run(std::true_type{}, tile);
    }
  }
  return tile;
}

// A warp's place in the tile.
template <typename Config>
struct WarpPlace {
  int row, column, lane;

  __device__ __forceinline__ WarpPlace() {
    const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
    row = warp / Config::kWarpsN * Config::kWarpM;
    column = warp % Config::kWarpsN * Config::kWarpN;
    lane = static_cast<int>(threadIdx.x) % kWarpSize;
  }
};

}  // namespace fastconv::cuda
