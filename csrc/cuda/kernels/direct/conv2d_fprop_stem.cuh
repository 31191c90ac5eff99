// fprop of few channels a group (1 to 4): the first layers of networks, and thinly grouped ones.
//
//   One block: kRows * row_groups x 32 output pixels of an image x kFilters * filter_groups
//   filters, for several such tiles of pixels in turn; 8 warps share them out as row_groups x
//   filter_groups. A thread: kRows pixels below each other x kFilters filters. Its lane is its
//   column, so that pixels are read from shared memory without conflicts and filters by broadcast.
//
//   shared memory: halo    [channel][row][column % stride_w][column / stride_w]: all pixels of x
//                          that a tile reads
//                  filters [tap][channel][filter], loaded once for all tiles of the block
//
// Bound: bytes of x and y for the usual 3 channels and 16-bit types, else FFMA: 32 multiply-adds
// for 6 reads from shared memory. Limits: halo and filters fit in shared memory
// (plan/cuda_direct_tile.h).
#pragma once

#include "cuda/device/epilogue.cuh"
#include "cuda/device/fast_divmod.cuh"
#include "cuda/device/shared_memory.cuh"
#include "cuda/kernels/direct/conv2d_direct_tile.cuh"
#include "problem/conv_problem.h"

namespace fastconv::cuda {

constexpr int kStemThreads = 256;
// Blocks on a multiprocessor at a time; double's sums need the registers of two.
template <typename T>
constexpr int kStemMinBlocks = sizeof(T) == 8 ? 1 : 2;

struct StemParams {
  ConvProblem problem;
  int64_t P = 0, Q = 0, channels = 1, filters = 1;  // channels and filters of a group
  TensorView x, w, y;
  Epilogue epilogue;
  int filter_groups = 1;  // row_groups = 8 / filter_groups
  int halo_rows = 1, halo_columns = 1;
  int phase_columns = 1, pitch = 1;  // of a row's columns of one phase; of a row
  int filter_pitch = 4, filters_offset = 0, columns_offset = 0;  // as in StemTile
  int rows_per_piece = 1;  // rows of taps whose products are summed apart
  FastDivmod by_columns, by_rows, by_stride_w, by_filter_terms, by_S;
  int64_t column_tiles = 0, row_tiles = 0, pixel_tiles = 0;  // pixel_tiles: of all images
  // A block computes a chunk of chunk_tiles tiles of pixels, one after the other.
  int64_t chunk_tiles = 1, chunks = 0, filter_tiles = 0, blocks = 0;
  bool channels_inner = false;  // order of the loads of x
  bool vector_y = false;        // neighbouring filters are stored at once
};

// Fills the halo of the tile whose first output pixel is (first_row, first_column) of image n.
template <typename T, int kChannels>
__device__ __forceinline__ void load_stem_halo(const StemParams& params, accumulator_t<T>* halo,
                                               const T* group_x, int64_t n, int64_t first_row,
                                               int64_t first_column) {
  const ConvProblem& problem = params.problem;
  const int64_t h = first_row * problem.stride_h - problem.pad_h,
                w = first_column * problem.stride_w - problem.pad_w;
  const auto clamp = [](int64_t value, int end) {
    return static_cast<int>(max_of(int64_t{0}, min_of(value, static_cast<int64_t>(end))));
  };
  const int row_begin = clamp(-h, params.halo_rows),
            row_end = clamp(problem.H - h, params.halo_rows);
  const int column_begin = clamp(-w, params.halo_columns);
  const int column_end = clamp(problem.W - w, params.halo_columns);
  const Strides& x = params.x.strides;
  const T* const source = group_x + n * x.n + h * x.h + w * x.w;
  const int count = kChannels * params.halo_rows * params.halo_columns;
#pragma unroll 4
  for (int e = threadIdx.x; e < count; e += kStemThreads) {
    uint32_t channel, row, column;
    if (params.channels_inner) {
      channel = e % kChannels;
      row = params.by_columns.divmod(e / kChannels, column);
    } else {
      channel = params.by_rows.divmod(params.by_columns.divmod(e, column), row);
    }
    const int r = row, c = column;
    T value = T(0.0f);
    if (channel < params.channels && r >= row_begin && r < row_end && c >= column_begin &&
        c < column_end) {
      value = source[channel * x.c + r * x.h + c * x.w];
    }
    uint32_t phase;
    const int position = params.by_stride_w.divmod(column, phase);
    halo[(channel * params.halo_rows + row) * params.pitch + phase * params.phase_columns +
         position] = to_accumulator(value);
  }
}

template <typename T, int kChannels>
__device__ __forceinline__ void load_stem_filters(const StemParams& params,
                                                  accumulator_t<T>* filters, int64_t group,
                                                  int64_t first_filter, int tile_filters) {
  const ConvProblem& problem = params.problem;
  const Strides& w = params.w.strides;
  const T* const source =
      static_cast<const T*>(params.w.data) + (group * params.filters + first_filter) * w.n;
  const int taps = static_cast<int>(problem.R * problem.S);
#pragma unroll 4
  for (int e = threadIdx.x; e < tile_filters * taps * kChannels; e += kStemThreads) {
    uint32_t term;  // (channel, tap), the tap innermost: the order of contiguous filters
    const int filter = params.by_filter_terms.divmod(e, term);
    uint32_t s;
    uint32_t r = params.by_S.divmod(term, s);
    int channel = 0;
    while (r >= problem.R) r -= problem.R, ++channel;  // at most kChannels - 1 times
    T value = T(0.0f);
    if (channel < params.channels && first_filter + filter < params.filters) {
      value = source[filter * w.n + channel * w.c + r * w.h + s * w.w];
    }
    filters[((r * problem.S + s) * kChannels + channel) * params.filter_pitch + filter] =
        to_accumulator(value);
  }
}

// total += the products of all taps for kRows pixels x kFilters filters. Long float32 sums go in
// pieces of some rows of taps.
template <typename A, int kChannels, int kRows, int kFilters>
__device__ __forceinline__ void sum_stem_taps(const StemParams& params, const A* halo,
                                              const A* filters, const int* column_offsets,
                                              A (&total)[kRows][kFilters]) {
  constexpr bool kInPieces = sizeof(A) == 4;
  const int R = static_cast<int>(params.problem.R), S = static_cast<int>(params.problem.S);
  const int row_step = static_cast<int>(params.problem.stride_h) * params.pitch;
  const int tap_step = static_cast<int>(params.problem.dilation_h) * params.pitch;
  const int plane = params.halo_rows * params.pitch;
  A piece[kInPieces ? kRows : 1][kFilters] = {};
  int rows_left = params.rows_per_piece;
  for (int r = 0; r < R; ++r) {
#pragma unroll 1
    for (int s = 0; s < S; ++s) {
      const A* const pixels = halo + r * tap_step + column_offsets[s];
#pragma unroll 1  // unrolled, each channel would take kRows addresses in registers
      for (int c = 0; c < kChannels; ++c) {
        A f[kFilters], x[kRows];
#pragma unroll
        for (int j = 0; j < kFilters; j += 4) {
          read_run(filters + c * params.filter_pitch + j, f + j);
        }
#pragma unroll
        for (int i = 0; i < kRows; ++i) x[i] = pixels[c * plane + i * row_step];
#pragma unroll
        for (int i = 0; i < kRows; ++i) {
#pragma unroll
          for (int j = 0; j < kFilters; ++j) {
            if constexpr (kInPieces) {
              piece[i][j] += x[i] * f[j];
            } else {
              total[i][j] += x[i] * f[j];
            }
          }
        }
      }
      filters += kChannels * params.filter_pitch;
    }
    if constexpr (kInPieces) {
      if (--rows_left > 0 && r + 1 < R) continue;
      rows_left = params.rows_per_piece;
#pragma unroll
      for (int i = 0; i < kRows; ++i) {
#pragma unroll
        for (int j = 0; j < kFilters; ++j) {
          total[i][j] += piece[i][j];
          piece[i][j] = 0;
        }
      }
    }
  }
}

// Stores a thread's pixels (p + i, q) of image n, filters k and up, of which `left` exist.
template <typename T, int kRows, int kFilters>
__device__ __forceinline__ void store_stem(const StemParams& params, int64_t n, int64_t k, int left,
                                           int64_t p, int64_t q,
                                           const accumulator_t<T> (&sums)[kRows][kFilters]) {
  constexpr int kVector = min_of(kFilters, kVectorSize<T>);
#pragma unroll
  for (int i = 0; i < kRows; ++i) {
    if (p + i >= params.P) break;
    T* const out = params.y.at<T>(n, k, p + i, q);
#pragma unroll
    for (int j = 0; j < kFilters; j += kVector) {
      Vector<T, kVector> values;
#pragma unroll
      for (int v = 0; v < kVector; ++v) {
        if (j + v >= left) break;
        values.v[v] = from_accumulator<T>(
            apply_epilogue<T>(sums[i][j + v], params.epilogue, n, k + j + v, p + i, q));
        if (!params.vector_y) out[(j + v) * params.y.strides.c] = values.v[v];
      }
      if (params.vector_y && j < left) store_vector(out + j, values);
    }
  }
}

template <typename T, int kChannels, int kRows, int kFilters>
__global__ void __launch_bounds__(kStemThreads, kStemMinBlocks<T>)
    conv2d_fprop_stem(const __grid_constant__ StemParams params) {
  using A = accumulator_t<T>;
  A* const halo = &shared_storage<A>();
  A* const filters = halo + params.filters_offset;
  int* const column_offsets = reinterpret_cast<int*>(halo + params.columns_offset);

  int64_t block = blockIdx.y * static_cast<int64_t>(gridDim.x) + blockIdx.x;
  if (block >= params.blocks) return;
  const int tile_filters = params.filter_groups * kFilters;
  const int tile_rows = kStemThreads / 32 / params.filter_groups * kRows;
  const int64_t first_filter = take_digit(block, params.filter_tiles) * tile_filters;
  const int64_t chunk = take_digit(block, params.chunks), group = block;

  load_stem_filters<T, kChannels>(params, filters, group, first_filter, tile_filters);
  for (int s = threadIdx.x; s < params.problem.S; s += kStemThreads) {
    uint32_t phase;
    const int position =
        params.by_stride_w.divmod(static_cast<uint32_t>(s * params.problem.dilation_w), phase);
    column_offsets[s] = phase * params.phase_columns + position;
  }

  const int lane = threadIdx.x % 32, warp = threadIdx.x / 32;
  const int filter = warp % params.filter_groups * kFilters;
  const int row = warp / params.filter_groups * kRows;
  const int64_t k = group * params.filters + first_filter + filter;
  const int left = static_cast<int>(
      min_of(params.filters - first_filter - filter, static_cast<int64_t>(kFilters)));
  const T* const x =
      static_cast<const T*>(params.x.data) + group * params.channels * params.x.strides.c;
  const int64_t first_tile = chunk * params.chunk_tiles;
  const int tiles = static_cast<int>(min_of(params.chunk_tiles, params.pixel_tiles - first_tile));
  for (int tile = 0; tile < tiles; ++tile) {
    int64_t n = first_tile + tile;
    const int64_t first_column = take_digit(n, params.column_tiles) * 32;
    const int64_t first_row = take_digit(n, params.row_tiles) * tile_rows;
    __syncthreads();  // the last tile's halo was read
    load_stem_halo<T, kChannels>(params, halo, x, n, first_row, first_column);
    __syncthreads();
    const int64_t p = first_row + row, q = first_column + lane;
    if (p >= params.P || left <= 0) continue;  // the whole warp
    A sums[kRows][kFilters] = {};
    sum_stem_taps<A, kChannels, kRows, kFilters>(
        params, halo + row * params.problem.stride_h * params.pitch + lane, filters + filter,
        column_offsets, sums);
    if (q < params.Q) {
      store_stem<T, kRows, kFilters>(params, n, k, left, p, q, sums);
    }
  }
}

}  // namespace fastconv::cuda
