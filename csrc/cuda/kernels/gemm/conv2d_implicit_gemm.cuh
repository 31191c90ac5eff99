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

// ---- main loop, vectorised gather ------------------------------------------------------------

// A row of gemm_m: the address that a tap at offset 0 reads, and a set bit for each tap_w, and from
// bit taps_w on for each tap_h, that lies outside of the source. Bit taps_w + taps_h is set.
struct alignas(16) MaskedRow {
  uint64_t source;
  uint32_t outside;
};

template <typename T>
__device__ __forceinline__ MaskedRow masked_row(const ImplicitGemmParams& params,
                                                const GemmPhase& phase, const T* source, int m) {
  const GatherRow<T> row = gather_row(params, phase, source, m);
  const TapSteps& steps = phase.steps;
  uint32_t outside = 1u << (steps.taps_w + steps.taps_h);
  for (int s = 0, w = row.w; s < steps.taps_w; ++s, w += phase.tap_offset_w) {
    if (static_cast<unsigned>(w) >= static_cast<unsigned>(params.source_w)) outside |= 1u << s;
  }
  for (int r = 0, h = row.h; r < steps.taps_h; ++r, h += phase.tap_offset_h) {
    if (static_cast<unsigned>(h) >= static_cast<unsigned>(params.source_h)) {
      outside |= 1u << (steps.taps_w + r);
    }
  }
  return {reinterpret_cast<uint64_t>(row.source), outside};
}

// The walk of a thread's chunk along gemm_k = (tap_h, tap_w, channel), slab by slab.
struct TapWalk {
  int channel, tap_w;
  int bit_h;   // tap_h as a bit of MaskedRow::outside
  int offset;  // elements from a row's position

  __device__ __forceinline__ TapWalk(const ImplicitGemmParams& params, const GemmPhase& phase,
                                     int k) {
    uint32_t c, s;
    const int tap_h = phase.taps_w.divmod(params.channels.divmod(k, c), s);
    channel = static_cast<int>(c), tap_w = static_cast<int>(s);
    bit_h = phase.steps.taps_w + tap_h;
    offset = (tap_h * phase.tap_offset_h) * static_cast<int>(params.source.strides.h) +
             (tap_w * phase.tap_offset_w) * static_cast<int>(params.source.strides.w) + channel;
  }

  __device__ __forceinline__ void advance(const TapSteps& steps, int channels) {
    channel += steps.channel;
    offset += steps.offset;
    tap_w += steps.tap_w;
    bit_h += steps.tap_h;
    if (channel >= channels) channel -= channels, tap_w += 1, offset += steps.carry_w;
    if (tap_w >= steps.taps_w) tap_w -= steps.taps_w, bit_h += 1, offset += steps.carry_h;
  }
};

template <typename Config>
struct VectorGather {
  using T = typename Config::element_t;
  static constexpr int kRowStep = Config::kThreads / kSlabChunks;
  static constexpr int kRows = Config::kTileM / kRowStep;  // of a thread
  static_assert(Config::kTileM % kRowStep == 0);

  struct Stage {
    unsigned char a[Config::kTileM * kGemmSlabBytes];
    unsigned char b[Config::kTileN * kGemmSlabBytes];
  };
  struct Storage {
    Stage stages[kGemmStages];
    MaskedRow rows[Config::kTileM];
  };

  template <bool kGuarded>
  __device__ __forceinline__ static void run(const ImplicitGemmParams& params,
                                             const GemmBlock& block, Storage& storage,
                                             WarpTile<Config>& tile) {
    const GemmPhase& phase = params.phases[block.phase];
    const int thread = recomputed_thread_index();
    const int chunk = thread % kSlabChunks, first_row = thread / kSlabChunks;
    for (int row = thread; row < Config::kTileM; row += Config::kThreads) {
      const T* const source = static_cast<const T*>(params.source.data) +
                              static_cast<int64_t>(block.group) * params.channels.divisor();
      storage.rows[row] = masked_row(params, phase, source, block.row0 + row);
    }
    FilterRows<Config> filters(params, block);
    TapWalk walk(params, phase, block.slab_begin * Config::kTileK + chunk * Config::kVector);
    const TapSteps steps = phase.steps;
    const int channels = static_cast<int>(params.channels.divisor());
    const int place = slab_offset(first_row, chunk), end_bit = steps.taps_w + steps.taps_h;
    __syncthreads();
    MaskedRow rows[kRows];
#pragma unroll
    for (int i = 0; i < kRows; ++i) rows[i] = storage.rows[first_row + i * kRowStep];

    // Loads the next slab. An address outside of the source is formed, but not read.
    const auto load = [&](Stage& stage) {
      const uint32_t bit_w = 1u << walk.tap_w, bit_h = 1u << min_of(walk.bit_h, end_bit);
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
        const uint64_t address =
            rows[i].source + static_cast<int64_t>(walk.offset) * static_cast<int64_t>(sizeof(T));
        cp_async_16(stage.a + place + i * kRowStep * kGemmSlabBytes,
                    reinterpret_cast<const void*>(address),
                    (rows[i].outside & (bit_w | bit_h)) == 0);
      }
      filters.load(stage.b, walk.bit_h < end_bit);
      walk.advance(steps, channels);
    };

    const WarpPlace<Config> warp;
    // One group for each stage, empty ones too, so that the count of pending groups tells stages.
#pragma unroll
    for (int stage = 0; stage < kGemmStages - 1; ++stage) {
      if (block.slab_begin + stage < block.slab_end) load(storage.stages[stage]);
      cp_async_commit();
    }
    int stage = 0;
    for (int slab = block.slab_begin; slab < block.slab_end; ++slab) {
      cp_async_wait<kGemmStages - 2>();
      // Makes this slab visible to all, and tells that all are done with the previous one, whose
      // place the next load takes.
      __syncthreads();
      if (slab + kGemmStages - 1 < block.slab_end) {
        load(storage.stages[(stage + kGemmStages - 1) % kGemmStages]);
      }
      cp_async_commit();
      const Stage& now = storage.stages[stage];
      tile.template add_slab<kGuarded>(now.a + warp.row * kGemmSlabBytes,
                                       now.b + warp.column * kGemmSlabBytes, warp.lane);
      stage = (stage + 1) % kGemmStages;
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

// ---- kernel ----------------------------------------------------------------------------------

template <typename Config, typename Gather>
union ImplicitGemmStorage {
  typename Gather::Storage main_loop;
  StagedTile<Config> staged;
};

template <typename Config, typename Gather>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm)
    conv2d_implicit_gemm(const __grid_constant__ ImplicitGemmParams params) {
  auto& storage = shared_storage<ImplicitGemmStorage<Config, Gather>>();
  const GemmBlock block = GemmBlock::locate<Config>(params);
  const auto tile = sum_tile<Config>([&](auto guarded, WarpTile<Config>& sums) {
    Gather::template run<guarded>(params, block, storage.main_loop, sums);
  });
  stage_tile(params, block, tile, storage.staged);
  __syncthreads();
  store_tile(params, block, storage.staged);
}

}  // namespace fastconv::cuda
