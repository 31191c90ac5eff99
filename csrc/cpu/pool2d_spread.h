// Spreading windows back over a row of x: position q * stride + s of the padded row gets what tap s
// of window q holds. Positions that are alike modulo the stride form a phase; a tap adds to one
// phase with unit steps, and the phases are interleaved at the end.
#pragma once

#include "cpu/pool2d_reduce.h"

namespace fastconv::cpu::FASTCONV_ISA {

template <typename A>
class Phases {
 public:
  explicit Phases(const PoolAxis& w)
      : stride_(w.stride), length_(w.out_size + div_up(w.taps, w.stride)) {}

  int64_t size() const { return stride_ * length_; }
  void clear(A* memory) {
    memory_ = memory;
    fill_row(memory, 1, A{0}, size());
  }
  // Where tap s of window 0 adds; window q is q elements further.
  A* tap(int64_t s) const { return memory_ + s % stride_ * length_ + s / stride_; }

  // The padded row: `phases` themselves where there is one, else interleaved into `row`.
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

// Stores the W positions of x from a padded row of `size` elements; those past its end are zero.
template <typename T>
static inline void store_padded_row(T* x, int64_t step, const accumulator_t<T>* row, int64_t size,
                                    const PoolAxis& w) {
  const int64_t stored = min64(w.in_size, size - w.pad);
  store_row(x, step, row + w.pad, stored);
  for (int64_t i = stored; i < w.in_size; ++i) x[i * step] = from_accumulator<T>(0);
}

}  // namespace fastconv::cpu::FASTCONV_ISA
