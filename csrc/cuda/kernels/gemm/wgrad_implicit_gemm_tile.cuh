// What wgrad as an implicit GEMM is told (conv2d_wgrad_implicit_gemm.cuh), its operands in shared
// memory, and how a warp multiplies a slab of them.
#pragma once

#include "cuda/device/fast_divmod.cuh"
#include "cuda/kernels/gemm/implicit_gemm_tile.cuh"

namespace fastconv::cuda {

struct WgradGemmParams {
  TensorView x, dy;
  float* partial = nullptr;  // (slice, group, gemm_m, gemm_n)
  int64_t slice_elements = 0;
  int64_t dy_pixel = 0;  // stride from pixel to pixel of dy, where it is read in vectors
  // Of fprop's axes: problem/gather_axis.h.
  int source_h = 0, source_w = 0, source_first_h = 0, source_first_w = 0;
  int source_step_h = 1, source_step_w = 1, tap_offset_h = 1, tap_offset_w = 1;
  int taps_h = 1;
  int gemm_m = 0, gemm_n = 0, gemm_k = 0;
  int splits = 1;
  FastDivmod channels, taps_w;  // of gemm_n
  FastDivmod image, width;      // of gemm_k: P*Q, Q
  FastDivmod tiles_m, tiles_n;
};

// What a block has to do: blockIdx.x = (group, tile along m, tile along n), blockIdx.y = slice.
struct WgradBlock {
  int group, row0, column0, slab_begin, slab_end;

  template <typename Config>
  __device__ __forceinline__ static WgradBlock locate(const WgradGemmParams& params) {
    uint32_t tile_m, tile_n;
    WgradBlock block;
    block.group = params.tiles_m.divmod(params.tiles_n.divmod(blockIdx.x, tile_n), tile_m);
    block.row0 = static_cast<int>(tile_m) * Config::kTileM;
    block.column0 = static_cast<int>(tile_n) * Config::kTileN;
    const int slabs = div_up(params.gemm_k, Config::kTileK);
    const int slice_slabs = div_up(slabs, params.splits);
    block.slab_begin = min_of(static_cast<int>(blockIdx.y) * slice_slabs, slabs);
    block.slab_end = min_of(block.slab_begin + slice_slabs, slabs);
    return block;
  }
};

// Shared memory of one operand: kTileK rows of kColumns elements.
template <typename T, int kColumns>
struct WgradSlab {
  static constexpr bool kTransposes = sizeof(T) == 2;
  static constexpr int kVector = kChunkBytes / static_cast<int>(sizeof(T));
  static constexpr int kChunks = kColumns / kVector;
  static constexpr int kPitch = kTransposes ? kColumns : kColumns + 8;
  static constexpr int kTileK = kGemmSlabBytes / static_cast<int>(sizeof(T));
  alignas(kChunkBytes) T elements[kTileK * kPitch];

  __device__ __forceinline__ static int offset(int row, int chunk) {
    return row * kPitch + (kTransposes ? chunk ^ (row & 7) : chunk) * kVector;
  }
  __device__ __forceinline__ T* chunk(int row, int chunk) { return elements + offset(row, chunk); }
  __device__ __forceinline__ const T* chunk(int row, int chunk) const {
    return elements + offset(row, chunk);
  }
};

// The chunks of a slab that one thread moves: item j of kItems is chunk `chunk` of row `row`.
template <typename Config, int kColumns, bool kVectorised>
struct WgradItems {
  using Slab = WgradSlab<typename Config::element_t, kColumns>;
  static constexpr int kItems = Slab::kTileK * Slab::kChunks / Config::kThreads;
  static_assert(Slab::kTileK * Slab::kChunks % Config::kThreads == 0);

  // Lanes along the row where a row's chunks are adjacent in memory, else along pixels.
  __device__ __forceinline__ static int row(int j) {
    const int item = static_cast<int>(threadIdx.x) + j * Config::kThreads;
    return kVectorised ? item / Slab::kChunks : item % Slab::kTileK;
  }
  __device__ __forceinline__ static int chunk(int j) {
    const int item = static_cast<int>(threadIdx.x) + j * Config::kThreads;
    return kVectorised ? item % Slab::kChunks : item / Slab::kTileK;
  }
};

template <bool kGuarded, typename Config>
__device__ __forceinline__ void wgrad_add_slab(
    const WgradSlab<typename Config::element_t, Config::kTileM>& dy,
    const WgradSlab<typename Config::element_t, Config::kTileN>& x, WarpTile<Config>& tile) {
  using Tile = WarpTile<Config>;
  const WarpPlace<Config> place;
  const int lane = place.lane;
  if constexpr (sizeof(typename Config::element_t) == 2) {
    constexpr int kStepRows = 16;
    // Matrices of A: (k 0-7, 8-15) x (m 0-7, 8-15), m first. Of B: (k 0-7, 8-15) x (n 0-7, 8-15).
    const int a_k = lane % 8 + lane / 16 * 8, a_chunk = lane / 8 % 2;
    const int b_k = lane % 8 + lane / 8 % 2 * 8, b_chunk = lane / 16;
    tile.template add_steps<kGuarded>(
        [&](int step, typename Tile::FragmentsA& a, typename Tile::FragmentsB& b) {
#pragma unroll
          for (int i = 0; i < Tile::kRows; ++i) {
            const int chunk = (place.row + i * kMmaM) / 8 + a_chunk;
            ldmatrix_transposed(a[i], dy.chunk(step * kStepRows + a_k, chunk));
          }
#pragma unroll
          for (int j = 0; j < Tile::kColumns; j += 2) {
            const int chunk = (place.column + j * kMmaN) / 8 + b_chunk;
            uint32_t pair[4];
            ldmatrix_transposed(pair, x.chunk(step * kStepRows + b_k, chunk));
            b[j][0] = pair[0], b[j][1] = pair[1];
            b[j + 1][0] = pair[2], b[j + 1][1] = pair[3];
          }
        });
  } else {
    constexpr int kStepRows = 8;
    const int g = lane / 4, t = lane % 4;
    const float* const a_words = dy.elements + place.row + g;
    const float* const b_words = x.elements + place.column + g;
    tile.template add_steps<kGuarded>([&](int step, typename Tile::FragmentsA& a,
                                          typename Tile::FragmentsB& b) {
      const int k = step * kStepRows + t;
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          a[i][e] = __float_as_uint(a_words[(k + e / 2 * 4) * dy.kPitch + i * kMmaM + e % 2 * 8]);
        }
      }
#pragma unroll
      for (int j = 0; j < Tile::kColumns; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          b[j][e] = __float_as_uint(b_words[(k + e * 4) * x.kPitch + j * kMmaN]);
        }
      }
    });
  }
}

}  // namespace fastconv::cuda
