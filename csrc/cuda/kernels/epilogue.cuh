// The epilogue on its own.
//   fwd: y = activation(z + bias[k] + residual)
//   bwd: dz = dy * activation'(saved), db[k] = sum of dz over n, p, q, in one pass over dy
// `saved` is the activated output for the activations whose slope it tells, else the
// pre-activation: problem/activation.h. Sums are of dz before it is rounded, in a fixed order:
//
//     positions ->  | slice 0 | slice 1 | slice 2 |      a block sums one slice of `lanes` (vectors
//     channels v    | block   | block   | block   |      of) channels, each thread every
//                   | block   | block   | block   |      (256 / lanes)-th position of it; a tree in
//     partials      | [0][k]  | [1][k]  | [2][k]  |      shared memory joins its threads, and
//                                                        epilogue_bias_reduce the slices.
//
// kVector elements move at once: adjacent channels (channels_last) or adjacent columns (NCHW;
// planes without gaps are one row). With kVector 1 strides are any.
//
// Bound: bytes. fwd (2 + residual) * sizeof(T) an element; bwd 3 * sizeof(T), one less without
// activation or without dz. FLOPs: a few an element; exponentials for the smooth activations.
#pragma once

#include "cuda/device/element_grid.cuh"
#include "cuda/device/numeric.cuh"
#include "cuda/device/shared_memory.cuh"
#include "cuda/device/vector.cuh"
#include "problem/activation.h"
#include "problem/epilogue.h"

namespace fastconv::cuda {

constexpr int kEpilogueThreads = 256;

struct EpilogueForwardParams {
  TensorView z, y;
  Epilogue epilogue;
  ElementGrid grid;
  int channel_step = 1, column_step = 1;  // elements of a vector along channels or along columns
};

template <typename T, int kVector>
__global__ void __launch_bounds__(kEpilogueThreads, 4)
    epilogue_forward_kernel(const __grid_constant__ EpilogueForwardParams params) {
  using A = accumulator_t<T>;
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kEpilogueThreads + threadIdx.x;
  if (index >= params.grid.size()) return;
  const GridPosition at = params.grid.at(index);
  const int64_t k = at.c * params.channel_step, q = at.w * params.column_step;
  const Epilogue& epilogue = params.epilogue;

  const auto z = load_vector<T, kVector>(params.z.at<const T>(at.n, k, at.h, q));
  A sums[kVector];
#pragma unroll
  for (int v = 0; v < kVector; ++v) sums[v] = to_accumulator(z.v[v]);
  if (epilogue.bias != nullptr) {
    const T* const bias = static_cast<const T*>(epilogue.bias) + k;
#pragma unroll
    for (int v = 0; v < kVector; ++v) {
      sums[v] += to_accumulator(bias[params.channel_step > 1 ? v : 0]);
    }
  }
  if (epilogue.residual.data != nullptr) {
    const auto residual = load_vector<T, kVector>(epilogue.residual.at<const T>(at.n, k, at.h, q));
#pragma unroll
    for (int v = 0; v < kVector; ++v) sums[v] += to_accumulator(residual.v[v]);
  }
  Vector<T, kVector> y;
#pragma unroll
  for (int v = 0; v < kVector; ++v) {
    y.v[v] = from_accumulator<T>(activate(sums[v], epilogue.activation));
  }
  store_global(params.y.at<T>(at.n, k, at.h, q), y);
}

// What has one position is a vector: column_step adjacent elements of a channel, or one element
// each of channel_step adjacent channels.
struct EpilogueBackwardParams {
  TensorView dy, saved, dz;
  Activation activation;
  void* partials = nullptr;  // [slice][k], in accumulator type; null where db is not wanted
  int64_t K = 0;
  int64_t channels = 0;         // K / channel_step
  int64_t positions = 0;        // of one channel
  int64_t slice_positions = 0;  // that a block sums
  Divider by_plane, by_row;
  FastDivmod by_channel_blocks;
  int lanes = 1;  // vectors of channels of one block, a power of two
  int channel_step = 1, column_step = 1;
};

template <typename A, int kVector>
struct EpilogueSharedSums {
  A sums[kVector][kEpilogueThreads];
};

// Adds up the sums of the threads whose numbers are equal modulo `lanes`, in the order of a tree.
// The first `lanes` threads get the results. Every thread of the block must call it.
template <typename A, int kVector>
__device__ __forceinline__ void join_positions(A (&sums)[kVector], int lanes) {
  auto& shared = shared_storage<EpilogueSharedSums<A, kVector>>();
  const int thread = static_cast<int>(threadIdx.x);
#pragma unroll
  for (int v = 0; v < kVector; ++v) shared.sums[v][thread] = sums[v];
  for (int half = kEpilogueThreads / 2; half >= lanes; half /= 2) {
    __syncthreads();
    if (thread < half) {
#pragma unroll
      for (int v = 0; v < kVector; ++v) shared.sums[v][thread] += shared.sums[v][thread + half];
    }
  }
#pragma unroll
  for (int v = 0; v < kVector; ++v) sums[v] = shared.sums[v][thread];
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kEpilogueThreads, 4)
    epilogue_backward_kernel(const __grid_constant__ EpilogueBackwardParams params) {
  using A = accumulator_t<T>;
  uint32_t channel_block;
  const int64_t slice = params.by_channel_blocks.divmod(blockIdx.x, channel_block);
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread & (params.lanes - 1), row = thread / params.lanes;
  const int rows = kEpilogueThreads / params.lanes;
  const int64_t channel = static_cast<int64_t>(channel_block) * params.lanes + lane;
  const bool owns = channel < params.channels;
  const int64_t k = channel * params.channel_step;

  A sums[kVector] = {};
  const int64_t end = owns ? min_of((slice + 1) * params.slice_positions, params.positions) : 0;
  for (int64_t position = slice * params.slice_positions + row; position < end; position += rows) {
    int64_t within, q;
    const int64_t n = params.by_plane.divmod(position, within);
    const int64_t p = params.by_row.divmod(within, q);
    q *= params.column_step;
    const auto dy = load_vector<T, kVector>(params.dy.at<const T>(n, k, p, q));
    A dz[kVector];
#pragma unroll
    for (int v = 0; v < kVector; ++v) dz[v] = to_accumulator(dy.v[v]);
    if (params.activation.kind != ActivationKind::none) {
      const auto saved = load_vector<T, kVector>(params.saved.at<const T>(n, k, p, q));
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        dz[v] = activation_gradient(dz[v], to_accumulator(saved.v[v]), params.activation);
      }
    }
#pragma unroll
    for (int v = 0; v < kVector; ++v) sums[v] += dz[v];
    if (params.dz.data != nullptr) {
      Vector<T, kVector> rounded;
#pragma unroll
      for (int v = 0; v < kVector; ++v) rounded.v[v] = from_accumulator<T>(dz[v]);
      store_global(params.dz.at<T>(n, k, p, q), rounded);
    }
  }
  if (params.partials == nullptr) return;

  join_positions(sums, params.lanes);
  if (row != 0 || !owns) return;
  A* const partials = static_cast<A*>(params.partials) + slice * params.K + k;
  if (params.column_step > 1) {  // the vector's elements are of one channel
#pragma unroll
    for (int v = 1; v < kVector; ++v) sums[0] += sums[v];
    partials[0] = sums[0];
  } else {
#pragma unroll
    for (int v = 0; v < kVector; ++v) partials[v] = sums[v];
  }
}

struct EpilogueReduceParams {
  const void* partials = nullptr;  // [slice][k]
  void* db = nullptr;
  int64_t K = 0, splits = 0;
};

// Channels of a block: 32 bytes of float32, the least that is fetched from memory.
constexpr int kReduceChannels = 8;

// db[k] = the sum of its slices: a block adds up kReduceChannels channels.
template <typename T>
__global__ void __launch_bounds__(kEpilogueThreads, 4)
    epilogue_bias_reduce(const __grid_constant__ EpilogueReduceParams params) {
  using A = accumulator_t<T>;
  const int thread = static_cast<int>(threadIdx.x);
  const int lane = thread % kReduceChannels, row = thread / kReduceChannels;
  const int64_t k = static_cast<int64_t>(blockIdx.x) * kReduceChannels + lane;
  A sums[1] = {};
  if (k < params.K) {
    const A* const partials = static_cast<const A*>(params.partials) + k;
#pragma unroll 4
    for (int64_t slice = row; slice < params.splits; slice += kEpilogueThreads / kReduceChannels) {
      sums[0] += partials[slice * params.K];
    }
  }
  join_positions(sums, kReduceChannels);
  if (row == 0 && k < params.K) static_cast<T*>(params.db)[k] = from_accumulator<T>(sums[0]);
}

}  // namespace fastconv::cuda
