// Which source positions meet which output positions along one axis: fprop gathers x around output
// pixels; dgrad gathers dy around the pixels of dx of one residue class modulo the stride, where it
// is a convolution of stride 1 again and no multiply-add is spent on the zeros between strides.
#pragma once

#include "cpu/isa.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Output positions first, first + step, ... along one axis, and the taps that reach the source from
// position number u: tap i reads source position u * source_step + offset + i * offset_step, where
// offset_step > 0, and the filter's element weight + i * weight_step.
struct GatherAxis {
  int64_t positions, first, step;
  int64_t taps, weight, weight_step;
  int64_t source_size, source_step, offset, offset_step;
};

static inline GatherAxis fprop_axis(int64_t in, int64_t out, int64_t kernel, int64_t stride,
                                    int64_t pad, int64_t dilation) {
  return {out, 0, 1, kernel, 0, 1, in, stride, -pad, dilation};
}

// The class of positions = residue modulo stride. Its taps are those with
// (residue + pad - r * dilation) divisible by stride; the last one reads the lowest source
// position.
static inline GatherAxis dgrad_axis(int64_t in, int64_t out, int64_t kernel, int64_t stride,
                                    int64_t pad, int64_t dilation, int64_t residue) {
  GatherAxis axis = {div_up(in - residue, stride), residue, stride, 0, 0, -1, out, 1, 0, 1};
  for (int64_t r = kernel - 1; r >= 0; --r) {
    if ((residue + pad - r * dilation) % stride != 0) continue;
    if (axis.taps == 0) {
      axis.weight = r;
      axis.offset = floor_div(residue + pad - r * dilation, stride);
    } else if (axis.taps == 1) {
      axis.weight_step = r - axis.weight;
      axis.offset_step = -(axis.weight_step * dilation / stride);
    }
    ++axis.taps;
  }
  return axis;
}

}  // namespace fastconv::cpu::FASTCONV_ISA
