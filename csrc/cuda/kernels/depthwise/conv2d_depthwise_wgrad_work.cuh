// What the depthwise wgrad kernels for a known filter share: which part of the problem a block and
// a thread own, and how the sums of a block's strips are added up.
#pragma once

#include "cuda/device/shared_memory.cuh"
#include "cuda/kernels/depthwise/conv2d_depthwise_tile.cuh"

namespace fastconv::cuda {

struct DepthwiseWgradParams {
  DepthwiseParams tiles;  // source is x, out is dy
  float* sums = nullptr;  // [slice][col_tile][k][tap]
  int64_t items = 0;      // row tiles of all images
  int64_t slice_items = 0;
};

struct DepthwiseWgradWork {
  uint32_t partial = 0;        // of the sums in the workspace: slice * col_tiles + col_tile
  int64_t begin = 0, end = 0;  // items of the slice
  int c0 = 0, x_w0 = 0, dy_w0 = 0;
  int channel = 0, strip = 0;  // of the thread, within the block
  bool active = false;         // whether the thread computes

  // blockIdx.x = partial * channel_blocks + channel_block. A thread owns `vector` adjacent
  // channels.
  __device__ __forceinline__ DepthwiseWgradWork(const DepthwiseWgradParams& params, uint32_t block,
                                                int vector = 1) {
    const DepthwiseParams& tiles = params.tiles;
    uint32_t channel_block, col_tile;
    partial = tiles.channel_blocks.divmod(block, channel_block);
    const uint32_t slice = tiles.col_tiles.divmod(partial, col_tile);
    begin = slice * params.slice_items;
    end = min_of(begin + params.slice_items, params.items);
    c0 = static_cast<int>(channel_block) * tiles.channels;
    x_w0 = tiles.source_first_w + static_cast<int>(col_tile) * tiles.tile_source_step_w;
    dy_w0 = static_cast<int>(col_tile) * tiles.tile_cols;

    uint32_t inner;
    const uint32_t outer = tiles.threads_inner.divmod(threadIdx.x, inner);
    channel = static_cast<int>(tiles.channels_inner ? inner : outer) * vector;
    strip = static_cast<int>(tiles.channels_inner ? outer : inner);
    active = channel < tiles.channels && strip < tiles.strips && c0 + channel < tiles.C;
  }
};

// Adds up the sums of a block's strips in order, and stores them to the workspace. One filter row
// at a time passes shared memory: [s][v][strip][vector] or [s][v][vector][strip], as threads are
// numbered.
template <int kFilter, int kVector>
__device__ __forceinline__ void add_strips(const float (&sums)[kFilter][kFilter][kVector],
                                           const DepthwiseWgradParams& params,
                                           const DepthwiseWgradWork& work) {
  constexpr int kTaps = kFilter * kFilter;
  const DepthwiseParams& tiles = params.tiles;
  float* const shared = &shared_storage<float>();
  const int vectors = tiles.channels / kVector, count = vectors * tiles.strips;
  float* const out = params.sums + (static_cast<int64_t>(work.partial) * tiles.C + work.c0) * kTaps;
#pragma unroll
  for (int r = 0; r < kFilter; ++r) {
    __syncthreads();
    if (work.active) {
#pragma unroll
      for (int s = 0; s < kFilter; ++s) {
#pragma unroll
        for (int v = 0; v < kVector; ++v) {
          shared[(s * kVector + v) * count + threadIdx.x] = sums[r][s][v];
        }
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < tiles.channels * kFilter; i += blockDim.x) {
      const int c = i / kFilter, s = i % kFilter;
      if (work.c0 + c >= tiles.C) break;
      const int vector = c / kVector;
      const int first = tiles.channels_inner ? vector : vector * tiles.strips;
      const int step = tiles.channels_inner ? vectors : 1;
      const float* const strip = shared + (s * kVector + c % kVector) * count + first;
      float sum = strip[0];
      for (int j = 1; j < tiles.strips; ++j) sum += strip[j * step];
      out[c * kTaps + r * kFilter + s] = sum;
    }
  }
}

}  // namespace fastconv::cuda
