// The filters of the implicit GEMM of fprop and dgrad, on their way to shared memory.
#pragma once

#include "cuda/device/cp_async.cuh"
#include "cuda/device/thread_index.cuh"
#include "cuda/kernels/gemm/implicit_gemm_params.cuh"

namespace fastconv::cuda {

// A thread's share of the loads of a block's filters, which are rows of packed elements, 16 bytes
// at a time. Rows past the last filter read the last one: their sums are not stored.
template <typename Config>
struct FilterRows {
  using T = typename Config::element_t;
  static constexpr int kRowStep = Config::kThreads / kSlabChunks;
  static constexpr int kRows = Config::kTileN / kRowStep;  // of a thread
  static_assert(Config::kTileN % kRowStep == 0);

  const T* next;       // the thread's chunk of the block's first row, in the slab to load next
  int offsets[kRows];  // from there to the thread's rows
  int place;           // of the thread's first chunk in a slab

  __device__ __forceinline__ FilterRows(const ImplicitGemmParams& params, const GemmBlock& block) {
    const GemmPhase& phase = params.phases[block.phase];
    const int thread = recomputed_thread_index();
    const int chunk = thread % kSlabChunks, row = thread / kSlabChunks;
    const int64_t column = static_cast<int64_t>(block.group) * params.gemm_n + block.column0;
    next = static_cast<const T*>(params.filters) + phase.filters + column * phase.filter_row +
           block.slab_begin * Config::kTileK + chunk * Config::kVector;
    const int last = params.gemm_n - block.column0 - 1;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      offsets[i] = min_of(row + i * kRowStep, last) * phase.filter_row;
    }
    place = slab_offset(row, chunk);
  }

  // Loads the thread's chunks of the next slab, or zeros where gemm_k has ended before.
  __device__ __forceinline__ void load(unsigned char* slab, bool valid) {
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      cp_async_16(slab + place + i * kRowStep * kGemmSlabBytes, next + offsets[i], valid);
    }
    next += Config::kTileK;
  }
};

}  // namespace fastconv::cuda
