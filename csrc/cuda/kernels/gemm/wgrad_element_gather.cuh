// The main loop of wgrad's implicit GEMM for any strides: element by element through registers,
// lanes along pixels, the next slab in flight while this one is multiplied.
#pragma once

#include "cuda/device/vector.cuh"
#include "cuda/kernels/gemm/wgrad_implicit_gemm_tile.cuh"

namespace fastconv::cuda {

// One column of gemm_n: what it adds to a pixel's first position. An image's offsets fit 32 bits.
struct alignas(16) WgradTap {
  int offset, h, w;
};

// One pixel of gemm_k: where dy lies, and what a tap at offset 0 reads of x.
struct alignas(16) WgradPixel {
  int64_t dy, x;
  int h, w;
};

__device__ __forceinline__ WgradPixel wgrad_pixel(const WgradGemmParams& params, int pixel) {
  if (pixel >= params.gemm_k) return {0, 0, kNowhere, 0};
  uint32_t rest, q;
  const int64_t n = params.image.divmod(pixel, rest);
  const int64_t p = params.width.divmod(rest, q);
  const int h = static_cast<int>(p) * params.source_step_h + params.source_first_h;
  const int w = static_cast<int>(q) * params.source_step_w + params.source_first_w;
  return {n * params.dy.strides.n + p * params.dy.strides.h + q * params.dy.strides.w,
          n * params.x.strides.n + h * params.x.strides.h + w * params.x.strides.w, h, w};
}

__device__ __forceinline__ WgradTap wgrad_tap(const WgradGemmParams& params, int column) {
  if (column >= params.gemm_n) return {0, kNowhere, 0};
  uint32_t channel, tap_w;
  const int tap_h = params.taps_w.divmod(params.channels.divmod(column, channel), tap_w);
  const int h = tap_h * params.tap_offset_h, w = static_cast<int>(tap_w) * params.tap_offset_w;
  return {h * static_cast<int>(params.x.strides.h) + w * static_cast<int>(params.x.strides.w) +
              static_cast<int>(channel) * static_cast<int>(params.x.strides.c),
          h, w};
}

__device__ __forceinline__ bool inside(const WgradGemmParams& params, const WgradPixel& pixel,
                                       const WgradTap& tap) {
  return static_cast<unsigned>(pixel.h + tap.h) < static_cast<unsigned>(params.source_h) &&
         static_cast<unsigned>(pixel.w + tap.w) < static_cast<unsigned>(params.source_w);
}

template <typename Config>
struct WgradElementGather {
  using T = typename Config::element_t;
  static constexpr int kStages = 2;
  using ItemsDy = WgradItems<Config, Config::kTileM, false>;
  using ItemsX = WgradItems<Config, Config::kTileN, false>;

  struct Storage {
    WgradSlab<T, Config::kTileM> dy[kStages];
    WgradSlab<T, Config::kTileN> x[kStages];
    WgradTap taps[Config::kTileN];
    WgradPixel pixels[kStages][Config::kTileK];  // of the slabs that are loaded next
  };

  // Decodes the pixels of a slab for all; a barrier must follow.
  __device__ __forceinline__ static void tabulate(const WgradGemmParams& params, int slab,
                                                  Storage& storage) {
    const int row = static_cast<int>(threadIdx.x);
    if (row < Config::kTileK) {
      storage.pixels[slab % kStages][row] = wgrad_pixel(params, slab * Config::kTileK + row);
    }
    __syncwarp();  // mma wants the whole warp together again
  }

  template <bool kGuarded>
  __device__ __forceinline__ static void run(const WgradGemmParams& params, const WgradBlock& block,
                                             const T* dy, const T* x, Storage& storage,
                                             WarpTile<Config>& tile) {
    for (int column = threadIdx.x; column < Config::kTileN; column += Config::kThreads) {
      storage.taps[column] = wgrad_tap(params, block.column0 + column);
    }
    Vector<T, Config::kVector> dy_chunks[ItemsDy::kItems], x_chunks[ItemsX::kItems];
    const T zero = from_accumulator<T>(0.0f);
    const auto load = [&](int slab) {
      const WgradPixel* const pixels = storage.pixels[slab % kStages];
#pragma unroll
      for (int j = 0; j < ItemsDy::kItems; ++j) {
        const WgradPixel& pixel = pixels[ItemsDy::row(j)];
        const int filter = block.row0 + ItemsDy::chunk(j) * Config::kVector;
        const int filters = pixel.h != kNowhere ? params.gemm_m - filter : 0;  // that are there
        const int step = static_cast<int>(params.dy.strides.c);
        const T* const at = dy + pixel.dy + filter * params.dy.strides.c;
#pragma unroll
        for (int e = 0; e < Config::kVector; ++e) {
          dy_chunks[j].v[e] = e < filters ? __ldg(at + e * step) : zero;
        }
      }
#pragma unroll
      for (int j = 0; j < ItemsX::kItems; ++j) {
        const WgradPixel& pixel = pixels[ItemsX::row(j)];
#pragma unroll
        for (int e = 0; e < Config::kVector; ++e) {
          const WgradTap tap = storage.taps[ItemsX::chunk(j) * Config::kVector + e];
          x_chunks[j].v[e] = inside(params, pixel, tap) ? __ldg(x + pixel.x + tap.offset) : zero;
        }
      }
    };
    const auto put = [&](int stage) {
#pragma unroll
      for (int j = 0; j < ItemsDy::kItems; ++j) {
        store_vector(storage.dy[stage].chunk(ItemsDy::row(j), ItemsDy::chunk(j)), dy_chunks[j]);
      }
#pragma unroll
      for (int j = 0; j < ItemsX::kItems; ++j) {
        store_vector(storage.x[stage].chunk(ItemsX::row(j), ItemsX::chunk(j)), x_chunks[j]);
      }
    };
    tabulate(params, block.slab_begin, storage);
    tabulate(params, block.slab_begin + 1, storage);
    __syncthreads();
    if (block.slab_begin < block.slab_end) {
      load(block.slab_begin);
      put(block.slab_begin % kStages);
    }
    __syncthreads();
    for (int slab = block.slab_begin; slab < block.slab_end; ++slab) {
      const bool more = slab + 1 < block.slab_end;
      if (more) load(slab + 1);
      tabulate(params, slab + 2, storage);  // all have read this slab's before
      wgrad_add_slab<kGuarded>(storage.dy[slab % kStages], storage.x[slab % kStages], tile);
      if (more) put((slab + 1) % kStages);
      __syncthreads();
    }
  }
};

}  // namespace fastconv::cuda
