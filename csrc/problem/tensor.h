// Tensors as the kernels see them: an address and four strides in elements. No layout is assumed:
// NCHW, channels_last, slices and expanded tensors are all just strides.
#pragma once

#include <cstdint>

#include "problem/device.h"

namespace fastconv {

enum class DType { float64, float32, float16, bfloat16 };

// Bytes of an element, and of the type that elements are summed in.
constexpr int64_t element_size(DType dtype) {
  return dtype == DType::float64 ? 8 : dtype == DType::float32 ? 4 : 2;
}
constexpr int64_t accumulator_size(DType dtype) { return dtype == DType::float64 ? 8 : 4; }

struct Strides {
  int64_t n = 0, c = 0, h = 0, w = 0;
};
struct TensorSize {
  int64_t n = 1, c = 1, h = 1, w = 1;
};

// Whether all elements whose position along one axis is 0 lie multiples of `bytes` apart, so that
// each can begin an access of so many bytes if the first one can. The stride of an axis with a
// single position is never used and may be anything.
inline bool rows_are_aligned(const Strides& strides, const TensorSize& size, int64_t element_size,
                             int64_t Strides::* along, int64_t bytes) {
  const auto fits = [&](int64_t Strides::* axis, int64_t extent) {
    return axis == along || extent == 1 || strides.*axis * element_size % bytes == 0;
  };
  return fits(&Strides::n, size.n) && fits(&Strides::c, size.c) && fits(&Strides::h, size.h) &&
         fits(&Strides::w, size.w);
}

// The same places, with strides of 0 along axes of a single position (but for channels). A kernel
// that forms the addresses of positions beside it, without reading there, forms aligned ones then.
inline Strides without_single_positions(Strides strides, const TensorSize& size) {
  if (size.n == 1) strides.n = 0;
  if (size.h == 1) strides.h = 0;
  if (size.w == 1) strides.w = 0;
  return strides;
}

struct TensorView {
  void* data = nullptr;
  Strides strides;

  template <typename T>
  FASTCONV_DEVICE T* at(int64_t n, int64_t c, int64_t h, int64_t w) const {
    return static_cast<T*>(data) + n * strides.n + c * strides.c + h * strides.h + w * strides.w;
  }
};

}  // namespace fastconv
