// wgrad on the tensor cores, as an implicit GEMM with a split gemm_k (sm_80 and later).
//
//   dw (gemm_m x gemm_n) = dy^T (gemm_m x gemm_k) * x (gemm_k x gemm_n), x gathered
//   gemm_m: filters of a group, gemm_n: (tap, channel), gemm_k: output pixels (n, p, q)
//
//            gemm_n              Both operands have gemm_k along their rows, so a slab is kTileK
//          +---------+           pixels, each a row of kTileM filters or kTileN (tap, channel)s:
//     x    | kTileK  |           - 16-bit: chunk c of row r lies at chunk c ^ r%8 of its row, and
//   pixels +---------+             ldmatrix transposes on the way to the registers;
//    dy    | kTileK  |           - 32-bit, which ldmatrix cannot transpose: rows padded to 8 words
//          +---------+             mod 32, so that plain loads of fragments meet no bank twice.
//            gemm_m              Vectorised: cp.async of 16 bytes of channels; otherwise element by
//                                element through registers, lanes along pixels.
//
// Every slice of gemm_k writes its float32 sums; split_k_reduce.cuh adds them in order.
// Bound: mma for many channels, else bytes of x and dy: dy is read once for each tile along gemm_n,
// x once for each tap and each tile along gemm_m, mostly from L2.
// Limits: every extent below 2^30, an image of x or dy within 2^30 elements.
#pragma once

#include "cuda/device/cp_async.cuh"
#include "cuda/device/fast_divmod.cuh"
#include "cuda/device/vector.cuh"
#include "cuda/kernels/gemm/implicit_gemm_tile.cuh"

namespace fastconv::cuda {

struct WgradGemmParams {
  TensorView x, dy;
  float* partial = nullptr;  // (slice, group, gemm_m, gemm_n)
  int64_t slice_elements = 0;
  // Of fprop's axes: problem/gather_axis.h.
  int source_h = 0, source_w = 0, source_first_h = 0, source_first_w = 0;
  int source_step_h = 1, source_step_w = 1, tap_offset_h = 1, tap_offset_w = 1;
  int gemm_m = 0, gemm_n = 0, gemm_k = 0;
  int splits = 1;
  FastDivmod channels, taps_w;  // of gemm_n
  FastDivmod image, width;      // of gemm_k: P*Q, Q
  FastDivmod tiles_m, tiles_n;
};

// One column of gemm_n: what it adds to a pixel's first position. An image's offsets fit 32 bits.
struct alignas(16) WgradTap {
  int offset, h, w;
};

// Shared memory of one operand: kTileK rows of kColumns elements.
template <typename T, int kColumns>
struct WgradSlab {
  static constexpr bool kTransposes = sizeof(T) == 2;
  static constexpr int kVector = kChunkBytes / static_cast<int>(sizeof(T));
  static constexpr int kChunks = kColumns / kVector;
  static constexpr int kPitch = kTransposes ? kColumns : kColumns + 8;
  static constexpr int kTileK = kGemmSlabBytes / static_cast<int>(sizeof(T));
  alignas(kChunkBytes) T elements[kTileK * kPitch];

  __device__ __forceinline__ static int offset(int row, int chunk) {
    return row * kPitch + (kTransposes ? chunk ^ (row & 7) : chunk) * kVector;
  }
  __device__ __forceinline__ T* chunk(int row, int chunk) { return elements + offset(row, chunk); }
  __device__ __forceinline__ const T* chunk(int row, int chunk) const {
    return elements + offset(row, chunk);
  }
};

// One pixel of gemm_k: where dy lies, and what a tap at offset 0 reads of x.
struct alignas(16) WgradPixel {
  int64_t dy, x;
  int h, w;
};

template <typename Config, int kStages>
struct WgradStorage {
  using T = typename Config::element_t;
  WgradSlab<T, Config::kTileM> dy[kStages];
  WgradSlab<T, Config::kTileN> x[kStages];
  WgradTap taps[Config::kTileN];
  WgradPixel pixels[kStages][Config::kTileK];  // of the slabs that are loaded next
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

// What a block has to do: blockIdx.x = (group, tile along m, tile along n), blockIdx.y = slice.
struct WgradBlock {
  int group, row0, column0, slab_begin, slab_end;

  template <typename Config>
  __device__ __forceinline__ static WgradBlock locate(const WgradGemmParams& params) {
    uint32_t tile_m, tile_n;
    WgradBlock block;
    block.group = params.tiles_m.divmod(params.tiles_n.divmod(blockIdx.x, tile_n), tile_m);
    block.row0 = static_cast<int>(tile_m) * Config::kTileM;
    block.column0 = static_cast<int>(tile_n) * Config::kTileN;
    const int slabs = div_up(params.gemm_k, Config::kTileK);
    const int slice_slabs = div_up(slabs, params.splits);
    block.slab_begin = min_of(static_cast<int>(blockIdx.y) * slice_slabs, slabs);
    block.slab_end = min_of(block.slab_begin + slice_slabs, slabs);
    return block;
  }
};

// Decodes the pixels of a slab for all; a barrier must follow.
template <typename Config, int kStages>
__device__ __forceinline__ void tabulate(const WgradGemmParams& params, int slab,
                                         WgradStorage<Config, kStages>& storage) {
  const int row = static_cast<int>(threadIdx.x);
  if (row < Config::kTileK) {
    storage.pixels[slab % kStages][row] = wgrad_pixel(params, slab * Config::kTileK + row);
  }
  __syncwarp();  // mma wants the whole warp together again
}

// The chunks of a slab that one thread moves: item j of kItems is chunk `chunk` of row `row`.
template <typename Config, int kColumns, bool kVectorised>
struct WgradItems {
  using Slab = WgradSlab<typename Config::element_t, kColumns>;
  static constexpr int kItems = Slab::kTileK * Slab::kChunks / Config::kThreads;
  static_assert(Slab::kTileK * Slab::kChunks % Config::kThreads == 0);

  // Lanes along the row where a row's chunks are adjacent in memory, else along pixels.
  __device__ __forceinline__ static int row(int j) {
    const int item = static_cast<int>(threadIdx.x) + j * Config::kThreads;
    return kVectorised ? item / Slab::kChunks : item % Slab::kTileK;
  }
  __device__ __forceinline__ static int chunk(int j) {
    const int item = static_cast<int>(threadIdx.x) + j * Config::kThreads;
    return kVectorised ? item % Slab::kChunks : item / Slab::kTileK;
  }
};

template <bool kGuarded, typename Config>
__device__ __forceinline__ void wgrad_add_slab(
    const WgradSlab<typename Config::element_t, Config::kTileM>& dy,
    const WgradSlab<typename Config::element_t, Config::kTileN>& x, WarpTile<Config>& tile) {
  using Tile = WarpTile<Config>;
  const WarpPlace<Config> place;
  const int lane = place.lane;
  if constexpr (sizeof(typename Config::element_t) == 2) {
    constexpr int kStepRows = 16;
    // Matrices of A: (k 0-7, 8-15) x (m 0-7, 8-15), m first. Of B: (k 0-7, 8-15) x (n 0-7, 8-15).
    const int a_k = lane % 8 + lane / 16 * 8, a_chunk = lane / 8 % 2;
    const int b_k = lane % 8 + lane / 8 % 2 * 8, b_chunk = lane / 16;
    tile.template add_steps<kGuarded>(
        [&](int step, typename Tile::FragmentsA& a, typename Tile::FragmentsB& b) {
#pragma unroll
          for (int i = 0; i < Tile::kRows; ++i) {
            const int chunk = (place.row + i * kMmaM) / 8 + a_chunk;
            ldmatrix_transposed(a[i], dy.chunk(step * kStepRows + a_k, chunk));
          }
#pragma unroll
          for (int j = 0; j < Tile::kColumns; j += 2) {
            const int chunk = (place.column + j * kMmaN) / 8 + b_chunk;
            uint32_t pair[4];
            ldmatrix_transposed(pair, x.chunk(step * kStepRows + b_k, chunk));
            b[j][0] = pair[0], b[j][1] = pair[1];
            b[j + 1][0] = pair[2], b[j + 1][1] = pair[3];
          }
        });
  } else {
    constexpr int kStepRows = 8;
    const int g = lane / 4, t = lane % 4;
    const float* const a_words = dy.elements + place.row + g;
    const float* const b_words = x.elements + place.column + g;
    tile.template add_steps<kGuarded>([&](int step, typename Tile::FragmentsA& a,
                                          typename Tile::FragmentsB& b) {
      const int k = step * kStepRows + t;
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i) {
#pragma unroll
        for (int e = 0; e < 4; ++e) {
          a[i][e] = __float_as_uint(a_words[(k + e / 2 * 4) * dy.kPitch + i * kMmaM + e % 2 * 8]);
        }
      }
#pragma unroll
      for (int j = 0; j < Tile::kColumns; ++j) {
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          b[j][e] = __float_as_uint(b_words[(k + e * 4) * x.kPitch + j * kMmaN]);
        }
      }
    });
  }
}

// ---- main loops ------------------------------------------------------------------------------

template <typename Config>
struct WgradVectorGather {
  using T = typename Config::element_t;
  using Storage = WgradStorage<Config, kGemmStages>;
  using ItemsDy = WgradItems<Config, Config::kTileM, true>;
  using ItemsX = WgradItems<Config, Config::kTileN, true>;

  template <bool kGuarded>
  __device__ __forceinline__ static void run(const WgradGemmParams& params, const WgradBlock& block,
                                             const T* dy, const T* x, Storage& storage,
                                             WarpTile<Config>& tile) {
    const auto load = [&](int slab) {
      const int stage = slab % kGemmStages;
#pragma unroll
      for (int j = 0; j < ItemsDy::kItems; ++j) {
        const WgradPixel& pixel = storage.pixels[stage][ItemsDy::row(j)];
        const int filter = block.row0 + ItemsDy::chunk(j) * Config::kVector;
        const bool valid = pixel.h != kNowhere && filter < params.gemm_m;
        cp_async_16(storage.dy[stage].chunk(ItemsDy::row(j), ItemsDy::chunk(j)),
                    valid ? dy + pixel.dy + filter : dy, valid);
      }
#pragma unroll
      for (int j = 0; j < ItemsX::kItems; ++j) {
        const WgradPixel& pixel = storage.pixels[stage][ItemsX::row(j)];
        const WgradTap tap = storage.taps[ItemsX::chunk(j) * Config::kVector];
        const bool valid = inside(params, pixel, tap);
        cp_async_16(storage.x[stage].chunk(ItemsX::row(j), ItemsX::chunk(j)),
                    valid ? x + pixel.x + tap.offset : x, valid);
      }
    };
    for (int ahead = 0; ahead < kGemmStages; ++ahead) {
      tabulate<Config, kGemmStages>(params, block.slab_begin + ahead, storage);
    }
    __syncthreads();
#pragma unroll
    for (int ahead = 0; ahead < kGemmStages - 1; ++ahead) {
      if (block.slab_begin + ahead < block.slab_end) load(block.slab_begin + ahead);
      cp_async_commit();
    }
    for (int slab = block.slab_begin; slab < block.slab_end; ++slab) {
      cp_async_wait<kGemmStages - 2>();
      // Makes this slab visible to all, and tells that all are done with the previous one, whose
      // place the next load takes, and with the pixels of this one.
      __syncthreads();
      const int next = slab + kGemmStages - 1;
      if (next < block.slab_end) load(next);
      cp_async_commit();
      tabulate<Config, kGemmStages>(params, next + 1, storage);
      wgrad_add_slab<kGuarded>(storage.dy[slab % kGemmStages], storage.x[slab % kGemmStages], tile);
    }
    cp_async_wait<0>();
  }
};

template <typename Config>
struct WgradElementGather {
  using T = typename Config::element_t;
  static constexpr int kStages = 2;
  using Storage = WgradStorage<Config, kStages>;
  using ItemsDy = WgradItems<Config, Config::kTileM, false>;
  using ItemsX = WgradItems<Config, Config::kTileN, false>;

  template <bool kGuarded>
  __device__ __forceinline__ static void run(const WgradGemmParams& params, const WgradBlock& block,
                                             const T* dy, const T* x, Storage& storage,
                                             WarpTile<Config>& tile) {
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
    tabulate<Config, kStages>(params, block.slab_begin, storage);
    tabulate<Config, kStages>(params, block.slab_begin + 1, storage);
    __syncthreads();
    if (block.slab_begin < block.slab_end) {
      load(block.slab_begin);
      put(block.slab_begin % kStages);
    }
    __syncthreads();
    for (int slab = block.slab_begin; slab < block.slab_end; ++slab) {
      const bool more = slab + 1 < block.slab_end;
      if (more) load(slab + 1);
      tabulate<Config, kStages>(params, slab + 2, storage);  // all have read this slab's before
      wgrad_add_slab<kGuarded>(storage.dy[slab % kStages], storage.x[slab % kStages], tile);
      if (more) put((slab + 1) % kStages);
      __syncthreads();
    }
  }
};

// ---- kernel ----------------------------------------------------------------------------------

template <typename Config, typename Gather>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm)
    conv2d_wgrad_implicit_gemm(const __grid_constant__ WgradGemmParams params) {
  using T = typename Config::element_t;
  auto& storage = shared_storage<typename Gather::Storage>();
  const WgradBlock block = WgradBlock::locate<Config>(params);
  for (int column = threadIdx.x; column < Config::kTileN; column += Config::kThreads) {
    storage.taps[column] = wgrad_tap(params, block.column0 + column);
  }
  // The main loops' first barrier comes before anyone reads the taps.
  const T* const dy = static_cast<const T*>(params.dy.data) +
                      static_cast<int64_t>(block.group) * params.gemm_m * params.dy.strides.c;
  const T* const x = static_cast<const T*>(params.x.data) + static_cast<int64_t>(block.group) *
                                                                params.channels.divisor() *
                                                                params.x.strides.c;
  const auto tile = sum_tile<Config>([&](auto guarded, WarpTile<Config>& sums) {
    Gather::template run<guarded>(params, block, dy, x, storage, sums);
  });
  // Four lanes write 32 adjacent bytes of a row.
  float* const partial = params.partial + blockIdx.y * params.slice_elements +
                         static_cast<int64_t>(block.group) * params.gemm_m * params.gemm_n;
  const WarpPlace<Config> place;
  const int row0 = block.row0 + place.row, column0 = block.column0 + place.column;
  tile.for_each(place.lane, [&](int row, int column, float value) {
    if (row0 + row < params.gemm_m && column0 + column < params.gemm_n) {
      partial[static_cast<int64_t>(row0 + row) * params.gemm_n + column0 + column] = value;
    }
  });
}

}  // namespace fastconv::cuda
