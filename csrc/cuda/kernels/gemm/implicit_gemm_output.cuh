// From the sums of a tile of a GEMM of output channels through shared memory and the epilogue to
// the output, or, with gemm_k split, to the partial sums.
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
#include "cuda/kernels/gemm/implicit_gemm_tile.cuh"
#include "problem/epilogue.h"

namespace fastconv::cuda {

// How a tile of results is stored: in 16-byte vectors of channels, or element by element with
// neighbouring threads along channels or along pixels; or as the partial sums of a split gemm_k, in
// 16-byte vectors or one by one.
enum class GemmStore { vectors, channels, pixels, partial_vectors, partial_sums };

struct GemmOutput {
  TensorView out;
  Epilogue epilogue;
  GemmStore store = GemmStore::channels;
  float* partial = nullptr;  // (slice, output pixel, group, column), or null
};

// Elements from the first of the output, or of the partial sums, and of the residual. A row that
// does not exist has a negative `out`.
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

// Puts a warp's sums where all threads can read them; a barrier must follow.
template <typename Config>
__device__ __forceinline__ void stage_sums(GemmStore store, const WarpTile<Config>& tile,
                                           StagedTile<Config>& staged) {
  using Staged = StagedTile<Config>;
  const WarpPlace<Config> place;
  if (store == GemmStore::pixels) {
    tile.for_each(place.lane, [&](int row, int column, float value) {
      staged.sums[(place.column + column) * Staged::kColumnPitch + place.row + row] = value;
    });
  } else {
    tile.for_each_pair(place.lane, [&](int row, int column, const Vector<float, 2>& pair) {
      store_vector(&staged.sums[(place.row + row) * Staged::kRowPitch + place.column + column],
                   pair);
    });
  }
}

// The columns that a tile stores, and the channel of the first one.
struct StoredPart {
  int columns;
  int64_t channel;
};

// A channel's bias; -0 where there is none, which added to any sum leaves its bits.
template <typename T>
__device__ __forceinline__ float bias_or_nothing(const Epilogue& epilogue, int64_t channel) {
  return epilogue.bias == nullptr ? -0.0f
                                  : to_accumulator(static_cast<const T*>(epilogue.bias)[channel]);
}

// A thread stores 16-byte vectors of the same channels, in every kRowStep-th row.
template <typename Config, typename Activate>
__device__ __forceinline__ void store_vectors(const GemmOutput& output, const StoredPart& part,
                                              const StagedTile<Config>& staged,
                                              const Activate& activate_sum) {
  using T = typename Config::element_t;
  constexpr int kVector = Config::kVector, kVectors = Config::kTileN / kVector;
  constexpr int kRowStep = Config::kThreads / kVectors;
  static_assert(Config::kThreads % kVectors == 0);
  const int column = static_cast<int>(threadIdx.x) % kVectors * kVector;
  if (column >= part.columns) return;
  const int64_t channel = part.channel + column;
  T* const out = static_cast<T*>(output.out.data) + channel;
  const T* const residual = static_cast<const T*>(output.epilogue.residual.data);
  float bias[kVector];
#pragma unroll
  for (int e = 0; e < kVector; ++e) bias[e] = bias_or_nothing<T>(output.epilogue, channel + e);
#pragma unroll 2
  for (int row = static_cast<int>(threadIdx.x) / kVectors; row < Config::kTileM; row += kRowStep) {
    const StagedRow at = staged.rows[row];
    if (at.out < 0) continue;
    const auto sums =
        load_vector<float, kVector>(&staged.sums[row * StagedTile<Config>::kRowPitch + column]);
    float z[kVector];
#pragma unroll
    for (int e = 0; e < kVector; ++e) z[e] = sums.v[e] + bias[e];
    if (residual != nullptr) {
      const auto added = load_vector<T, kVector>(residual + at.residual + channel);
#pragma unroll
      for (int e = 0; e < kVector; ++e) z[e] += to_accumulator(added.v[e]);
    }
    Vector<T, kVector> result;
#pragma unroll
    for (int e = 0; e < kVector; ++e) result.v[e] = from_accumulator<T>(activate_sum(z[e]));
    store_global(out + at.out, result);
  }
}

// Element by element, a warp's lanes along channels or along pixels.
template <typename Config, bool kAlongPixels>
__device__ __forceinline__ void store_elements(const GemmOutput& output, const StoredPart& part,
                                               const StagedTile<Config>& staged) {
  using T = typename Config::element_t;
  using Staged = StagedTile<Config>;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int columns = min_of(part.columns, Config::kTileN);
  const TensorView& residual = output.epilogue.residual;
  const auto store = [&](int row, int64_t channel, float bias, float sum) {
    const StagedRow at = staged.rows[row];
    if (at.out < 0) return;
    float z = sum + bias;
    if (residual.data != nullptr) {
      z += to_accumulator(
          static_cast<const T*>(residual.data)[at.residual + channel * residual.strides.c]);
    }
    static_cast<T*>(output.out.data)[at.out + channel * output.out.strides.c] =
        from_accumulator<T>(activate(z, output.epilogue.activation));
  };
  constexpr int kWarps = Config::kThreads / kWarpSize;
  if constexpr (kAlongPixels) {
    for (int column = warp; column < columns; column += kWarps) {
      const int64_t channel = part.channel + column;
      const float bias = bias_or_nothing<T>(output.epilogue, channel);
#pragma unroll 1
      for (int row = lane; row < Config::kTileM; row += kWarpSize) {
        store(row, channel, bias, staged.sums[column * Staged::kColumnPitch + row]);
      }
    }
  } else {
    for (int column = lane; column < columns; column += kWarpSize) {
      const int64_t channel = part.channel + column;
      const float bias = bias_or_nothing<T>(output.epilogue, channel);
#pragma unroll 1
      for (int row = warp; row < Config::kTileM; row += kWarps) {
        store(row, channel, bias, staged.sums[row * Staged::kRowPitch + column]);
      }
    }
  }
}

// kVector sums of a row at a time, of which there are whole ones.
template <typename Config, int kVector>
__device__ __forceinline__ void store_partial_sums(const GemmOutput& output, const StoredPart& part,
                                                   const StagedTile<Config>& staged) {
  constexpr int kVectors = Config::kTileN / kVector, kRowStep = Config::kThreads / kVectors;
  static_assert(Config::kThreads % kVectors == 0);
  const int column = static_cast<int>(threadIdx.x) % kVectors * kVector;
  if (column >= part.columns) return;
#pragma unroll 4
  for (int row = static_cast<int>(threadIdx.x) / kVectors; row < Config::kTileM; row += kRowStep) {
    const StagedRow at = staged.rows[row];
    if (at.out < 0) continue;
    store_vector(
        output.partial + at.out + part.channel + column,
        load_vector<float, kVector>(&staged.sums[row * StagedTile<Config>::kRowPitch + column]));
  }
}

template <typename Config>
__device__ __forceinline__ void store_tile(const GemmOutput& output, const StoredPart& part,
                                           const StagedTile<Config>& staged) {
  switch (output.store) {
    case GemmStore::vectors:
      return with_activation(output.epilogue.activation, [&](const auto& activate_sum) {
        store_vectors<Config>(output, part, staged, activate_sum);
      });
    case GemmStore::channels:
      return store_elements<Config, false>(output, part, staged);
    case GemmStore::pixels:
      return store_elements<Config, true>(output, part, staged);
    case GemmStore::partial_vectors:
      return store_partial_sums<Config, 4>(output, part, staged);
    case GemmStore::partial_sums:
      return store_partial_sums<Config, 1>(output, part, staged);
  }
}

}  // namespace fastconv::cuda
