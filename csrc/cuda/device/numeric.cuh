// The dtypes on the device: storage types, the type they are summed in, conversions between them.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "problem/math.h"

namespace fastconv::cuda {

// The type in which values of a storage type are summed.
template <typename T>
struct Accumulator {
  using type = float;
};
template <>
struct Accumulator<double> {
  using type = double;
};
template <typename T>
using accumulator_t = typename Accumulator<T>::type;

__device__ __forceinline__ double to_accumulator(double value) { return value; }
__device__ __forceinline__ float to_accumulator(float value) { return value; }
__device__ __forceinline__ float to_accumulator(__half value) { return __half2float(value); }
__device__ __forceinline__ float to_accumulator(__nv_bfloat16 value) {
  return __bfloat162float(value);
}

// Rounds to nearest even.
template <typename T>
__device__ __forceinline__ T from_accumulator(accumulator_t<T> value) {
  return value;
}
template <>
__device__ __forceinline__ __half from_accumulator<__half>(float value) {
  return __float2half_rn(value);
}
template <>
__device__ __forceinline__ __nv_bfloat16 from_accumulator<__nv_bfloat16>(float value) {
  return __float2bfloat16_rn(value);
}

template <typename T>
__host__ __device__ constexpr T min_of(T a, T b) {
  return b < a ? b : a;
}
template <typename T>
__host__ __device__ constexpr T max_of(T a, T b) {
  return a < b ? b : a;
}

}  // namespace fastconv::cuda
