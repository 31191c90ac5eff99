// Division and rounding of whole numbers, for the host, the CPU kernels and the CUDA kernels. No
// sum here overflows: sizes, strides and dilations may be anything up to 2^63 - 1.
#pragma once

#include <cstdint>

#include "problem/device.h"

namespace fastconv {

// a / b rounded up and down, for b > 0 and any sign of a.
template <typename A, typename B>
FASTCONV_LOCAL constexpr auto div_up(A a, B b) {
  return a / b + (a % b > 0 ? 1 : 0);
}
template <typename A, typename B>
FASTCONV_LOCAL constexpr auto div_down(A a, B b) {
  return a / b - (a % b < 0 ? 1 : 0);
}

// The first multiple of `multiple` that is not below value.
template <typename A, typename B>
FASTCONV_LOCAL constexpr auto round_up(A value, B multiple) {
  return div_up(value, multiple) * multiple;
}

FASTCONV_LOCAL int64_t greatest_common_divisor(int64_t a, int64_t b) {
  while (b != 0) {
    const int64_t rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

}  // namespace fastconv
