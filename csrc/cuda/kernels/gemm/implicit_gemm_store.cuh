// From the sums of a tile of the implicit GEMM through shared memory and the epilogue to the
// output, or, with gemm_k split, to the partial sums.
//
//   staged sums: row by row where the output's channels lie side by side, else column by column, so
//   that the threads of a warp read and store what lies side by side in both.
//   staged rows: where each row of the tile lies in the output; one thread decodes it for all.
//
// Where vectors are stored, the activation is a constant in the loop: a switch for each element
// would cost more than all the rest.
#pragma once

#include "cuda/device/epilogue.cuh"
#include "cuda/device/vector.cuh"
#include "cuda/kernels/gemm/implicit_gemm_params.cuh"

namespace fastconv::cuda {

// Elements from the first of the output, or of the partial sums, and of the residual.
struct alignas(16) StagedRow {
  int64_t out, residual;
};

template <typename Config>
struct StagedTile {
  // Of these pitches neither the accumulators' pairs along rows, nor single sums along columns, nor
  // 16-byte reads meet in one bank.
  static constexpr int kRowPitch = Config::kTileN + 8, kColumnPitch = Config::kTileM + 4;
  alignas(16) float sums[max_of(Config::kTileM * kRowPitch, Config::kTileN* kColumnPitch)];
  StagedRow rows[Config::kTileM];
};

// What is stored of a tile: its rows and columns that exist, and its first column's channel.
struct StoredPart {
  int rows, columns;
  int64_t channel;

  __device__ __forceinline__ StoredPart(const ImplicitGemmParams& params, const GemmBlock& block)
      : rows(params.phases[block.phase].gemm_m - block.row0),
        columns(params.gemm_n - block.column0),
        channel(static_cast<int64_t>(block.group) * params.gemm_n + block.column0) {}
};

__device__ __forceinline__ StagedRow staged_row(const ImplicitGemmParams& params,
                                                const GemmPhase& phase, int m) {
  uint32_t pixel, q;
  const int64_t n = phase.image.divmod(m, pixel);
  const int64_t h = static_cast<int>(phase.width.divmod(pixel, q)) * params.step_h + phase.first_h;
  const int64_t w = static_cast<int>(q) * params.step_w + phase.first_w;
  if (params.store == GemmStore::partial_sums) {
    const int64_t row = blockIdx.y * params.out_pixels + (n * params.out_h + h) * params.out_w + w;
    return {row * params.groups * params.gemm_n, 0};
  }
  const auto offset = [&](const Strides& strides) {
    return n * strides.n + h * strides.h + w * strides.w;
  };
  return {offset(params.out.strides), offset(params.epilogue.residual.strides)};
}

// Puts a warp's sums, and the rows' places, where all threads can read them; a barrier must follow.
template <typename Config>
__device__ __forceinline__ void stage_tile(const ImplicitGemmParams& params, const GemmBlock& block,
                                           const WarpTile<Config>& tile,
                                           StagedTile<Config>& staged) {
  using Staged = StagedTile<Config>;
  const WarpPlace<Config> place;
  if (params.store == GemmStore::pixels) {
    tile.for_each(place.lane, [&](int row, int column, float value) {
      staged.sums[(place.column + column) * Staged::kColumnPitch + place.row + row] = value;
    });
  } else {
    tile.for_each_pair(place.lane, [&](int row, int column, const Vector<float, 2>& pair) {
      store_vector(&staged.sums[(place.row + row) * Staged::kRowPitch + place.column + column],
                   pair);
    });
  }
  const GemmPhase& phase = params.phases[block.phase];
  for (int row = threadIdx.x; row < Config::kTileM; row += Config::kThreads) {
    if (block.row0 + row < phase.gemm_m) {
      staged.rows[row] = staged_row(params, phase, block.row0 + row);
    }
  }
}

// A channel's bias; -0 where there is none, which added to any sum leaves its bits.
template <typename T>
__device__ __forceinline__ float bias_or_nothing(const Epilogue& epilogue, int64_t channel) {
  return epilogue.bias == nullptr ? -0.0f
                                  : to_accumulator(static_cast<const T*>(epilogue.bias)[channel]);
}

// A thread stores 16-byte vectors of the same channels, in every kRowStep-th row.
template <typename Config, typename Activate>
__device__ __forceinline__ void store_vectors(const ImplicitGemmParams& params,
                                              const StoredPart& part,
                                              const StagedTile<Config>& staged,
                                              const Activate& activate_sum) {
  using T = typename Config::element_t;
  constexpr int kVector = Config::kVector, kVectors = Config::kTileN / kVector;
  constexpr int kRowStep = Config::kThreads / kVectors;
  static_assert(Config::kThreads % kVectors == 0);
  const int column = static_cast<int>(threadIdx.x) % kVectors * kVector;
  if (column >= part.columns) return;
  const int64_t channel = part.channel + column;
  T* const out = static_cast<T*>(params.out.data) + channel;
  const T* const residual = static_cast<const T*>(params.epilogue.residual.data);
  float bias[kVector];
#pragma unroll
  for (int e = 0; e < kVector; ++e) bias[e] = bias_or_nothing<T>(params.epilogue, channel + e);
  const int rows = min_of(part.rows, Config::kTileM);
#pragma unroll 2
  for (int row = static_cast<int>(threadIdx.x) / kVectors; row < rows; row += kRowStep) {
    const auto sums =
        load_vector<float, kVector>(&staged.sums[row * StagedTile<Config>::kRowPitch + column]);
    float z[kVector];
#pragma unroll
    for (int e = 0; e < kVector; ++e) z[e] = sums.v[e] + bias[e];
    if (residual != nullptr) {
      const auto added = load_vector<T, kVector>(residual + staged.rows[row].residual + channel);
#pragma unroll
      for (int e = 0; e < kVector; ++e) z[e] += to_accumulator(added.v[e]);
    }
    Vector<T, kVector> result;
#pragma unroll
    for (int e = 0; e < kVector; ++e) result.v[e] = from_accumulator<T>(activate_sum(z[e]));
    store_global(out + staged.rows[row].out, result);
  }
}

// Element by element, a warp's lanes along channels or along pixels.
template <typename Config, bool kAlongPixels>
__device__ __forceinline__ void store_elements(const ImplicitGemmParams& params,
                                               const StoredPart& part,
                                               const StagedTile<Config>& staged) {
  using T = typename Config::element_t;
  using Staged = StagedTile<Config>;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int rows = min_of(part.rows, Config::kTileM);
  const int columns = min_of(part.columns, Config::kTileN);
  const TensorView& residual = params.epilogue.residual;
  const auto store = [&](int row, int64_t channel, float bias, float sum) {
    float z = sum + bias;
    if (residual.data != nullptr) {
      z += to_accumulator(static_cast<const T*>(
          residual.data)[staged.rows[row].residual + channel * residual.strides.c]);
    }
    static_cast<T*>(params.out.data)[staged.rows[row].out + channel * params.out.strides.c] =
        from_accumulator<T>(activate(z, params.epilogue.activation));
  };
  constexpr int kWarps = Config::kThreads / kWarpSize;
  if constexpr (kAlongPixels) {
    for (int column = warp; column < columns; column += kWarps) {
      const int64_t channel = part.channel + column;
      const float bias = bias_or_nothing<T>(params.epilogue, channel);
#pragma unroll 1
      for (int row = lane; row < rows; row += kWarpSize) {
        store(row, channel, bias, staged.sums[column * Staged::kColumnPitch + row]);
      }
    }
  } else {
    for (int column = lane; column < columns; column += kWarpSize) {
      const int64_t channel = part.channel + column;
      const float bias = bias_or_nothing<T>(params.epilogue, channel);
#pragma unroll 1
      for (int row = warp; row < rows; row += kWarps) {
        store(row, channel, bias, staged.sums[row * Staged::kRowPitch + column]);
      }
    }
  }
}

// kVector sums of a row at a time, which gemm_n is a multiple of.
template <typename Config, int kVector>
__device__ __forceinline__ void store_partial_sums(const ImplicitGemmParams& params,
                                                   const StoredPart& part,
                                                   const StagedTile<Config>& staged) {
  constexpr int kVectors = Config::kTileN / kVector, kRowStep = Config::kThreads / kVectors;
  static_assert(Config::kThreads % kVectors == 0);
  const int column = static_cast<int>(threadIdx.x) % kVectors * kVector;
  if (column >= part.columns) return;
  const int rows = min_of(part.rows, Config::kTileM);
#pragma unroll 4
  for (int row = static_cast<int>(threadIdx.x) / kVectors; row < rows; row += kRowStep) {
    store_vector(
        params.partial + staged.rows[row].out + part.channel + column,
        load_vector<float, kVector>(&staged.sums[row * StagedTile<Config>::kRowPitch + column]));
  }
}

template <typename Config>
__device__ __forceinline__ void store_tile(const ImplicitGemmParams& params, const GemmBlock& block,
                                           const StagedTile<Config>& staged) {
  const StoredPart part(params, block);
  switch (params.store) {
    case GemmStore::vectors:
      return with_activation(params.epilogue.activation, [&](const auto& activate_sum) {
        store_vectors<Config>(params, part, staged, activate_sum);
      });
    case GemmStore::channels:
      return store_elements<Config, false>(params, part, staged);
    case GemmStore::pixels:
      return store_elements<Config, true>(params, part, staged);
    case GemmStore::partial_sums:
      if (params.gemm_n % 4 == 0) return store_partial_sums<Config, 4>(params, part, staged);
      return store_partial_sums<Config, 1>(params, part, staged);
  }
}

}  // namespace fastconv::cuda
