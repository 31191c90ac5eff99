// The main loop of wgrad's implicit GEMM where channels come in vectors: cp.async brings 16 bytes
// of channels of one pixel, of dy and of x, into a ring of kGemmStages slabs.
//
// A thread has one chunk of filters, of every kRowStepDy-th pixel of a slab, and one chunk of a
// tap's channels, of every kRowStepX-th. Pixels of dy lie a stride apart. Those of x are decoded
// for kGemmStages slabs at a time, by all threads, into a table of two halves: one is read while
// the other is written.
#pragma once

#include "cuda/device/cp_async.cuh"
#include "cuda/kernels/gemm/implicit_gemm_masked_row.cuh"
#include "cuda/kernels/gemm/wgrad_implicit_gemm_tile.cuh"

namespace fastconv::cuda {

// What a thread's chunk of a tap's channels adds to a pixel, and its bits of MaskedRow::outside.
struct WgradMaskedTap {
  int offset;
  uint32_t bits;

  __device__ __forceinline__ WgradMaskedTap(const WgradGemmParams& params, int column) {
    uint32_t channel, tap_w;
    const int taps_w = static_cast<int>(params.taps_w.divisor());
    const int tap_h = params.taps_w.divmod(params.channels.divmod(column, channel), tap_w);
    offset =
        (tap_h * params.tap_offset_h) * static_cast<int>(params.x.strides.h) +
        (static_cast<int>(tap_w) * params.tap_offset_w) * static_cast<int>(params.x.strides.w) +
        static_cast<int>(channel);
    bits = 1u << tap_w | 1u << (taps_w + min_of(tap_h, params.taps_h));
  }
};

template <typename T>
__device__ __forceinline__ MaskedRow wgrad_masked_pixel(const WgradGemmParams& params, const T* x,
                                                        int pixel) {
  if (pixel >= params.gemm_k) return {reinterpret_cast<uint64_t>(x), ~0u};
  uint32_t rest, q;
  const int64_t n = params.image.divmod(pixel, rest);
  const int p = params.width.divmod(rest, q);
  const int taps_w = static_cast<int>(params.taps_w.divisor());
  const int h = p * params.source_step_h + params.source_first_h;
  const int w = static_cast<int>(q) * params.source_step_w + params.source_first_w;
  const uint32_t outside_w = taps_outside(w, params.tap_offset_w, taps_w, params.source_w);
  const uint32_t outside_h =
      taps_outside(h, params.tap_offset_h, params.taps_h, params.source_h) | 1u << params.taps_h;
  const T* const source =
      x + n * params.x.strides.n + h * params.x.strides.h + w * params.x.strides.w;
  return {reinterpret_cast<uint64_t>(source), outside_w | outside_h << taps_w};
}

template <typename Config>
struct WgradVectorGather {
  using T = typename Config::element_t;
  using ItemsDy = WgradItems<Config, Config::kTileM, true>;
  using ItemsX = WgradItems<Config, Config::kTileN, true>;
  static constexpr int kTablePixels = kGemmStages * Config::kTileK;  // of one half
  static constexpr int kRowStepDy = Config::kThreads / ItemsDy::Slab::kChunks;
  static constexpr int kRowStepX = Config::kThreads / ItemsX::Slab::kChunks;

  struct Stage {
    WgradSlab<T, Config::kTileM> dy;
    WgradSlab<T, Config::kTileN> x;
  };
  struct Storage {
    Stage stages[kGemmStages];
    MaskedRow pixels[2][kTablePixels];
  };

  template <bool kGuarded>
  __device__ __forceinline__ static void run(const WgradGemmParams& params, const WgradBlock& block,
                                             const T* dy, const T* x, Storage& storage,
                                             WarpTile<Config>& tile) {
    const int thread = recomputed_thread_index();
    const int slabs = block.slab_end - block.slab_begin;
    // Decodes the pixels of kGemmStages slabs; a barrier must follow.
    const auto tabulate = [&](int slab) {
      for (int i = thread; i < kTablePixels; i += Config::kThreads) {
        storage.pixels[slab / kGemmStages % 2][i] =
            wgrad_masked_pixel(params, x, (block.slab_begin + slab) * Config::kTileK + i);
      }
      __syncwarp();  // mma wants the whole warp together again
    };
    const WgradMaskedTap tap(params,
                             block.column0 + thread % ItemsX::Slab::kChunks * Config::kVector);
    const int filter = block.row0 + thread % ItemsDy::Slab::kChunks * Config::kVector;
    const int row_dy = thread / ItemsDy::Slab::kChunks, row_x = thread / ItemsX::Slab::kChunks;
    const int64_t first_pixel = static_cast<int64_t>(block.slab_begin) * Config::kTileK + row_dy;
    const T* next_dy = dy + first_pixel * params.dy_pixel + filter;
    const int64_t step_dy = kRowStepDy * params.dy_pixel;
    // Rows of dy that the thread's filters have, from its own first row on.
    int rows_dy = filter < params.gemm_m ? params.gemm_k - static_cast<int>(first_pixel) : 0;

    // Loads the next slab, counted from the block's first one. An address outside of a tensor is
    // formed, but not read.
    const auto load = [&](int slab) {
      Stage& stage = storage.stages[slab % kGemmStages];
      const MaskedRow* const table =
          storage.pixels[slab / kGemmStages % 2] + slab % kGemmStages * Config::kTileK;
      MaskedRow pixels[ItemsX::kItems];
#pragma unroll
      for (int j = 0; j < ItemsX::kItems; ++j) pixels[j] = table[row_x + j * kRowStepX];
#pragma unroll
      for (int j = 0; j < ItemsDy::kItems; ++j) {
        cp_async_16(stage.dy.chunk(row_dy + j * kRowStepDy, thread % ItemsDy::Slab::kChunks),
                    next_dy, j * kRowStepDy < rows_dy);
        next_dy += step_dy;
      }
      rows_dy -= Config::kTileK;
#pragma unroll
      for (int j = 0; j < ItemsX::kItems; ++j) {
        const uint64_t address =
            pixels[j].source + static_cast<int64_t>(tap.offset) * static_cast<int64_t>(sizeof(T));
        cp_async_16(stage.x.chunk(row_x + j * kRowStepX, thread % ItemsX::Slab::kChunks),
                    reinterpret_cast<const void*>(address), (pixels[j].outside & tap.bits) == 0);
      }
    };

    tabulate(0);
    __syncthreads();
#pragma unroll
    for (int ahead = 0; ahead < kGemmStages - 1; ++ahead) {
      if (ahead < slabs) load(ahead);
      cp_async_commit();
    }
    for (int slab = 0; slab < slabs; ++slab) {
      cp_async_wait<kGemmStages - 2>();
      // Makes this slab visible to all, and tells that all are done with the previous one, whose
      // place the next load takes.
      __syncthreads();
      // The half that held the pixels before this slab, which all have loaded.
      if (slab % kGemmStages == 0) tabulate(slab + kGemmStages);
      if (slab + kGemmStages - 1 < slabs) load(slab + kGemmStages - 1);
      cp_async_commit();
      const Stage& now = storage.stages[slab % kGemmStages];
      wgrad_add_slab<kGuarded>(now.dy, now.x, tile);
    }
    cp_async_wait<0>();
  }
};

}  // namespace fastconv::cuda
