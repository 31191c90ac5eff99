// What the passes of the CPU's implicit GEMM share: which terms of a sum lie next to each other in
// a stage.
#pragma once

#include "cpu/kernels/gemm.h"
#include "cpu/staging/pixel_tiles.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int64_t kStageBytes = 640 << 10;  // tiles have fewer pixels where their stage is larger

template <typename T>
static inline TensorView channel_offset(const TensorView& tensor, int64_t channels) {
  return {static_cast<T*>(tensor.data) + channels * tensor.strides.c, tensor.strides};
}

// Whether a run of terms is a filter's row, the same in all tiles: where its taps lie one after the
// other and channels are few. Else it is a tap.
template <typename A>
static inline bool merges_rows(const GatherAxis& w, int64_t channels) {
  const bool adjacent =
      w.taps == 1 || (w.tap_offset == 1 && (w.positions == 1 || w.source_step <= w.taps));
  return adjacent && w.taps > 0 && channels < kLanes<A>;
}

// The terms of a stage: the offsets of its runs are written to `taps`.
static inline Terms fill_terms(const Stage& s, bool rows, int32_t* taps) {
  int32_t* out = taps;
  for (int64_t i = 0; i < s.h.axis.taps; ++i) {
    for (int64_t j = 0; j < (rows ? 1 : s.w.axis.taps); ++j) {
      *out++ = static_cast<int32_t>(s.tap(i, j));
    }
  }
  return {taps, rows ? s.w.axis.taps * s.channels : s.channels};
}

}  // namespace fastconv::cpu::FASTCONV_ISA
