// Sums the slices of a split gemm_k, in the order of the slices: the same bits every time.
//   fprop, dgrad: partial (slice, pixel, channel) -> out, with the epilogue
//   wgrad:        partial (slice, filter, (tap, channel)) -> dw
// A thread has one element of the result, neighbouring threads neighbouring ones of `partial`.
// Bound: bytes, 4 * (splits + 1) an element at most.
#pragma once

#include "cuda/device/epilogue.cuh"
#include "cuda/device/fast_divmod.cuh"
#include "cuda/device/numeric.cuh"

namespace fastconv::cuda {

struct SplitKReduceParams {
  const float* partial = nullptr;
  int64_t count = 0;  // elements of a slice
  int splits = 1;
  TensorView out;
  Epilogue epilogue;
  // What an element's index in its slice counts: (image, h, w, channel), or (filter, r, s, channel)
  // for dw.
  FastDivmod channels, width, height;
};

constexpr int kReduceThreads = 256;

template <typename T>
__global__ void __launch_bounds__(kReduceThreads)
    split_k_reduce(const __grid_constant__ SplitKReduceParams params) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kReduceThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kReduceThreads + threadIdx.x;
       i < params.count; i += step) {
    float sum = 0;
#pragma unroll 4
    for (int slice = 0; slice < params.splits; ++slice)
      sum += params.partial[slice * params.count + i];
    const int64_t row = i / params.channels.divisor();
    const int64_t channel = i - row * params.channels.divisor();
    uint32_t h, w;
    const int64_t n = params.height.divmod(params.width.divmod(static_cast<uint32_t>(row), w), h);
    *params.out.at<T>(n, channel, h, w) =
        from_accumulator<T>(apply_epilogue<T>(sum, params.epilogue, n, channel, h, w));
  }
}

}  // namespace fastconv::cuda
