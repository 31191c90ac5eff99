// fastconv._core is a table: Python passes problems, addresses and strides; no logic lives here.
#pragma once

#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <cstdint>

#include "cpu/tensor.h"

namespace fastconv {

using Address = std::uintptr_t;  // 0 means: not given
using StrideTuple = std::array<int64_t, 4>;

inline TensorView view(Address address, const StrideTuple& s) {
  return {reinterpret_cast<void*>(address), {s[0], s[1], s[2], s[3]}};
}

void bind_problem(pybind11::module_& m);
void bind_conv2d(pybind11::module_& m);
void bind_pool2d(pybind11::module_& m);

}  // namespace fastconv
