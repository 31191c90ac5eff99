// The main loop of the implicit GEMM of fprop and dgrad where the source's channels come in
// vectors: cp.async brings 16 bytes of channels of one pixel, into a ring of kGemmStages slabs.
//
// A thread has one chunk of every kRowStep-th row. Its rows' addresses and masks of taps stay in
// registers; the tap is the same for all of them and is found by carries from slab to slab.
#pragma once

#include "cuda/kernels/gemm/implicit_gemm_filters.cuh"
#include "cuda/kernels/gemm/implicit_gemm_masked_row.cuh"

namespace fastconv::cuda {

template <typename T>
__device__ __forceinline__ MaskedRow masked_row(const ImplicitGemmParams& params,
                                                const GemmPhase& phase, const T* source, int m) {
  const GatherRow<T> row = gather_row(params, phase, source, m);
  const TapSteps& steps = phase.steps;
  const uint32_t outside_w = taps_outside(row.w, phase.tap_offset_w, steps.taps_w, params.source_w);
  const uint32_t outside_h =
      taps_outside(row.h, phase.tap_offset_h, steps.taps_h, params.source_h) | 1u << steps.taps_h;
  return {reinterpret_cast<uint64_t>(row.source), outside_w | outside_h << steps.taps_w};
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

}  // namespace fastconv::cuda
