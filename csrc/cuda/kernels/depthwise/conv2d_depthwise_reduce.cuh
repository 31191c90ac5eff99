// dw = the sum of its slices in the workspace, [slice][element]. A block owns kElements elements;
// each of its kGroups groups of threads adds up every kGroups-th slice, then the groups' sums are
// added in order: the same sum in every run.
//
// Bound: bytes of the workspace, which the L2 cache holds.
#pragma once

#include "cuda/device/fast_divmod.cuh"
#include "cuda/device/numeric.cuh"
#include "cuda/device/shared_memory.cuh"
#include "problem/tensor.h"

namespace fastconv::cuda {

struct DepthwiseReduceParams {
  const void* sums = nullptr;
  TensorView out;  // dw, one channel for each filter
  int64_t elements = 0;
  int splits = 0;
  FastDivmod taps, filter_width;
};

template <typename A, int kElements, int kGroups>
struct ReduceStorage {
  A sums[kGroups][kElements];
};

template <typename T, int kElements, int kGroups>
__global__ void __launch_bounds__(kElements* kGroups)
    conv2d_depthwise_reduce(const __grid_constant__ DepthwiseReduceParams params) {
  using A = accumulator_t<T>;
  auto& shared = shared_storage<ReduceStorage<A, kElements, kGroups>>();
  const int lane = threadIdx.x % kElements, group = threadIdx.x / kElements;
  const int64_t element = static_cast<int64_t>(blockIdx.x) * kElements + lane;
  A sum = A(0);
  if (element < params.elements) {
    const A* const sums = static_cast<const A*>(params.sums) + element;
#pragma unroll 8
    for (int slice = group; slice < params.splits; slice += kGroups) {
      sum += sums[slice * params.elements];
    }
  }
  shared.sums[group][lane] = sum;
  __syncthreads();
  if (group != 0 || element >= params.elements) return;
#pragma unroll
  for (int other = 1; other < kGroups; ++other) sum += shared.sums[other][lane];
  uint32_t tap, s;
  const uint32_t k = params.taps.divmod(static_cast<uint32_t>(element), tap);
  const uint32_t r = params.filter_width.divmod(tap, s);
  *params.out.at<T>(k, 0, r, s) = from_accumulator<T>(sum);
}

}  // namespace fastconv::cuda
