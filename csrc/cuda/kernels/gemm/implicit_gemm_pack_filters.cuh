// Copies w into rows that the implicit GEMM reads 16 bytes at a time:
//   packed(phase, group, column, (tap, channel)) with zeros up to the end of a 16-byte vector.
// For fprop a column is a filter and a channel an input channel; for dgrad the other way round, and
// each phase has the taps of its positions. Bound: bytes of w, of which each is read once, because
// a tap belongs to one phase.
#pragma once

#include "cuda/device/element_grid.cuh"
#include "cuda/device/fast_divmod.cuh"
#include "cuda/device/numeric.cuh"
#include "plan/implicit_gemm_geometry.h"
#include "problem/tensor.h"

namespace fastconv::cuda {

struct PackedPhase {
  int64_t begin = 0;  // of the phase, in elements of the packed filters
  Divider filter_row;
  FastDivmod taps_w;
  int row_elements = 0;  // zero where no tap reaches the phase
  int tap_first_h = 0, tap_first_w = 0, tap_step_h = 1, tap_step_w = 1;
  int gemm_k = 0;
};

struct PackFiltersParams {
  TensorView w;
  void* packed = nullptr;
  bool dgrad = false;
  int64_t rows = 0;     // groups * columns of a group
  FastDivmod columns;   // of a group
  FastDivmod channels;  // of a group, summed over
  PackedPhase phases[kMaxGemmPhases];
};

constexpr int kPackThreads = 256;

// Word is an unsigned integer as wide as the elements.
template <typename Word>
__global__ void __launch_bounds__(kPackThreads)
    implicit_gemm_pack_filters(const __grid_constant__ PackFiltersParams params) {
  const PackedPhase& phase = params.phases[blockIdx.y];
  const int64_t count = params.rows * phase.row_elements;
  const int64_t step = static_cast<int64_t>(gridDim.x) * kPackThreads;
  for (int64_t i = static_cast<int64_t>(blockIdx.x) * kPackThreads + threadIdx.x; i < count;
       i += step) {
    int64_t k;
    const int64_t row = phase.filter_row.divmod(i, k);
    Word value = 0;
    if (k < phase.gemm_k) {
      uint32_t channel, tap_w, column;
      const int tap_h =
          phase.taps_w.divmod(params.channels.divmod(static_cast<uint32_t>(k), channel), tap_w);
      const int r = phase.tap_first_h + tap_h * phase.tap_step_h;
      const int s = phase.tap_first_w + static_cast<int>(tap_w) * phase.tap_step_w;
      const int64_t group = params.columns.divmod(static_cast<uint32_t>(row), column);
      const int64_t filter = params.dgrad ? group * params.channels.divisor() + channel : row;
      value = *params.w.at<const Word>(filter, params.dgrad ? column : channel, r, s);
    }
    static_cast<Word*>(params.packed)[phase.begin + i] = value;
  }
}

}  // namespace fastconv::cuda
