// What the address and the strides of a tensor allow: several elements in one access, and planes
// that are read as rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "problem/tensor.h"

namespace fastconv {

// The widest access of a GPU's thread.
inline constexpr int kAccessBytes = 16;

inline bool is_aligned(const void* address, int64_t bytes) {
  return reinterpret_cast<uintptr_t>(address) % static_cast<uintptr_t>(bytes) == 0;
}

// Whether the rows of a tensor along an axis all begin at an address that is a multiple of `bytes`.
inline bool is_aligned(const TensorView& tensor, const TensorSize& size, int64_t element_size,
                       int64_t Strides::* along, int64_t bytes) {
  return is_aligned(tensor.data, bytes) &&
         rows_are_aligned(tensor.strides, size, element_size, along, bytes);
}

// Whether `count` elements along the axis `along` (c or w) can be moved at once everywhere in the
// tensor; by accesses of 16 bytes where they are more.
inline bool has_vectors(const TensorView& tensor, const TensorSize& size, int64_t element_size,
                        int64_t Strides::* along, int64_t count) {
  const int64_t extent = along == &Strides::c ? size.c : size.w;
  const int64_t bytes = std::min<int64_t>(count * element_size, kAccessBytes);
  return extent % count == 0 && tensor.strides.*along == 1 &&
         is_aligned(tensor, size, element_size, along, bytes);
}

// Whether the positions of each plane form one row.
FASTCONV_LOCAL bool rows_join(const TensorView& tensor, int64_t H, int64_t W) {
  return H == 1 || tensor.strides.h == W * tensor.strides.w;
}

// Whether channels, and not columns, are next to each other in memory.
FASTCONV_LOCAL bool channels_adjacent(const Strides& strides, int64_t channels) {
  return strides.c == 1 && channels > 1;
}

}  // namespace fastconv
