// What fprop and dgrad as an implicit GEMM are told (conv2d_implicit_gemm.cuh), and where the rows
// and the terms of their product lie in the source.
#pragma once

#include "cuda/device/fast_divmod.cuh"
#include "cuda/kernels/gemm/implicit_gemm_output.cuh"
#include "cuda/kernels/gemm/implicit_gemm_tile.cuh"

namespace fastconv::cuda {

// What a slab further along gemm_k = (tap_h, tap_w, channel) means, digit by digit, so that a walk
// along gemm_k carries instead of dividing. Offsets are elements of the source.
struct TapSteps {
  int channel = 0, tap_w = 0, tap_h = 0;  // digits of one slab
  int offset = 0;                         // of one slab, without carries
  int carry_w = 0, carry_h = 0;           // offsets of a carry into tap_w and into tap_h
  int taps_w = 1, taps_h = 0;
};

// One phase of the output positions; fprop has a single one. first_h, source_step_h and so on are
// what problem/gather_axis.h says of both axes.
struct GemmPhase {
  FastDivmod image, width;  // output positions of this phase in an image and in a row
  FastDivmod taps_w;
  int first_h = 0, first_w = 0;
  int source_first_h = 0, source_first_w = 0;
  int tap_offset_h = 0, tap_offset_w = 0;
  int gemm_m = 0, gemm_k = 0;
  int first_tile = 0;  // tiles along gemm_m of the phases before
  int filter_row = 0;  // elements of a packed row
  TapSteps steps;
  int64_t filters = 0;  // element offset of this phase's packed filters
};

struct ImplicitGemmParams {
  TensorView source;
  GemmOutput output;
  const void* filters = nullptr;  // (phase, group, gemm_n, gemm_k padded to filter_row)
  int source_h = 0, source_w = 0, source_step_h = 1, source_step_w = 1;
  int out_h = 0, out_w = 0, step_h = 1, step_w = 1;
  int64_t out_pixels = 0;  // N * out_h * out_w
  int gemm_n = 0;          // of a group
  int groups = 1, splits = 1, num_phases = 1;
  FastDivmod channels;          // source channels of a group
  FastDivmod tiles_n, tiles_m;  // of a group; tiles_m: of all phases
  GemmPhase phases[kMaxGemmPhases];
};

// What a block has to do: blockIdx.x = (group, tile along m, tile along n), blockIdx.y = slice.
struct GemmBlock {
  int phase, group, row0, column0, slab_begin, slab_end;

  template <typename Config>
  __device__ __forceinline__ static GemmBlock locate(const ImplicitGemmParams& params) {
    uint32_t tile_n, tile_m;
    GemmBlock block;
    block.group = params.tiles_m.divmod(params.tiles_n.divmod(blockIdx.x, tile_n), tile_m);
    block.phase = 0;
    while (block.phase + 1 < params.num_phases &&
           static_cast<int>(tile_m) >= params.phases[block.phase + 1].first_tile) {
      ++block.phase;
    }
    const GemmPhase& phase = params.phases[block.phase];
    block.row0 = (static_cast<int>(tile_m) - phase.first_tile) * Config::kTileM;
    block.column0 = static_cast<int>(tile_n) * Config::kTileN;
    const int slabs = div_up(phase.gemm_k, Config::kTileK);
    const int slice_slabs = div_up(slabs, params.splits);
    block.slab_begin = min_of(static_cast<int>(blockIdx.y) * slice_slabs, slabs);
    block.slab_end = min_of(block.slab_begin + slice_slabs, slabs);
    return block;
  }
};

// A row of gemm_m as the gather sees it: the position that a tap at offset 0 reads.
template <typename T>
struct GatherRow {
  const T* source;
  int h, w;
};

// `source` points to the source's first channel of the group.
template <typename T>
__device__ __forceinline__ GatherRow<T> gather_row(const ImplicitGemmParams& params,
                                                   const GemmPhase& phase, const T* source, int m) {
  if (m >= phase.gemm_m) return {source, kNowhere, 0};
  uint32_t pixel, q;
  const int64_t n = phase.image.divmod(m, pixel);
  const int p = phase.width.divmod(pixel, q);
  const int h = p * params.source_step_h + phase.source_first_h,
            w = static_cast<int>(q) * params.source_step_w + phase.source_first_w;
  return {source + n * params.source.strides.n + h * params.source.strides.h +
              w * params.source.strides.w,
          h, w};
}

// An element of gemm_k: what it adds to the row's position. An image's offsets fit 32 bits.
struct alignas(16) GatherTap {
  int offset, h, w;
};

__device__ __forceinline__ GatherTap gather_tap(const ImplicitGemmParams& params,
                                                const GemmPhase& phase, int k) {
  if (k >= phase.gemm_k) return {0, kNowhere, 0};
  uint32_t channel, tap_w;
  const int tap_h = phase.taps_w.divmod(params.channels.divmod(k, channel), tap_w);
  const int h = tap_h * phase.tap_offset_h, w = static_cast<int>(tap_w) * phase.tap_offset_w;
  return {h * static_cast<int>(params.source.strides.h) +
              w * static_cast<int>(params.source.strides.w) +
              static_cast<int>(channel) * static_cast<int>(params.source.strides.c),
          h, w};
}

template <typename T>
__device__ __forceinline__ bool inside(const ImplicitGemmParams& params, const GatherRow<T>& row,
                                       const GatherTap& tap) {
  return static_cast<unsigned>(row.h + tap.h) < static_cast<unsigned>(params.source_h) &&
         static_cast<unsigned>(row.w + tap.w) < static_cast<unsigned>(params.source_w);
}

}  // namespace fastconv::cuda
