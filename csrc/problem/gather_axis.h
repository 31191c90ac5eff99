// How the positions along one axis of a convolution's output meet those of its source, which is the
// tensor that the pass gathers: x in fprop and wgrad, dy in dgrad. Kernels take their geometry from
// here, once for h and once for w; only the simplest spell these formulas out themselves (the
// reference, the CPU's direct kernels, CUDA's stem and its depthwise kernels of any geometry).
//
//   fprop   y(p) = sum over r of x(h) * w(r),         h = p*stride - pad + r*dilation
//   dgrad   dx(h) = sum over the (p, r) that meet h of dy(p) * w(r)
//
// A phase of dgrad is the positions h that are equal modulo the stride. They all have the same
// taps, those with h + pad - r*dilation divisible by the stride, so that dgrad is one sum like
// fprop's for each phase, and no product is spent on the zeros that a stride puts between dy's
// positions (polyphase decomposition).
#pragma once

#include <cstdint>

#include "problem/conv_problem.h"
#include "problem/device.h"
#include "problem/math.h"

namespace fastconv {

// The sums along one axis, for u in [0, positions):
//
//   out(first + u*step) = sum over i in [0, taps) of
//       source(source_first + u*source_step + i*tap_offset) * w(tap_first + i*tap_step)
//
// where positions outside of [0, source_size) hold zero. Without taps the sums are zero.
struct GatherAxis {
  int64_t positions = 0, first = 0, step = 1;
  int64_t source_size = 0, source_first = 0, source_step = 1;
  int64_t taps = 0, tap_first = 0, tap_step = 1, tap_offset = 1;
};

// One axis of a convolution: the sizes of x, y and w along it, and what places the taps.
struct ConvAxis {
  int64_t x_size = 1, y_size = 1, kernel = 1;
  int64_t stride = 1, pad = 0, dilation = 1;
  // tap_step and tap_offset of all phases of dgrad: taps meet the same position of x where they are
  // stride / d apart, d being the greatest common divisor of stride and dilation, and the positions
  // of dy are then dilation / d apart.
  int64_t dgrad_tap_step = 1, dgrad_tap_offset = -1;
};

FASTCONV_LOCAL ConvAxis conv_axis(int64_t x_size, int64_t y_size, int64_t kernel, int64_t stride,
                                  int64_t pad, int64_t dilation) {
  const int64_t common = greatest_common_divisor(stride, dilation);
  return {x_size, y_size, kernel, stride, pad, dilation, stride / common, -(dilation / common)};
}
static inline ConvAxis h_axis(const ConvProblem& problem) {
  return conv_axis(problem.H, problem.P(), problem.R, problem.stride_h, problem.pad_h,
                   problem.dilation_h);
}
static inline ConvAxis w_axis(const ConvProblem& problem) {
  return conv_axis(problem.W, problem.Q(), problem.S, problem.stride_w, problem.pad_w,
                   problem.dilation_w);
}

// All positions of y.
FASTCONV_LOCAL GatherAxis fprop_axis(const ConvAxis& axis) {
  return {axis.y_size, 0, 1, axis.x_size, -axis.pad, axis.stride, axis.kernel, 0, 1, axis.dilation};
}

// The positions phase, phase + stride, ... of dx; of phases from dgrad_phases on there are none.
FASTCONV_LOCAL GatherAxis dgrad_axis(const ConvAxis& axis, int64_t phase) {
  GatherAxis gather = {div_up(axis.x_size - phase, axis.stride),
                       phase,
                       axis.stride,
                       axis.y_size,
                       0,
                       1,
                       0,
                       0,
                       axis.dgrad_tap_step,
                       axis.dgrad_tap_offset};
  // Of the first dgrad_tap_step taps one at most belongs to the phase.
  const int64_t end = axis.dgrad_tap_step < axis.kernel ? axis.dgrad_tap_step : axis.kernel;
  for (int64_t r = 0; r < end; ++r) {
    const int64_t scaled = phase + axis.pad - r * axis.dilation;  // stride * the position of dy
    if (scaled % axis.stride == 0) {
      gather.source_first = scaled / axis.stride;
      gather.tap_first = r;
      gather.taps = div_up(axis.kernel - r, axis.dgrad_tap_step);
      break;
    }
  }
  return gather;
}

FASTCONV_LOCAL int64_t dgrad_phases(const ConvAxis& axis) {
  return axis.stride < axis.x_size ? axis.stride : axis.x_size;
}

// The same sums with the taps in the opposite order: dgrad's then meet ascending source positions.
FASTCONV_LOCAL GatherAxis with_taps_reversed(GatherAxis axis) {
  if (axis.taps > 0) {
    axis.source_first += (axis.taps - 1) * axis.tap_offset;
    axis.tap_first += (axis.taps - 1) * axis.tap_step;
  }
  axis.tap_offset = -axis.tap_offset;
  axis.tap_step = -axis.tap_step;
  return axis;
}

}  // namespace fastconv
