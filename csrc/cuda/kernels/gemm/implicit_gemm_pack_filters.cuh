// Copies w into rows that the implicit GEMM reads 16 bytes at a time:
//   packed(class, group, column, (tap, channel)) with zeros up to the end of a 16-byte vector.
// For fprop a column is a filter and a channel an input channel; for dgrad the other way round, and
// each residue class has the taps that reach its positions. Bound: bytes of w, read once for each
// class that holds the tap, that is once.
#pragma once

#include "cuda/device/fast_divmod.cuh"
#include "cuda/device/numeric.cuh"
#include "plan/implicit_gemm_geometry.h"
#include "problem/tensor.h"

namespace fastconv::cuda {

struct PackedClass {
  int64_t begin = 0;  // of the class, in elements of the packed filters
  FastDivmod filter_row, taps_w;
  int tap_h_first = 0, tap_w_first = 0, tap_h_step = 1, tap_w_step = 1;
  int gemm_k = 0;
};

struct PackFiltersParams {
  TensorView w;
  void* packed = nullptr;
  bool dgrad = false;
  int64_t rows = 0;     // groups * columns of a group
  FastDivmod columns;   // of a group
  FastDivmod channels;  // of a group, summed over
  PackedClass classes[kMaxGemmClasses];
};

constexpr int kPackThreads = 256;

// Word is an unsigned integer as wide as the elements.
template <typename Word>
__global__ void __launch_bounds__(kPackThreads)
    implicit_gemm_pack_filters(const __grid_constant__ PackFiltersParams o) {
  const PackedClass& cls = o.classes[blockIdx.y];
  if (cls.gemm_k == 0) return;  // no tap reaches this class
  const int64_t count = o.rows * cls.filter_row.divisor();
  const int64_t step = static_cast<int64_t>(gridDim.x) * kPackThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x; i < count;
       i += step) {
    const int64_t row = i / cls.filter_row.divisor();
    const int k = static_cast<int>(i - row * cls.filter_row.divisor());
    Word value = 0;
    if (k < cls.gemm_k) {
      uint32_t channel, tap_w, column;
      const int tap_h = cls.taps_w.divmod(o.channels.divmod(k, channel), tap_w);
      const int r = cls.tap_h_first + tap_h * cls.tap_h_step;
      const int s = cls.tap_w_first + static_cast<int>(tap_w) * cls.tap_w_step;
      const int64_t group = o.columns.divmod(static_cast<uint32_t>(row), column);
      const int64_t filter = o.dgrad ? group * o.channels.divisor() + channel : row;
      value = *o.w.at<const Word>(filter, o.dgrad ? column : channel, r, s);
    }
    static_cast<Word*>(o.packed)[cls.begin + i] = value;
  }
}

}  // namespace fastconv::cuda
