// Depthwise convolution of any geometry: filter size, stride, dilation, tensor strides, K = m * C.
//
//   fprop   block = one output row of `channels` filters; thread = kStrip adjacent columns of one
//           filter. Filter rows pass through shared memory in pieces of kPiece taps. At stride and
//           dilation 1 a window of x slides through registers: one load for kStrip multiply-adds,
//           so that 31x31 is bound by FFMA and not by loads. dgrad of stride 1 takes this way too.
//   dgrad   the same tiling over dx, gathering from dy where the stride divides.
//   wgrad   thread = kTaps adjacent taps of one filter; lanes along filters, a block's warps along
//           filter rows. A slice of the rows (n, p) is summed row by row, then over rows, and
//           stored to the workspace; slices are added up afterwards in order.
//
// Bound: FFMA for large filters; else the L1 cache, through which x and dy are re-read.
#pragma once

#include "cuda/device/fast_divmod.cuh"
#include "cuda/device/numeric.cuh"
#include "cuda/device/shared_memory.cuh"
#include "problem/activation.h"
#include "problem/epilogue.h"
#include "problem/tensor.h"

namespace fastconv::cuda {

struct DepthwiseGenericParams {
  TensorView source, filter, out;  // x w y; for dgrad dy w dx; for wgrad x - dy
  Epilogue epilogue;               // of fprop
  void* sums = nullptr;            // of wgrad: [slice][k][tap]
  int K = 0, source_h = 0, source_w = 0, out_h = 0, out_w = 0, R = 0, S = 0;
  int stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0, dilation_h = 1, dilation_w = 1;
  FastDivmod multiplier;  // K / C
  FastDivmod by_stride_w;
  bool flip_filter = false;

  // What blockIdx.x counts: blocks of channels, tiles of strips along a row, rows of the output.
  FastDivmod blocks, col_tiles, rows;
  FastDivmod threads_inner;
  int channels = 0, strips = 0;
  bool channels_inner = false;

  // wgrad: a filter's rows are cut into pieces of kTaps taps, of which a block has some.
  FastDivmod pieces_per_row, piece_blocks;
  int pieces = 0;  // of a filter
  int64_t slice_rows = 0, N = 0;
};

constexpr int kGenericStrip = 8;
constexpr int kGenericPiece = 32;
// Odd, so that lanes along channels meet no bank twice.
constexpr int kGenericPitch = kGenericPiece + 1;

template <typename T>
struct GenericStorage {
  accumulator_t<T> taps[1];  // [channels][kGenericPitch]
};

// The part of a block and a thread in fprop and dgrad; "channel" counts filters in fprop.
struct GenericWork {
  int64_t n = 0;
  int c0 = 0, channel = 0, row = 0, col = 0;
  bool active = false;

  __device__ __forceinline__ GenericWork(const DepthwiseGenericParams& params, int count) {
    uint32_t channel_block = 0, col_tile = 0, out_row = 0, inner, rest = blockIdx.x;
    if (params.channels_inner) rest = params.blocks.divmod(rest, channel_block);
    rest = params.col_tiles.divmod(rest, col_tile);
    rest = params.rows.divmod(rest, out_row);
    if (!params.channels_inner) rest = params.blocks.divmod(rest, channel_block);
    n = rest;
    const uint32_t outer = params.threads_inner.divmod(threadIdx.x, inner);
    const int strip = static_cast<int>(params.channels_inner ? outer : inner);
    c0 = static_cast<int>(channel_block) * params.channels;
    channel = static_cast<int>(params.channels_inner ? inner : outer);
    row = static_cast<int>(out_row);
    col = (static_cast<int>(col_tile) * params.strips + strip) * kGenericStrip;
    active = channel < params.channels && strip < params.strips && c0 + channel < count &&
             col < params.out_w;
  }
};

// Taps [s0, s0 + count) of filter row r, of filters k(channel) = first + channel * step, to shared
// memory. Two barriers: nobody still reads the last piece, everybody sees this one.
template <typename T>
__device__ __forceinline__ void fill_piece(accumulator_t<T>* taps,
                                           const DepthwiseGenericParams& params, int first,
                                           int step, int limit, int r, int s0, int count) {
  __syncthreads();
  for (int i = threadIdx.x; i < params.channels * kGenericPiece; i += blockDim.x) {
    const int channel = i / kGenericPiece, s = i % kGenericPiece;
    if (channel >= limit || s >= count) continue;
    const int from_r = params.flip_filter ? params.R - 1 - r : r;
    const int from_s = params.flip_filter ? params.S - 1 - (s0 + s) : s0 + s;
    taps[channel * kGenericPitch + s] = to_accumulator(
        *params.filter.at<T>(first + static_cast<int64_t>(channel) * step, 0, from_r, from_s));
  }
  __syncthreads();
}

// sums[j] += row[begin + j + s] * taps[s], the row's columns outside of [0, width) being zero.
template <typename T>
__device__ __forceinline__ void slide_window(accumulator_t<T> (&sums)[kGenericStrip], const T* row,
                                             int64_t step, int width, int begin,
                                             const accumulator_t<T>* taps, int count) {
  using A = accumulator_t<T>;
  A x[2 * kGenericStrip];
#pragma unroll
  for (int j = 0; j < kGenericStrip; ++j) {
    const int w = begin + j;
    x[j] = w >= 0 && w < width ? to_accumulator(row[w * step]) : A(0);
  }
#pragma unroll 1
  for (int s = 0; s < count; s += kGenericStrip) {
#pragma unroll
    for (int j = 0; j < kGenericStrip; ++j) {
      const int w = begin + s + kGenericStrip + j;
      const bool used = s + j + 1 < count;
      x[kGenericStrip + j] = used && w >= 0 && w < width ? to_accumulator(row[w * step]) : A(0);
    }
#pragma unroll
    for (int t = 0; t < kGenericStrip; ++t) {
      if (s + t >= count) continue;
      const A tap = taps[s + t];
#pragma unroll
      for (int j = 0; j < kGenericStrip; ++j) sums[j] += x[t + j] * tap;
    }
#pragma unroll
    for (int j = 0; j < kGenericStrip; ++j) x[j] = x[kGenericStrip + j];
  }
}

template <typename T, int kThreads>
__global__ void __launch_bounds__(kThreads, 1)
    conv2d_fprop_depthwise_generic(const __grid_constant__ DepthwiseGenericParams params) {
  using A = accumulator_t<T>;
  A* const taps = shared_storage<GenericStorage<T>>().taps;
  const GenericWork work(params, params.K);
  const int k = work.c0 + work.channel, limit = min_of(params.channels, params.K - work.c0);
  const int64_t c = work.active ? params.multiplier.div(static_cast<uint32_t>(k)) : 0;
  const int begin = work.col * params.stride_w - params.pad_w;
  const bool dense = params.stride_w == 1 && params.dilation_w == 1;

  A sums[kGenericStrip] = {};
  for (int r = 0; r < params.R; ++r) {
    const int h = work.row * params.stride_h - params.pad_h + r * params.dilation_h;
    const bool outside = h < 0 || h >= params.source_h;  // the same for the whole block
    const T* const row = params.source.at<T>(work.n, c, outside ? 0 : h, 0);
    const int64_t step = params.source.strides.w;
    for (int s0 = 0; s0 < params.S; s0 += kGenericPiece) {
      const int count = min_of(kGenericPiece, params.S - s0);
      fill_piece<T>(taps, params, work.c0, 1, limit, r, s0, count);
      if (!work.active) continue;
      const A* const piece = taps + work.channel * kGenericPitch;
      if (outside) {
        A product = 0;
        for (int s = 0; s < count; ++s) product += A(0) * piece[s];
#pragma unroll
        for (int j = 0; j < kGenericStrip; ++j) sums[j] += product;
        continue;
      }
      if (dense) {
        slide_window<T>(sums, row, step, params.source_w, begin + s0, piece, count);
        continue;
      }
      for (int s = 0; s < count; ++s) {
#pragma unroll
        for (int j = 0; j < kGenericStrip; ++j) {
          const int w = begin + j * params.stride_w + (s0 + s) * params.dilation_w;
          sums[j] +=
              (w >= 0 && w < params.source_w ? to_accumulator(row[w * step]) : A(0)) * piece[s];
        }
      }
    }
  }
  if (!work.active) return;
  const Epilogue& epilogue = params.epilogue;
  const A bias =
      epilogue.bias != nullptr ? to_accumulator(static_cast<const T*>(epilogue.bias)[k]) : A(0);
#pragma unroll
  for (int j = 0; j < kGenericStrip; ++j) {
    const int w = work.col + j;
    if (w >= params.out_w) break;
    A z = sums[j] + bias;
    if (epilogue.residual.data != nullptr) {
      z += to_accumulator(*epilogue.residual.at<T>(work.n, k, work.row, w));
    }
    *params.out.at<T>(work.n, k, work.row, w) =
        from_accumulator<T>(activate(z, epilogue.activation));
  }
}

template <typename T, int kThreads>
__global__ void __launch_bounds__(kThreads, 1)
    conv2d_dgrad_depthwise_generic(const __grid_constant__ DepthwiseGenericParams params) {
  using A = accumulator_t<T>;
  A* const taps = shared_storage<GenericStorage<T>>().taps;
  const int multiplier = static_cast<int>(params.multiplier.divisor());
  const int C = params.K / multiplier;
  const GenericWork work(params, C);
  const int c = work.c0 + work.channel, limit = min_of(params.channels, C - work.c0);

  A sums[kGenericStrip] = {};
  for (int r = 0; r < params.R; ++r) {
    const int scaled = work.row + params.pad_h - r * params.dilation_h;
    // The same for the whole block.
    if (scaled < 0 || scaled % params.stride_h != 0) continue;
    const int p = scaled / params.stride_h;
    if (p >= params.source_h) continue;
    for (int m = 0; m < multiplier; ++m) {
      const int64_t k = work.active ? static_cast<int64_t>(c) * multiplier + m : 0;
      const T* const row = params.source.at<T>(work.n, k, p, 0);
      for (int s0 = 0; s0 < params.S; s0 += kGenericPiece) {
        const int count = min_of(kGenericPiece, params.S - s0);
        fill_piece<T>(taps, params, work.c0 * multiplier + m, multiplier, limit, r, s0, count);
        if (!work.active) continue;
        const A* const piece = taps + work.channel * kGenericPitch;
        for (int s = 0; s < count; ++s) {
#pragma unroll
          for (int j = 0; j < kGenericStrip; ++j) {
            const int at = work.col + j + params.pad_w - (s0 + s) * params.dilation_w;
            if (at < 0) continue;
            uint32_t remainder;
            const uint32_t q = params.by_stride_w.divmod(static_cast<uint32_t>(at), remainder);
            if (remainder == 0 && q < static_cast<uint32_t>(params.source_w)) {
              sums[j] += to_accumulator(row[q * params.source.strides.w]) * piece[s];
            }
          }
        }
      }
    }
  }
  if (!work.active) return;
#pragma unroll
  for (int j = 0; j < kGenericStrip; ++j) {
    const int w = work.col + j;
    if (w < params.out_w) {
      *params.out.at<T>(work.n, c, work.row, w) = from_accumulator<T>(sums[j]);
    }
  }
}

template <typename T, int kTaps, int kLanes, int kPieceRows>
__global__ void __launch_bounds__(kLanes* kPieceRows)
    conv2d_wgrad_depthwise_generic(const __grid_constant__ DepthwiseGenericParams params) {
  using A = accumulator_t<T>;
  uint32_t block, piece_block, s_piece;
  const uint32_t slice =
      params.piece_blocks.divmod(params.blocks.divmod(blockIdx.x, block), piece_block);
  const int k = static_cast<int>(block) * kLanes + static_cast<int>(threadIdx.x % kLanes);
  const uint32_t piece = piece_block * kPieceRows + threadIdx.x / kLanes;
  if (k >= params.K || piece >= static_cast<uint32_t>(params.pieces)) return;
  const int r = static_cast<int>(params.pieces_per_row.divmod(piece, s_piece));
  const int s0 = static_cast<int>(s_piece) * kTaps;
  const int64_t c = params.multiplier.div(static_cast<uint32_t>(k));
  const bool dense = params.stride_w == 1 && params.dilation_w == 1;
  const int64_t x_step = params.source.strides.w, dy_step = params.out.strides.w;

  A sums[kTaps] = {};
  const int64_t begin = slice * params.slice_rows;
  const int64_t end = min_of(begin + params.slice_rows, params.N * params.out_h);
  for (int64_t i = begin; i < end; ++i) {
    const int64_t n = i / params.out_h;
    const int p = static_cast<int>(i - n * params.out_h);
    const int h = p * params.stride_h - params.pad_h + r * params.dilation_h;
    const T* const dy_row = params.out.at<T>(n, k, p, 0);
    if (h < 0 || h >= params.source_h) {
      A product = 0;
      for (int q = 0; q < params.out_w; ++q) product += A(0) * to_accumulator(dy_row[q * dy_step]);
#pragma unroll
      for (int t = 0; t < kTaps; ++t) sums[t] += product;
      continue;
    }
    const T* const x_row = params.source.at<T>(n, c, h, 0);
    A row_sums[kTaps] = {};
    const auto x_at = [&](int w) {
      return w >= 0 && w < params.source_w ? to_accumulator(x_row[w * x_step]) : A(0);
    };
    if (dense) {
      const int first = s0 - params.pad_w;
      A x[2 * kTaps];
#pragma unroll
      for (int t = 0; t < kTaps; ++t) x[t] = x_at(first + t);
#pragma unroll 1
      for (int q0 = 0; q0 < params.out_w; q0 += kTaps) {
#pragma unroll
        for (int t = 0; t < kTaps; ++t) x[kTaps + t] = x_at(first + q0 + kTaps + t);
#pragma unroll
        for (int j = 0; j < kTaps; ++j) {
          if (q0 + j >= params.out_w) continue;
          const A dy = to_accumulator(dy_row[(q0 + j) * dy_step]);
#pragma unroll
          for (int t = 0; t < kTaps; ++t) row_sums[t] += x[j + t] * dy;
        }
#pragma unroll
        for (int t = 0; t < kTaps; ++t) x[t] = x[kTaps + t];
      }
    } else {
      for (int q = 0; q < params.out_w; ++q) {
        const A dy = to_accumulator(dy_row[q * dy_step]);
        const int first = q * params.stride_w - params.pad_w + s0 * params.dilation_w;
#pragma unroll
        for (int t = 0; t < kTaps; ++t) row_sums[t] += x_at(first + t * params.dilation_w) * dy;
      }
    }
#pragma unroll
    for (int t = 0; t < kTaps; ++t) sums[t] += row_sums[t];
  }
  A* const to = static_cast<A*>(params.sums) +
                ((static_cast<int64_t>(slice) * params.K + k) * params.R + r) * params.S + s0;
#pragma unroll
  for (int t = 0; t < kTaps; ++t) {
    if (s0 + t < params.S) to[t] = sums[t];
  }
}

}  // namespace fastconv::cuda
