// Tensors as the kernels see them: an address and four strides in elements. No layout is assumed:
// NCHW, channels_last, slices and expanded tensors are all just strides.
#pragma once

#include <cstdint>

#include "problem/device.h"

namespace fastconv {

enum class DType { float64, float32, float16, bfloat16 };

struct Strides {
  int64_t n = 0, c = 0, h = 0, w = 0;
};

struct TensorView {
  void* data = nullptr;
  Strides strides;

  template <typename T>
  FASTCONV_DEVICE T* at(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return static_cast<T*>(data) + n * strides.n + c * strides.c + h * strides.h + w * strides.w;
  }
};

}  // namespace fastconv
