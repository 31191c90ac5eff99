// fprop of one to four channels on the tensor cores, in 16 bits (sm_80 and later): the first layer
// of a network, whose pixels are too short for the vectors of the implicit GEMM.
//
//   block  = kPixelTileRows x kPixelTileColumns output pixels of an image and kTileN filters; it
//   takes
//            one tile of pixels after the other and keeps the filters in shared memory
//   warp   = two rows of pixels, all filters
//   gemm_k = (r, s, channel), the channels padded to four, the taps of a filter row to whole steps
//
//     x in shared memory
//   +--+--+--+--+--+--+--+--+
//   |p0|p1|p2|p3|p4|p5| ... |   a pixel is 4 channels, 8 bytes. A step of mma is 4 taps of a filter
//   +--+--+--+--+--+--+--+--+   row: lane (g, t) reads the pixel of tap t for output columns g and
//   | next row ...          |   g + 8, and the same tap of filter g.
//
// mma does not care in which order both operands count k. Here a lane's four values of k are the
// channels of one tap, so that both operands come in reads of 8 bytes that are aligned for any
// stride.
//
// A tap that only pads a filter row would multiply a neighbouring pixel by zero, which is NaN for
// an infinite one: its part of A is zero instead. Bound: bytes of y for up to 64 filters, else mma.
// Limits: one group, C <= 4; x and filters of a tile fit into shared memory; an image within 2^30
// elements.
#pragma once

#include "cuda/kernels/gemm/pixel_tile.cuh"

namespace fastconv::cuda {

struct StemGemmParams {
  TensorView x, w;
  GemmOutput output;
  PixelTiles tiles;
  int C = 0, H = 0, W = 0, K = 0, R = 0, S = 0;
  int stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0, dilation_h = 1, dilation_w = 1;
  int x_pixels = 0, x_pitch = 0;  // that a tile reads, and pixels of a row of them
  FastDivmod x_columns;           // x_pitch
  int row_steps = 0;              // steps of a filter row
  FastDivmod filter_taps, row_taps;
  int filter_pitch = 0;  // taps from filter to filter in shared memory
  int x_offset = 0;      // bytes of the filters in shared memory
};

// A pixel or a tap in shared memory.
template <typename T>
struct alignas(8) StemTap {
  T channels[kStemChannels];
};
template <typename T>
__device__ __forceinline__ StemTap<T> load_stem_tap(const T* from, int64_t stride, int channels) {
  StemTap<T> tap;
#pragma unroll
  for (int c = 0; c < kStemChannels; ++c) {
    tap.channels[c] = c < channels ? __ldg(from + c * stride) : from_accumulator<T>(0.0f);
  }
  return tap;
}

// The rest of a block's shared memory: x, and then the results in its place.
template <typename Config>
union StemStorage {
  StemTap<typename Config::element_t> x[1];  // x_pixels
  StagedTile<Config> staged;
};

template <typename Config>
__device__ __forceinline__ void load_stem_filters(const StemGemmParams& params, int first,
                                                  StemTap<typename Config::element_t>* filters) {
  using T = typename Config::element_t;
  const int taps = Config::kTileN * static_cast<int>(params.filter_taps.divisor());
  for (int i = threadIdx.x; i < taps; i += Config::kThreads) {
    uint32_t tap, s;
    const int filter = static_cast<int>(params.filter_taps.divmod(i, tap));
    const int r = static_cast<int>(params.row_taps.divmod(tap, s));
    const int k = first + filter;
    const bool there = k < params.K && static_cast<int>(s) < params.S;
    filters[filter * params.filter_pitch + static_cast<int>(tap)] =
        load_stem_tap(params.w.at<const T>(there ? k : 0, 0, r, there ? s : 0), params.w.strides.c,
                      there ? params.C : 0);
  }
}

template <typename Config>
__device__ __forceinline__ void load_stem_pixels(const StemGemmParams& params,
                                                 const PixelTile& tile,
                                                 StemTap<typename Config::element_t>* x) {
  using T = typename Config::element_t;
  const T* const image = params.x.at<const T>(tile.n, 0, 0, 0);
  const int stride_h = static_cast<int>(params.x.strides.h),
            stride_w = static_cast<int>(params.x.strides.w);
  const int h0 = tile.p * params.stride_h - params.pad_h,
            w0 = tile.q * params.stride_w - params.pad_w;
#pragma unroll 4
  for (int i = threadIdx.x; i < params.x_pixels; i += Config::kThreads) {
    uint32_t column;
    const int h = h0 + static_cast<int>(params.x_columns.divmod(i, column));
    const int w = w0 + static_cast<int>(column);
    const bool inside = static_cast<unsigned>(h) < static_cast<unsigned>(params.H) &&
                        static_cast<unsigned>(w) < static_cast<unsigned>(params.W);
    x[i] = load_stem_tap(inside ? image + h * stride_h + w * stride_w : image, params.x.strides.c,
                         inside ? params.C : 0);
  }
}

template <typename Config>
__device__ __forceinline__ void multiply_stem_tile(
    const StemGemmParams& params, const StemTap<typename Config::element_t>* x,
    const StemTap<typename Config::element_t>* filters, WarpTile<Config>& tile) {
  using Tile = WarpTile<Config>;
  const WarpPlace<Config> place;
  const int g = place.lane / 4, t = place.lane % 4;
  const int row_pixels = params.stride_h * params.x_pitch;  // from a row of y to the next
  const auto* a_row =
      x + place.row / kPixelTileColumns * row_pixels + g * params.stride_w + t * params.dilation_w;
  const auto* b_taps = filters + g * params.filter_pitch + t;
#pragma unroll 1
  for (int r = 0; r < params.R; ++r) {
    const auto* a_taps = a_row;
#pragma unroll 1
    for (int step = 0; step < params.row_steps; ++step) {
      typename Tile::FragmentsA a;
      typename Tile::FragmentsB b;
      const bool pads = step * kStemStepTaps + t >= params.S;
#pragma unroll
      for (int i = 0; i < Tile::kRows; ++i) {
        const auto* const at = a_taps + i * row_pixels;
        read_four(at, a[i][0], a[i][2]);
        read_four(at + kMmaM / 2 * params.stride_w, a[i][1], a[i][3]);
#pragma unroll
        for (int e = 0; e < 4; ++e) a[i][e] = pads ? 0 : a[i][e];
      }
#pragma unroll
      for (int j = 0; j < Tile::kColumns; ++j) {
        read_four(b_taps + j * kMmaN * params.filter_pitch, b[j][0], b[j][1]);
      }
      Tile::multiply_all(tile.acc, a, b);
      a_taps += kStemStepTaps * params.dilation_w;
      b_taps += kStemStepTaps;
    }
    a_row += params.dilation_h * params.x_pitch;
  }
}

template <typename Config>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm)
    conv2d_fprop_stem_gemm(const __grid_constant__ StemGemmParams params) {
  using T = typename Config::element_t;
  unsigned char* const memory = &shared_storage<unsigned char>();
  auto* const filters = reinterpret_cast<StemTap<T>*>(memory);
  auto& storage = *reinterpret_cast<StemStorage<Config>*>(memory + params.x_offset);
  const int first_filter = static_cast<int>(blockIdx.y) * Config::kTileN;
  load_stem_filters<Config>(params, first_filter, filters);
  for (int number = blockIdx.x; number < params.tiles.count; number += gridDim.x) {
    const PixelTile tile(params.tiles, number);
    load_stem_pixels<Config>(params, tile, storage.x);
    __syncthreads();
    WarpTile<Config> sums;
    multiply_stem_tile(params, storage.x, filters, sums);
    __syncthreads();  // all have read x, whose place the results take
    stage_pixel_tile(params.output, params.tiles, tile, sums, storage.staged);
    __syncthreads();
    store_tile(params.output, {params.K - first_filter, first_filter}, storage.staged);
    __syncthreads();  // all have read the results, whose place the next x takes
  }
}

}  // namespace fastconv::cuda
