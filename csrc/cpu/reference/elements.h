// Element access of the reference kernels: any dtype seen as double.
#pragma once

#include "cpu/vectors/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {

template <typename T>
static double load(const TensorView& tensor, int64_t n, int64_t c, int64_t h, int64_t w) {
  return static_cast<double>(to_accumulator(*tensor.at<T>(n, c, h, w)));
}

template <typename T>
static void store(const TensorView& tensor, int64_t n, int64_t c, int64_t h, int64_t w,
                  double value) {
  *tensor.at<T>(n, c, h, w) = from_accumulator<T>(static_cast<accumulator_t<T>>(value));
}

}  // namespace fastconv::cpu::FASTCONV_ISA
