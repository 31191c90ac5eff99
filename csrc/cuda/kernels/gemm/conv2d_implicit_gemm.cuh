// fprop and dgrad on the tensor cores, as an implicit GEMM (sm_80 and later).
//
//   out (gemm_m x gemm_n) = source (gemm_m x gemm_k) * filters^T (gemm_n x gemm_k)
//   gemm_m: output pixels (n, p, q), gemm_n: output channels of a group, gemm_k: (tap, channel)
//   fprop gathers x with the filter's taps; dgrad gathers dy, once for each phase of dx
//   (problem/gather_axis.h), all in one launch.
//
// clang-format off
//          gemm_k -> in slabs of 64 bytes
//        +--+--+--+     +---------+    A block owns kTileM x kTileN of out and walks along gemm_k.
//   m    |A0|A1|A2| ... | kTileM  |    Filters come by cp.async from rows packed in (tap, channel)
//        +--+--+--+     | x kTileN|    order. The source comes
//                       +---------+    - vectorised: by cp.async too, 16 bytes of channels of one
//                                        pixel; a ring of kGemmStages slabs;
//                                      - otherwise: element by element through registers, lanes
//                                        along pixels (NCHW rows), the next slab in flight while
//                                        this one is multiplied.
// clang-format on
//   Sums go through shared memory to be stored along channels or pixels, whichever is contiguous,
//   with the epilogue; or, with gemm_k split, as float32 partial sums (split_k_reduce.cuh).
//
// Filters lie along gemm_n, where mma is 8 wide and not 16: few filters need a narrow tile, and no
// exchange of the operands.
// Bound: mma for many channels (a slab moves 64 B x (kTileM + kTileN) for kTileM * kTileN * kTileK
// multiply-adds); bytes of x and y for 1x1 and small K.
// Limits: every extent below 2^30, an image of the source within 2^30 elements; at most
// kMaxGemmPhases phases.
#pragma once

#include "cuda/device/cp_async.cuh"
#include "cuda/device/thread_index.cuh"
#include "cuda/device/vector.cuh"
#include "cuda/kernels/gemm/implicit_gemm_params.cuh"
#include "cuda/kernels/gemm/implicit_gemm_store.cuh"

namespace fastconv::cuda {

// A thread's share of the loads of a block's filters, which are rows of packed elements, 16 bytes
// at a time.
template <typename Config>
struct FilterRows {
  using T = typename Config::element_t;
  static constexpr int kRowStep = Config::kThreads / kSlabChunks;
  static constexpr int kRows = Config::kTileN / kRowStep;  // of a thread
  static_assert(Config::kTileN % kRowStep == 0);

  const GemmPhase& phase;
  const T* first;
  int rows, row, chunk;

  __device__ __forceinline__ FilterRows(const ImplicitGemmParams& params, const GemmBlock& block)
      : phase(params.phases[block.phase]) {
    const int thread = recomputed_thread_index();
    chunk = thread % kSlabChunks, row = thread / kSlabChunks;
    const int64_t column = static_cast<int64_t>(block.group) * params.gemm_n + block.column0 + row;
    first = static_cast<const T*>(params.filters) + phase.filters + column * phase.filter_row;
    // The thread's i-th row exists where i * kRowStep < rows.
    rows = params.gemm_n - block.column0 - row;
  }

  __device__ __forceinline__ void load(int slab, unsigned char* place, const void* anywhere) const {
    const int k = slab * Config::kTileK + chunk * Config::kVector;
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      const bool valid = i * kRowStep < rows && k < phase.gemm_k;
      cp_async_16(
          place + slab_offset(row + i * kRowStep, chunk),
          valid ? first + static_cast<int64_t>(i * kRowStep) * phase.filter_row + k : anywhere,
          valid);
    }
  }
};

// ---- main loop, vectorised gather ------------------------------------------------------------

template <typename Config>
struct VectorGather {
  using T = typename Config::element_t;
  static constexpr int kRowStep = Config::kThreads / kSlabChunks;
  static constexpr int kRows = Config::kTileM / kRowStep;  // of a thread
  static_assert(Config::kTileM % kRowStep == 0);

  struct Storage {
    unsigned char a[kGemmStages][Config::kTileM * kGemmSlabBytes];
    unsigned char b[kGemmStages][Config::kTileN * kGemmSlabBytes];
  };

  template <bool kGuarded>
  __device__ __forceinline__ static void run(const ImplicitGemmParams& params,
                                             const GemmBlock& block, Storage& storage,
                                             WarpTile<Config>& tile) {
    const GemmPhase& phase = params.phases[block.phase];
    const int thread = recomputed_thread_index();
    const int chunk = thread % kSlabChunks, first_row = thread / kSlabChunks;
    const T* const source = static_cast<const T*>(params.source.data) +
                            static_cast<int64_t>(block.group) * params.channels.divisor();
    const FilterRows<Config> filters(params, block);
    GatherRow<T> rows[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) {
      rows[i] = gather_row(params, phase, source, block.row0 + first_row + i * kRowStep);
    }
    const auto load = [&](int slab, int stage) {
      const GatherTap tap =
          gather_tap(params, phase, slab * Config::kTileK + chunk * Config::kVector);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const bool valid = inside(params, rows[i], tap);
        cp_async_16(storage.a[stage] + slab_offset(first_row + i * kRowStep, chunk),
                    valid ? rows[i].source + tap.offset : source, valid);
      }
      filters.load(slab, storage.b[stage], source);
    };

    const WarpPlace<Config> place;
    // One group for each stage, empty ones too, so that the count of pending groups tells stages.
#pragma unroll
    for (int stage = 0; stage < kGemmStages - 1; ++stage) {
      if (block.slab_begin + stage < block.slab_end) load(block.slab_begin + stage, stage);
      cp_async_commit();
    }
    int stage = 0;
    for (int slab = block.slab_begin; slab < block.slab_end; ++slab) {
      cp_async_wait<kGemmStages - 2>();
      // Makes this slab visible to all, and tells that all are done with the previous one, whose
      // place the next load takes.
      __syncthreads();
      const int next = slab + kGemmStages - 1;
      if (next < block.slab_end) load(next, stage == 0 ? kGemmStages - 1 : stage - 1);
      cp_async_commit();
      tile.template add_slab<kGuarded>(storage.a[stage] + place.row * kGemmSlabBytes,
                                       storage.b[stage] + place.column * kGemmSlabBytes,
                                       place.lane);
      stage = stage + 1 == kGemmStages ? 0 : stage + 1;
    }
    cp_async_wait<0>();
    __syncthreads();
  }
};

// ---- main loop, gather by elements -----------------------------------------------------------

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
    const FilterRows<Config> filters(params, block);
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
      filters.load(slab, storage.b[slab % kStages], source);
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

// ---- kernel ----------------------------------------------------------------------------------

template <typename Config, typename Gather>
union ImplicitGemmStorage {
  typename Gather::Storage main_loop;
  StagedSums<Config> staged;
};

template <typename Config, typename Gather>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm)
    conv2d_implicit_gemm(const __grid_constant__ ImplicitGemmParams params) {
  auto& storage = shared_storage<ImplicitGemmStorage<Config, Gather>>();
  const GemmBlock block = GemmBlock::locate<Config>(params);
  const auto tile = sum_tile<Config>([&](auto guarded, WarpTile<Config>& sums) {
    Gather::template run<guarded>(params, block, storage.main_loop, sums);
  });
  const int pitch = params.store == GemmStore::pixels ? StagedSums<Config>::kColumnPitch
                                                      : StagedSums<Config>::kRowPitch;
  storage.staged.put(tile, pitch);
  __syncthreads();
  if (params.store == GemmStore::vectors) {
    store_vectors<Config>(params, block, storage.staged);
  } else {
    store_elements<Config>(params, block, storage.staged, pitch);
  }
}

}  // namespace fastconv::cuda
