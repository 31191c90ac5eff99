// Copies a tensor to channels_last, whose vectors of channels the implicit GEMM's fast main loops
// read.
//
//   tile: kPackPixels pixels of an image x kPackChannels channels, turned round in shared memory:
//         lanes run along pixels where they read and along channels where they write.
//
// Bound: bytes, each read and written once.
#pragma once

#include "cuda/device/fast_divmod.cuh"
#include "cuda/device/numeric.cuh"
#include "cuda/device/shared_memory.cuh"
#include "problem/tensor.h"

namespace fastconv::cuda {

constexpr int kPackSourceThreads = 256, kPackPixels = 64, kPackChannels = 64;

struct PackSourceParams {
  TensorView from;
  void* to = nullptr;
  int C = 0, pixels = 0;    // of an image
  FastDivmod width, tiles;  // W; tiles of an image's pixels
};

// Word is an unsigned integer as wide as the elements.
template <typename Word>
struct PackSourceTile {
  // An odd number of words: neither a row nor a column of elements meets a bank twice.
  static constexpr int kPitch = kPackChannels + 4 / static_cast<int>(sizeof(Word));
  Word elements[kPackPixels * kPitch];
};

template <typename Word>
__global__ void __launch_bounds__(kPackSourceThreads)
    pack_source(const __grid_constant__ PackSourceParams params) {
  using Tile = PackSourceTile<Word>;
  auto& tile = shared_storage<Tile>();
  const int thread = static_cast<int>(threadIdx.x);
  uint32_t along_pixels, w;
  const int64_t n = params.tiles.divmod(blockIdx.x, along_pixels);
  const int first_pixel = static_cast<int>(along_pixels) * kPackPixels;
  const int first_channel = static_cast<int>(blockIdx.y) * kPackChannels;
  const int read_pixel = first_pixel + thread % kPackPixels;
  const int64_t h = params.width.divmod(min_of(read_pixel, params.pixels - 1), w);
  const Word* const from = params.from.at<const Word>(n, 0, h, w);
#pragma unroll 4
  for (int c = thread / kPackPixels; c < kPackChannels; c += kPackSourceThreads / kPackPixels) {
    if (read_pixel < params.pixels && first_channel + c < params.C) {
      tile.elements[thread % kPackPixels * Tile::kPitch + c] =
          from[(first_channel + c) * params.from.strides.c];
    }
  }
  __syncthreads();
  const int channel = first_channel + thread % kPackChannels;
  Word* const to = static_cast<Word*>(params.to) + n * params.pixels * params.C + channel;
#pragma unroll 4
  for (int i = thread / kPackChannels; i < kPackPixels; i += kPackSourceThreads / kPackChannels) {
    if (first_pixel + i < params.pixels && channel < params.C) {
      to[static_cast<int64_t>(first_pixel + i) * params.C] =
          tile.elements[i * Tile::kPitch + thread % kPackChannels];
    }
  }
}

}  // namespace fastconv::cuda
