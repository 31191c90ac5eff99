// Several adjacent elements moved by one load or store of up to 16 bytes, aligned to their size, or
// by several of 16 bytes.
#pragma once

#include <cstdint>
#include <cstring>

#include "cuda/device/numeric.cuh"
#include "problem/layout.h"

namespace fastconv::cuda {

template <typename T>
constexpr int kVectorSize = kAccessBytes / static_cast<int>(sizeof(T));

template <typename T, int kCount>
struct alignas(min_of<int>(sizeof(T) * kCount, kAccessBytes)) Vector {
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

// store_vector to global memory; 16 bytes for certain in one access, where the compiler might
// choose to store a structure's members one by one.
template <typename T, int kCount>
__device__ __forceinline__ void store_global(T* address, const Vector<T, kCount>& value) {
#ifndef FASTCONV_EMULATOR
  if constexpr (sizeof(value) == 16) {
    uint32_t words[4];
    memcpy(words, &value, sizeof(words));
    asm volatile("st.global.v4.b32 [%0], {%1, %2, %3, %4};"
                 :
                 : "l"(__cvta_generic_to_global(address)), "r"(words[0]), "r"(words[1]),
                   "r"(words[2]), "r"(words[3])
                 : "memory");
    return;
  }
#endif
  store_vector(address, value);
}

}  // namespace fastconv::cuda
