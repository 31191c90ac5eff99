// The main loop of the implicit GEMM of fprop and dgrad for any strides of the source: element by
// element through registers, lanes along pixels (NCHW rows), the next slab in flight while this one
// is multiplied.
#pragma once

#include "cuda/device/vector.cuh"
#include "cuda/kernels/gemm/implicit_gemm_filters.cuh"

namespace fastconv::cuda {

template <typename Config>
struct ElementGather {
  using T = typename Config::element_t;
  static constexpr int kStages = 2;
  static constexpr int kThreadsPerRow = Config::kThreads / Config::kTileM;
  static constexpr int kChunks = kSlabChunks / kThreadsPerRow;  // of a thread

  struct Storage {
    unsigned char a[kStages][Config::kTileM * kGemmSlabBytes];
    unsigned char b[kStages][Config::kTileN * kGemmSlabBytes];
    GatherTap taps[kStages][Config::kTileK];
  };

  template <bool kGuarded>
  __device__ __forceinline__ static void run(const ImplicitGemmParams& params,
                                             const GemmBlock& block, Storage& storage,
                                             WarpTile<Config>& tile) {
    const GemmPhase& phase = params.phases[block.phase];
    const int thread = recomputed_thread_index();
    const int row = thread % Config::kTileM, first_chunk = thread / Config::kTileM * kChunks;
    const T* const source =
        static_cast<const T*>(params.source.data) +
        static_cast<int64_t>(block.group) * params.channels.divisor() * params.source.strides.c;
    const GatherRow<T> gathered = gather_row(params, phase, source, block.row0 + row);
    FilterRows<Config> filters(params, block);
    const int filter_chunk = thread % kSlabChunks * Config::kVector;
    Vector<T, Config::kVector> chunks[kChunks];

    const auto tabulate = [&](int slab) {
      if (thread < Config::kTileK) {
        storage.taps[slab % kStages][thread] =
            gather_tap(params, phase, slab * Config::kTileK + thread);
      }
      __syncwarp();  // mma wants the whole warp together again
    };
    const auto load = [&](int slab) {
      const GatherTap* const taps = storage.taps[slab % kStages] + first_chunk * Config::kVector;
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
#pragma unroll
        for (int e = 0; e < Config::kVector; ++e) {
          const GatherTap tap = taps[c * Config::kVector + e];
          chunks[c].v[e] = inside(params, gathered, tap) ? __ldg(gathered.source + tap.offset)
                                                         : from_accumulator<T>(0.0f);
        }
      }
      filters.load(storage.b[slab % kStages], slab * Config::kTileK + filter_chunk < phase.gemm_k);
    };
    const auto put = [&](int slab) {
#pragma unroll
      for (int c = 0; c < kChunks; ++c) {
        store_vector(
            reinterpret_cast<T*>(storage.a[slab % kStages] + slab_offset(row, first_chunk + c)),
            chunks[c]);
      }
    };

    const WarpPlace<Config> place;
    tabulate(block.slab_begin);
    __syncthreads();
    if (block.slab_begin < block.slab_end) {
      load(block.slab_begin);
      put(block.slab_begin);
    }
    tabulate(block.slab_begin + 1);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    for (int slab = block.slab_begin; slab < block.slab_end; ++slab) {
      const int next = slab + 1;
      if (next < block.slab_end) load(next);
      cp_async_commit();
      // Into the place of this slab's taps, which all have read before the last barrier.
      tabulate(next + 1);
      tile.template add_slab<kGuarded>(storage.a[slab % kStages] + place.row * kGemmSlabBytes,
                                       storage.b[slab % kStages] + place.column * kGemmSlabBytes,
                                       place.lane);
      if (next < block.slab_end) put(next);
      cp_async_wait<0>();
      __syncthreads();
    }
  }
};

}  // namespace fastconv::cuda
