// What the address and the strides of a tensor allow: several elements in one access, and planes
// that are read as rows.
#pragma once

#include <algorithm>
#include <cstdint>

#include "problem/tensor.h"

namespace fastconv {

// The widest access of a GPU's thread.
inline constexpr int kVectorBytes = 16;

struct TensorSize {
  int64_t n = 1, c = 1, h = 1, w = 1;
};

// Whether every row of elements along the axis `along` begins at a multiple of `bytes`: so must the
// tensor, and each stride along another axis of more than one position.
inline bool rows_aligned(const TensorView& tensor, const TensorSize& size, int64_t element_bytes,
                         int64_t Strides::* along, int64_t bytes) {
  if (reinterpret_cast<uintptr_t>(tensor.data) % static_cast<uintptr_t>(bytes) != 0) return false;
  const Strides& strides = tensor.strides;
  const auto fits = [&](int64_t Strides::* axis, int64_t extent) {
    return axis == along || extent == 1 || strides.*axis * element_bytes % bytes == 0;
  };
  return fits(&Strides::n, size.n) && fits(&Strides::c, size.c) && fits(&Strides::h, size.h) &&
         fits(&Strides::w, size.w);
}

// Whether `count` elements along the axis `along` (c or w) can be moved at once everywhere in the
// tensor; by accesses of 16 bytes where they are more.
inline bool has_vectors(const TensorView& tensor, const TensorSize& size, int64_t element_bytes,
                        int64_t Strides::* along, int64_t count) {
  const int64_t extent = along == &Strides::c ? size.c : size.w;
  const int64_t bytes = std::min<int64_t>(count * element_bytes, kVectorBytes);
  return extent % count == 0 && tensor.strides.*along == 1 &&
         rows_aligned(tensor, size, element_bytes, along, bytes);
}

// Internal linkage from here on, since CPU kernels call these: see problem/activation.h.

// Whether the positions of each plane form one row.
static inline bool rows_join(const TensorView& tensor, int64_t H, int64_t W) {
  return H == 1 || tensor.strides.h == W * tensor.strides.w;
}

// Whether channels, and not columns, are next to each other in memory.
static inline bool channels_adjacent(const Strides& strides, int64_t channels) {
  return strides.c == 1 && channels > 1;
}

}  // namespace fastconv
