// What tensors' addresses and strides allow: the host's side of 16-byte accesses.
#pragma once

#include <cstdint>

#include "cuda/device/vector.cuh"
#include "problem/tensor.h"

namespace fastconv::cuda {

inline bool is_aligned(const void* address, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) == 0;
}

// Whether a tensor's rows along an axis all begin at an address that is a multiple of `bytes`.
inline bool is_aligned(const TensorView& tensor, const TensorSize& size, int64_t element_size,
                       int64_t Strides::* along, int64_t bytes) {
  return is_aligned(tensor.data, bytes) &&
         rows_are_aligned(tensor.strides, size, element_size, along, bytes);
}

// Whether kCount elements along an axis can be accessed at once, everywhere in a tensor of T.
template <typename T, int kCount>
bool has_vectors(const TensorView& tensor, const TensorSize& size, int64_t Strides::* along) {
  const int64_t extent = along == &Strides::c ? size.c : size.w;
  constexpr int64_t kBytes = kCount * static_cast<int64_t>(sizeof(T));
  return extent % kCount == 0 && tensor.strides.*along == 1 &&
         is_aligned(tensor, size, sizeof(T), along, min_of<int64_t>(kBytes, kVectorBytes));
}

// Whether channels are what lies next to each other.
inline bool channels_adjacent(const TensorView& tensor, int64_t channels) {
  return tensor.strides.c == 1 && channels > 1;
}

// Whether the positions of each plane form one row.
inline bool rows_join(const TensorView& tensor, int64_t H, int64_t W) {
  return H == 1 || tensor.strides.h == W * tensor.strides.w;
}

}  // namespace fastconv::cuda
