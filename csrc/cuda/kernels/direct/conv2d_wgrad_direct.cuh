// Direct wgrad by multiply-adds: any strides, groups, dilation, dtype.
//
//   gemm_m = filters of a group (tile columns), gemm_n = (tap, channel) (tile rows),
//   gemm_k = pixels of y, cut into slices: each writes its sums to the workspace, and a second
//   kernel adds the slices of an element in a fixed order (no atomics, same bits every time).
//
// The pixels of a slab are described by a small table (offsets in x and dy, taps inside x), made
// one slab ahead by the first threads; the rows of the tile by another, made once.
//
// Bound: 2 * 128 * 64 FLOPs for each 128 + 64 elements loaded (FFMA rate); few filters or few
// (tap, channel) leave it bound by the reads of x, which the caches serve for all but one tap.
// Limits: fewer than 2^31 taps along an axis, and slabs in a slice.
#pragma once

#include "cuda/device/shared_memory.cuh"
#include "cuda/kernels/direct/conv2d_direct_tile.cuh"
#include "problem/tensor.h"

namespace fastconv::cuda {

struct WgradParams {
  GatherAxis h, w;                                       // of fprop
  int64_t N = 1, groups = 1, channels = 1, filters = 1;  // channels and filters of a group
  int64_t rows = 1;                                      // R * S * channels
  TensorView x, dy, dw;
  int64_t row_tiles = 0, filter_tiles = 0, splits = 1, tiles = 0;
  int64_t slice_slabs = 0;    // slabs of pixels in a slice
  bool taps_inner = false;    // order of the rows
  void* workspace = nullptr;  // [slice][group][filter][row] of accumulators, if splits > 1
};

// One pixel of a slab's table: offsets into x, for tap (0, 0), and into dy; its taps inside of x.
struct alignas(16) WgradPixel {
  int64_t x, dy;  // dy: -1 beyond the last pixel
  TapRange h, w;
};
// One row of the tile, a (tap, channel): what it adds to a pixel's offset into x, and its tap.
struct alignas(16) WgradRow {
  int64_t x;
  int tap_h, tap_w;  // no tap beyond the last row
};

// Which part of the product a block computes.
struct WgradBlock {
  int64_t first_row, first_filter, slice, group;
};

template <typename Tile>
struct WgradStorage {
  WgradBlock block;  // kept here over the main loop, where registers are short
  Slab<Tile> slabs[2];
  WgradPixel pixels[2][Tile::kSlab];
  WgradRow rows[Tile::kTileM];
  Counter pixels_ahead[Tile::kSlab];  // of the next table
};

__device__ __forceinline__ void decode_row(const WgradParams& params, int64_t row, int64_t& channel,
                                           int64_t& tap_h, int64_t& tap_w) {
  if (params.taps_inner) {
    tap_w = take_digit(row, params.w.taps), tap_h = take_digit(row, params.h.taps);
    channel = row;
  } else {
    channel = take_digit(row, params.channels), tap_w = take_digit(row, params.w.taps);
    tap_h = row;
  }
}

__device__ __forceinline__ WgradRow row_descriptor(const WgradParams& params, int64_t row) {
  if (row >= params.rows) return {0, INT_MAX, INT_MAX};
  int64_t channel, tap_h, tap_w;
  decode_row(params, row, channel, tap_h, tap_w);
  return {channel * params.x.strides.c + tap_h * params.h.tap_offset * params.x.strides.h +
              tap_w * params.w.tap_offset * params.x.strides.w,
          static_cast<int>(tap_h), static_cast<int>(tap_w)};
}

// pixel = (q, p, n), the lowest digit first.
__device__ __forceinline__ WgradPixel pixel_descriptor(const WgradParams& params, int64_t group,
                                                       const Counter& pixel) {
  if (pixel.digit[2] >= params.N) return {0, -1, {0, 0}, {0, 0}};
  const int64_t q = pixel.digit[0], p = pixel.digit[1], n = pixel.digit[2];
  const int64_t h = p * params.h.source_step + params.h.source_first;
  const int64_t w = q * params.w.source_step + params.w.source_first;
  const Strides &x = params.x.strides, &dy = params.dy.strides;
  return {n * x.n + group * params.channels * x.c + h * x.h + w * x.w,
          n * dy.n + group * params.filters * dy.c + p * dy.h + q * dy.w, tap_range(params.h, h),
          tap_range(params.w, w)};
}

// One thread's share of a slab's elements: of kWidth columns, or kWidth vectors of them. Scalars:
// neighbouring threads take neighbouring pixels; vectors: neighbouring columns.
template <int kSlab, int kWidth, int kThreads, bool kAlongPixels>
struct WgradLanes {
  static constexpr int kCount = div_up(kSlab * kWidth, kThreads);
  static_assert(kThreads % kSlab == 0 && (kAlongPixels || kThreads % kWidth == 0));

  __device__ __forceinline__ static int pixel(int i) {
    return kAlongPixels ? threadIdx.x % kSlab : threadIdx.x / kWidth + i * (kThreads / kWidth);
  }
  __device__ __forceinline__ static int column(int i) {
    return kAlongPixels ? threadIdx.x / kSlab + i * (kThreads / kSlab) : threadIdx.x % kWidth;
  }
  // Fewer elements than threads: the last threads have none.
  __device__ __forceinline__ static bool has(int i) {
    return kSlab * kWidth % kThreads == 0 || (pixel(i) < kSlab && column(i) < kWidth);
  }
};

template <typename Tile, bool kVectorised>
class WgradLoader {
 public:
  using T = typename Tile::T;

  __device__ __forceinline__ WgradLoader(const WgradParams& params, const WgradRow* rows,
                                         int64_t first_filter)
      : x_(static_cast<const T*>(params.x.data)),
        dy_(static_cast<const T*>(params.dy.data) + first_filter * params.dy.strides.c),
        dy_stride_(params.dy.strides.c),
        rows_(rows) {
    filters_left_ =
        static_cast<int>(min_of(params.filters - first_filter, static_cast<int64_t>(Tile::kTileN)));
  }

  __device__ __forceinline__ void load(const WgradPixel* pixels) {
#pragma unroll
    for (int i = 0; i < XLanes::kCount; ++i) {
      x_values_[i] = {};
      if (!XLanes::has(i)) continue;
      const WgradPixel& pixel = pixels[XLanes::pixel(i)];
      const WgradRow row = rows_[XLanes::column(i) * kVector];
      if (pixel.h.contains(row.tap_h) && pixel.w.contains(row.tap_w)) {
        x_values_[i] = load_vector<T, kVector>(x_ + (pixel.x + row.x));
      }
    }
#pragma unroll
    for (int i = 0; i < DyLanes::kCount; ++i) {
      dy_values_[i] = {};
      if (!DyLanes::has(i)) continue;
      const int64_t pixel = pixels[DyLanes::pixel(i)].dy;
      const int filter = DyLanes::column(i) * kVector;
      if (pixel >= 0 && filter < filters_left_) {
        dy_values_[i] =
            load_vector<T, kVector>(dy_ + (pixel + filter * (kVectorised ? 1 : dy_stride_)));
      }
    }
  }

  __device__ __forceinline__ void store(Slab<Tile>& slab) const {
#pragma unroll
    for (int i = 0; i < XLanes::kCount; ++i) {
      if (!XLanes::has(i)) continue;
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        slab.m[XLanes::pixel(i)][XLanes::column(i) * kVector + j] =
            to_accumulator(x_values_[i].v[j]);
      }
    }
#pragma unroll
    for (int i = 0; i < DyLanes::kCount; ++i) {
      if (!DyLanes::has(i)) continue;
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        slab.n[DyLanes::pixel(i)][DyLanes::column(i) * kVector + j] =
            to_accumulator(dy_values_[i].v[j]);
      }
    }
  }

 private:
  static constexpr int kVector = kVectorised ? kVectorSize<T> : 1;
  using XLanes = WgradLanes<Tile::kSlab, Tile::kTileM / kVector, Tile::kThreads, !kVectorised>;
  using DyLanes = WgradLanes<Tile::kSlab, Tile::kTileN / kVector, Tile::kThreads, !kVectorised>;

  const T* x_;
  const T* dy_;
  int64_t dy_stride_;
  const WgradRow* rows_;
  int filters_left_;
  Vector<T, kVector> x_values_[XLanes::kCount], dy_values_[DyLanes::kCount];
};

// Sums to the workspace, or, where there is one slice, to dw.
template <typename Tile>
__device__ __forceinline__ void store_wgrad_tile(const WgradParams& params, const WgradBlock& block,
                                                 const TileSums<Tile>& sums) {
  using T = typename Tile::T;
  using A = typename Tile::A;
#pragma unroll
  for (int i = 0; i < Tile::kThreadM; ++i) {
    const int64_t row =
        block.first_row + thread_row<Tile>() + i % Tile::kRun + i / Tile::kRun * Tile::kHalf;
    if (row >= params.rows) continue;
    int64_t channel, tap_h, tap_w;
    decode_row(params, row, channel, tap_h, tap_w);
#pragma unroll
    for (int j = 0; j < Tile::kThreadN; ++j) {
      const int64_t filter = block.first_filter + thread_column<Tile>() + j;
      if (filter >= params.filters) continue;
      const int64_t k = block.group * params.filters + filter;
      if (params.splits > 1) {
        const int64_t filters = params.groups * params.filters;
        static_cast<A*>(params.workspace)[(block.slice * filters + k) * params.rows + row] =
            sums.total[i][j];
      } else {
        *params.dw.at<T>(k, channel, tap_h, tap_w) = from_accumulator<T>(sums.total[i][j]);
      }
    }
  }
}

template <typename Tile, bool kVectorised>
__global__ void __launch_bounds__(Tile::kThreads, 512 / Tile::kThreads)
    conv2d_wgrad_direct(const __grid_constant__ WgradParams params) {
  auto& shared = shared_storage<WgradStorage<Tile>>();
  int64_t tile = blockIdx.y * static_cast<int64_t>(gridDim.x) + blockIdx.x;
  if (tile >= params.tiles) return;
  WgradBlock block;
  block.first_row = take_digit(tile, params.row_tiles) * Tile::kTileM;
  block.first_filter = take_digit(tile, params.filter_tiles) * Tile::kTileN;
  block.slice = take_digit(tile, params.splits), block.group = tile;
  if (threadIdx.x == 0) shared.block = block;

  for (int row = threadIdx.x; row < Tile::kTileM; row += Tile::kThreads) {
    shared.rows[row] = row_descriptor(params, block.first_row + row);
  }
  const int64_t first_slab = block.slice * params.slice_slabs;
  const int64_t all_slabs =
      div_up(params.N * params.h.positions * params.w.positions, static_cast<int64_t>(Tile::kSlab));
  const int slabs = static_cast<int>(min_of(params.slice_slabs, all_slabs - first_slab));
  const bool writes_pixels = threadIdx.x < Tile::kSlab;
  if (writes_pixels) {
    shared.pixels_ahead[threadIdx.x].start(first_slab * Tile::kSlab + threadIdx.x, Tile::kSlab,
                                           params.w.positions, params.h.positions);
  }
  const auto write_pixels = [&](int slab) {
    if (!writes_pixels) return;
    Counter& pixel = shared.pixels_ahead[threadIdx.x];
    shared.pixels[slab % 2][threadIdx.x] = pixel_descriptor(params, shared.block.group, pixel);
    pixel.advance();
  };
  __syncthreads();
  write_pixels(0);
  __syncthreads();

  WgradLoader<Tile, kVectorised> loader(params, shared.rows, block.first_filter);
  const int row = thread_row<Tile>(), column = thread_column<Tile>();
  TileSums<Tile> sums;
  loader.load(shared.pixels[0]);
  loader.store(shared.slabs[0]);
  write_pixels(1);
  __syncthreads();
  for (int slab = 0; slab < slabs; ++slab) {
    const bool more = slab + 1 < slabs;
    if (more) loader.load(shared.pixels[(slab + 1) % 2]);
    write_pixels(slab + 2);  // over the table of `slab`, which nobody reads any more
    sums.add_slab(shared.slabs[slab % 2], row, column);
    if (more) loader.store(shared.slabs[(slab + 1) % 2]);
    __syncthreads();
  }
  sums.end_piece();
  store_wgrad_tile<Tile>(params, shared.block, sums);
}

// ---- the slices' sums ------------------------------------------------------------------------

constexpr int kReduceElements = 32;  // of a block: neighbouring threads, neighbouring elements
constexpr int kReduceLanes = 8;      // threads that share the slices of an element

template <typename A>
struct ReduceStorage {
  A sums[kReduceLanes][kReduceElements];
};

// dw[k][c][r][s] = the sum over slices of workspace[slice][k][row]
template <typename T>
__global__ void __launch_bounds__(kReduceElements* kReduceLanes)
    conv2d_wgrad_reduce(const __grid_constant__ WgradParams params) {
  using A = accumulator_t<T>;
  auto& shared = shared_storage<ReduceStorage<A>>();
  const int lane = threadIdx.x / kReduceElements, e = threadIdx.x % kReduceElements;
  const int64_t elements = params.groups * params.filters * params.rows;
  const int64_t block = blockIdx.y * static_cast<int64_t>(gridDim.x) + blockIdx.x;
  const int64_t element = block * kReduceElements + e;
  A sum = 0;
  if (element < elements) {
    const A* const slices = static_cast<const A*>(params.workspace) + element;
#pragma unroll 4
    for (int64_t slice = lane; slice < params.splits; slice += kReduceLanes) {
      sum += slices[slice * elements];
    }
  }
  shared.sums[lane][e] = sum;
  __syncthreads();
  if (lane != 0 || element >= elements) return;
#pragma unroll
  for (int i = 1; i < kReduceLanes; ++i) sum += shared.sums[i][e];
  int64_t row = element, channel, tap_h, tap_w;
  const int64_t k = quotient(element, params.rows);
  row -= k * params.rows;
  decode_row(params, row, channel, tap_h, tap_w);
  *params.dw.at<T>(k, channel, tap_h, tap_w) = from_accumulator<T>(sum);
}

}  // namespace fastconv::cuda
