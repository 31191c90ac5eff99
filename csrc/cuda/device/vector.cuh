// Several adjacent elements moved by one load or store: up to 16 bytes, aligned to their size.
#pragma once

#include <cstdint>

#include "cuda/device/numeric.cuh"

namespace fastconv::cuda {

constexpr int kVectorBytes = 16;

template <typename T>
constexpr int kVectorSize = kVectorBytes / static_cast<int>(sizeof(T));

template <typename T, int kCount>
struct alignas(sizeof(T) * kCount) Vector {
  T v[kCount];
};

template <typename T, int kCount>
__device__ __forceinline__ Vector<T, kCount> load_vector(const T* address) {
  return *reinterpret_cast<const Vector<T, kCount>*>(address);
}

template <typename T, int kCount>
__device__ __forceinline__ void store_vector(T* address, const Vector<T, kCount>& value) {
  *reinterpret_cast<Vector<T, kCount>*>(address) = value;
}

}  // namespace fastconv::cuda
