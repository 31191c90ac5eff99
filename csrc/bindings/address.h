// How Python names a tensor: its address and its strides in elements. Nothing else crosses over.
#pragma once

#include <array>
#include <cstdint>

#include "problem/tensor.h"

namespace fastconv {

using Address = std::uintptr_t;  // 0 means: not given
using StrideTuple = std::array<int64_t, 4>;

inline Strides strides_of(const StrideTuple& s) { return {s[0], s[1], s[2], s[3]}; }

inline TensorView view(Address address, const StrideTuple& strides) {
  return {reinterpret_cast<void*>(address), strides_of(strides)};
}

}  // namespace fastconv
