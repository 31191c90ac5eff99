// fprop, and dgrad of stride 1, of groups of 4, 8 or 16 channels and as many filters on the tensor
// cores, in 16 bits and channels_last (sm_80 and later): ResNeXt's layers. A group fills a small
// part of the implicit GEMM's tiles.
//
//   block  = kPixelTileRows x kPixelTileColumns output pixels of an image and kGroupedChannels
//            channels; it takes one tile of pixels after the other and keeps the filters in shared
//            memory
//   warp   = two rows of pixels, all groups of the block
//   gemm_k = (tap, channel of the group): a step of mma is 16 / kGroup taps
//
//     x in shared memory, 16 bytes at a time       filters: row k has its taps one after the other
//   +------------+--+------------+--+                      +--------+--------+--------+
//   | p0: 32 ch. |  | p1: 32 ch. |  | ...            k     | tap 0  | tap 1  | tap 2  | ...
//   +------------+--+------------+--+                      +--------+--------+--------+
//
// A lane's four values of k are adjacent channels of one tap (conv2d_fprop_stem_gemm.cuh). mma has
// eight columns: with kGroup 4 they are two groups', each product has the pixels of one of them,
// and of its sums only that group's columns count. dgrad is fprop over dy with each group's filters
// transposed and turned by 180 degrees.
//
// A tap that only fills the last step would multiply some pixel by zero, which is NaN for an
// infinite one: its part of A is zero instead. Bound: bytes of x and y; for groups of 16, mma.
// Limits: C % 8 = 0, x in 16-byte vectors; x and filters of a tile fit into shared memory; an image
// within 2^30 elements.
#pragma once

#include "cuda/kernels/gemm/grouped_source.cuh"

namespace fastconv::cuda {

struct GroupedGemmParams {
  GroupedSource x;  // dy for dgrad
  TensorView w;
  GemmOutput output;
  PixelTiles tiles;
  bool dgrad = false;
  int taps = 0;
  int steps = 0;
  int x_offset = 0, staged_offset = 0;  // bytes of shared memory before
};

// The filters that make the block's channels, tap after tap, zeros where a step has no tap.
template <typename Config, int kGroup>
__device__ __forceinline__ void load_grouped_filters(const GroupedGemmParams& params, int first,
                                                     typename Config::element_t* filters) {
  using T = typename Config::element_t;
  const int row = grouped_filter_row(params.steps);
  const int count = kGroupedChannels * params.steps * kGroupedStepTerms;
  for (int i = threadIdx.x; i < count; i += Config::kThreads) {
    const int term = i % (params.steps * kGroupedStepTerms);
    const int made = i / (params.steps * kGroupedStepTerms);  // the channel that is made
    const int tap = term / kGroup, summed = term % kGroup;
    T value = from_accumulator<T>(0.0f);
    if (tap < params.taps && first + made < params.x.C) {
      uint32_t s;
      const int r =
          static_cast<int>(params.x.row_taps.divmod(params.dgrad ? params.taps - 1 - tap : tap, s));
      const int channel = first + made, other = channel / kGroup * kGroup + summed;
      value = params.dgrad ? *params.w.at<const T>(other, channel % kGroup, r, static_cast<int>(s))
                           : *params.w.at<const T>(channel, summed, r, static_cast<int>(s));
    }
    filters[made * row + term] = value;
  }
}

template <typename Config, int kGroup>
__device__ __forceinline__ void multiply_grouped_tile(const GroupedGemmParams& params,
                                                      const typename Config::element_t* x,
                                                      const typename Config::element_t* filters,
                                                      WarpTile<Config>& tile) {
  using T = typename Config::element_t;
  using Tile = WarpTile<Config>;
  using mma_t = typename Tile::mma_t;
  constexpr int kStepTaps = kGroupedStepTerms / kGroup;
  // Groups whose pixels the columns of one mma need, and columns that share them.
  constexpr int kGroupsOfColumns = kGroup < kMmaN ? kMmaN / kGroup : 1;
  constexpr int kColumnsOfGroup = kGroup > kMmaN ? kGroup / kMmaN : 1;
  const WarpPlace<Config> place;
  const int g = place.lane / 4, t = place.lane % 4;
  const int own_tap = 4 * t / kGroup, own_channel = 4 * t % kGroup;
  const int row_pixels = params.x.stride_h * params.x.pitch;
  const T* const pixel =
      x +
      (place.row / kPixelTileColumns * row_pixels + g * params.x.stride_w) * kGroupedPixelPitch +
      own_channel;
  const T* const filter = filters + g * grouped_filter_row(params.steps) + 4 * t;
  // Sums of the columns' second group.
  typename Tile::Sums others = {};
#pragma unroll 1
  for (int step = 0; step < params.steps; ++step) {
    const int tap = step * kStepTaps + own_tap;
    const bool fills = tap >= params.taps;
    uint32_t s;
    const int r = static_cast<int>(params.x.row_taps.divmod(fills ? 0 : tap, s));
    const T* const at = pixel + (r * params.x.dilation_h * params.x.pitch +
                                 static_cast<int>(s) * params.x.dilation_w) *
                                    kGroupedPixelPitch;
#pragma unroll
    for (int j = 0; j < Tile::kColumns; j += kColumnsOfGroup) {
      uint32_t b[kColumnsOfGroup][2];
#pragma unroll
      for (int n = 0; n < kColumnsOfGroup; ++n) {
        read_four(
            filter + (j + n) * kMmaN * grouped_filter_row(params.steps) + step * kGroupedStepTerms,
            b[n][0], b[n][1]);
      }
#pragma unroll
      for (int group = 0; group < kGroupsOfColumns; ++group) {
#pragma unroll
        for (int i = 0; i < Tile::kRows; ++i) {
          uint32_t a[4];
          const T* const from =
              at + i * row_pixels * kGroupedPixelPitch + j * kMmaN + group * kGroup;
          read_four(from, a[0], a[2]);
          read_four(from + kMmaM / 2 * params.x.stride_w * kGroupedPixelPitch, a[1], a[3]);
#pragma unroll
          for (int e = 0; e < 4; ++e) a[e] = fills ? 0 : a[e];
#pragma unroll
          for (int n = 0; n < kColumnsOfGroup; ++n) {
            mma<mma_t>(group == 0 ? tile.acc[i][j + n] : others[i][j + n], a, b[n]);
          }
        }
      }
    }
  }
  if constexpr (kGroupsOfColumns == 2) {
    // A lane has the columns 2t and 2t + 1.
    Tile::for_each_sum([&](int i, int j, int e) {
      if (t >= 2) tile.acc[i][j][e] = others[i][j][e];
    });
  }
}

template <typename Config, int kGroup>
__global__ void __launch_bounds__(Config::kThreads, Config::kBlocksPerSm)
    conv2d_grouped_gemm(const __grid_constant__ GroupedGemmParams params) {
  using T = typename Config::element_t;
  unsigned char* const memory = &shared_storage<unsigned char>();
  T* const filters = reinterpret_cast<T*>(memory);
  T* const x = reinterpret_cast<T*>(memory + params.x_offset);
  auto& staged = *reinterpret_cast<StagedTile<Config>*>(memory + params.staged_offset);
  const int first = static_cast<int>(blockIdx.y) * kGroupedChannels;
  load_grouped_filters<Config, kGroup>(params, first, filters);
  for (int number = blockIdx.x; number < params.tiles.count; number += gridDim.x) {
    const PixelTile tile(params.tiles, number);
    load_grouped_pixels<Config>(params.x, tile, first, x);
    cp_async_commit();
    cp_async_wait<0>();
    __syncthreads();
    WarpTile<Config> sums;
    multiply_grouped_tile<Config, kGroup>(params, x, filters, sums);
    // All have stored the last tile: they were at the barrier above.
    stage_pixel_tile(params.output, params.tiles, tile, sums, staged);
    __syncthreads();  // all have read x, too, whose place the next tile takes
    store_tile(params.output, {params.x.C - first, first}, staged);
  }
}

}  // namespace fastconv::cuda
