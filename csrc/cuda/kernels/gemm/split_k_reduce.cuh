// Sums the slices of a split gemm_k, in the order of the slices: the same bits every time.
//   fprop, dgrad: partial (slice, pixel, channel) -> out, with the epilogue
//   wgrad:        partial (slice, filter, (tap, channel)) -> dw
// A thread has kVector adjacent channels of the result, neighbouring threads neighbouring ones.
// Bound: bytes, 4 * (splits + 1) an element at most.
#pragma once

#include "cuda/device/element_grid.cuh"
#include "cuda/device/epilogue.cuh"
#include "cuda/device/fast_divmod.cuh"
#include "cuda/device/vector.cuh"

namespace fastconv::cuda {

struct SplitKReduceParams {
  const float* partial = nullptr;
  int64_t count = 0;  // elements of a slice
  int splits = 1;
  TensorView out;
  Epilogue epilogue;
  // What an element's index in its slice counts: (image, h, w, channel), or (filter, r, s, channel)
  // for dw.
  Divider channels;
  FastDivmod width, height;
};

constexpr int kReduceThreads = 256;
// Elements of a thread where channels lie side by side: 16 bytes of partial sums.
constexpr int kReduceVector = 4;

// Of kVector elements, the first of which lies at (n, c, h, w) of `out`.
template <typename T, int kVector>
__device__ __forceinline__ void store_reduced(const SplitKReduceParams& params,
                                              const float (&sums)[kVector], int64_t n, int64_t c,
                                              int64_t h, int64_t w) {
  const Epilogue& epilogue = params.epilogue;
  Vector<T, kVector> residual = {}, result;
  if (epilogue.residual.data != nullptr) {
    residual = load_vector<T, kVector>(epilogue.residual.at<T>(n, c, h, w));
  }
#pragma unroll
  for (int e = 0; e < kVector; ++e) {
    float z = sums[e];
    if (epilogue.bias != nullptr) z += to_accumulator(static_cast<const T*>(epilogue.bias)[c + e]);
    if (epilogue.residual.data != nullptr) z += to_accumulator(residual.v[e]);
    result.v[e] = from_accumulator<T>(activate(z, epilogue.activation));
  }
  store_vector(params.out.at<T>(n, c, h, w), result);
}

template <typename T, int kVector>
__global__ void __launch_bounds__(kReduceThreads)
    split_k_reduce(const __grid_constant__ SplitKReduceParams params) {
  const int64_t step = static_cast<int64_t>(gridDim.x) * kReduceThreads * kVector;
  for (int64_t i = (static_cast<int64_t>(blockIdx.x) * kReduceThreads + threadIdx.x) * kVector;
       i < params.count; i += step) {
    float sums[kVector] = {};
#pragma unroll 4
    for (int slice = 0; slice < params.splits; ++slice) {
      const auto part = load_vector<float, kVector>(params.partial + slice * params.count + i);
#pragma unroll
      for (int e = 0; e < kVector; ++e) sums[e] += part.v[e];
    }
    int64_t channel;
    const int64_t row = params.channels.divmod(i, channel);
    uint32_t h, w;
    const int64_t n = params.height.divmod(params.width.divmod(static_cast<uint32_t>(row), w), h);
    store_reduced<T, kVector>(params, sums, n, channel, h, w);
  }
}

}  // namespace fastconv::cuda
