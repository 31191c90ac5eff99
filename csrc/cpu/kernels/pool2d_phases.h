// The windows of averages added back to a row of x, with unit steps whatever the stride.
#pragma once

#include "cpu/runtime/pool2d_args.h"
#include "cpu/vectors/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Position q * stride + s of the padded row gets what tap s of window q holds. Positions that are
// equal modulo the stride form a phase, and all positions of a phase have the same taps: tap s of
// all windows is added to one phase with unit steps. The phases are interleaved at the end.
template <typename A>
class Phases {
 public:
  // Windows that are not regular (w.taps = 0) have none.
  explicit Phases(const CpuPoolAxis& w)
      : stride_(max64(1, w.stride)),
        length_(w.taps == 0 ? 0 : w.y_size + div_up(w.taps, stride_)) {}

  int64_t size() const { return stride_ * length_; }
  void clear(A* memory) {
    memory_ = memory;
    for (int64_t i = 0; i < size(); ++i) memory[i] = A{0};
  }
  // Where tap s of window 0 adds; window q is q elements further.
  A* tap(int64_t s) const { return memory_ + s % stride_ * length_ + s / stride_; }

  // The padded row: the one phase where it lies, or all of them interleaved into `row`.
  const A* interleave(A* __restrict row) const {
    if (stride_ == 1) return memory_;
    const A* __restrict const phases = memory_;
    if (stride_ == 2) {
      for (int64_t i = 0; i < length_; ++i) {
        row[2 * i] = phases[i];
        row[2 * i + 1] = phases[length_ + i];
      }
    } else {
      for (int64_t i = 0; i < length_; ++i) {
        for (int64_t phase = 0; phase < stride_; ++phase) {
          row[i * stride_ + phase] = phases[phase * length_ + i];
        }
      }
    }
    return row;
  }

 private:
  int64_t stride_, length_;
  A* memory_ = nullptr;
};

}  // namespace fastconv::cpu::FASTCONV_ISA
