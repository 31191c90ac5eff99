// The pixels that a tile of a convolution of small groups reads, kGroupedChannels channels of each,
// on their way to shared memory.
#pragma once

#include "cuda/device/cp_async.cuh"
#include "cuda/kernels/gemm/pixel_tile.cuh"

namespace fastconv::cuda {

struct GroupedSource {
  TensorView tensor;
  int C = 0, H = 0, W = 0;
  int stride_h = 1, stride_w = 1, pad_h = 0, pad_w = 0, dilation_h = 1, dilation_w = 1;
  FastDivmod row_taps;        // S
  int pixels = 0, pitch = 0;  // that a tile reads, and pixels of a row of them
  FastDivmod columns;         // pitch
};

// Begins to load a tile's pixels, zeros where there are none; cp_async_commit, its wait and a
// barrier must follow.
template <typename Config>
__device__ __forceinline__ void load_grouped_pixels(const GroupedSource& x, const PixelTile& tile,
                                                    int first, typename Config::element_t* shared) {
  using T = typename Config::element_t;
  constexpr int kChunks = kGroupedChannels / Config::kVector;
  const int h0 = tile.p * x.stride_h - x.pad_h, w0 = tile.q * x.stride_w - x.pad_w;
  const int chunk = static_cast<int>(threadIdx.x) % kChunks;
  const int channel = first + chunk * Config::kVector;
  const T* const image = x.tensor.at<const T>(tile.n, 0, 0, 0) + channel;
  const int stride_h = static_cast<int>(x.tensor.strides.h),
            stride_w = static_cast<int>(x.tensor.strides.w);
#pragma unroll 2
  for (int i = static_cast<int>(threadIdx.x) / kChunks; i < x.pixels;
       i += Config::kThreads / kChunks) {
    uint32_t column;
    const int h = h0 + static_cast<int>(x.columns.divmod(i, column));
    const int w = w0 + static_cast<int>(column);
    const bool inside = static_cast<unsigned>(h) < static_cast<unsigned>(x.H) &&
                        static_cast<unsigned>(w) < static_cast<unsigned>(x.W) && channel < x.C;
    cp_async_16(shared + i * kGroupedPixelPitch + chunk * Config::kVector,
                inside ? image + h * stride_h + w * stride_w : x.tensor.data, inside);
  }
}

}  // namespace fastconv::cuda
