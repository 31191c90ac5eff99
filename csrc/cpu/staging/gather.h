// Which source positions meet which output positions along one axis: fprop gathers x around output
// pixels; dgrad gathers dy around the pixels of dx of one residue class modulo the stride, where it
// is a convolution of stride 1 again and no multiply-add is spent on the zeros between strides.
#pragma once

#include "cpu/vectors/isa.h"
#include "problem/conv_problem.h"

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

// The output positions of an axis by classes, and the source positions that any of them reads:
// position u of class a has taps of the gathered axis first + i * step, i < classes[a].axis.taps.
// fprop has one class with all taps, dgrad one for each residue modulo the stride, in that order.
constexpr int64_t kMaxClasses = 4;
constexpr int64_t kMaxClassSpan = 16;  // of source positions around one that classes read
struct ClassAxis {
  GatherAxis axis;
  int64_t first, step;
};
struct AxisClasses {
  int64_t count;
  ClassAxis classes[kMaxClasses];
  GatherAxis gathered;

  const ClassAxis& operator[](int64_t i) const { return classes[i]; }
  // Where the positions of all classes lie: position u * count + a is position u of class a.
  GatherAxis output() const {
    GatherAxis axis = classes[0].axis;
    if (count > 1) axis.step = 1;
    for (int64_t i = 1; i < count; ++i) axis.positions += classes[i].axis.positions;
    return axis;
  }
};

static inline AxisClasses one_class(const GatherAxis& axis) { return {1, {{axis, 0, 1}}, axis}; }

// All classes of an axis of dgrad; none where they are too many or lie too far apart to be
// gathered together.
static inline AxisClasses dgrad_classes(int64_t in, int64_t out, int64_t kernel, int64_t stride,
                                        int64_t pad, int64_t dilation) {
  AxisClasses all = {min64(stride, in), {}, {}};
  const AxisClasses none = {0, {}, {}};
  if (stride > kMaxClasses) return none;
  int64_t lowest = INT64_MAX, highest = INT64_MIN;
  for (int64_t i = 0; i < all.count; ++i) {
    const GatherAxis axis = dgrad_axis(in, out, kernel, stride, pad, dilation, i);
    all.classes[i] = {axis, 0, 1};
    if (axis.taps == 0) continue;
    lowest = min64(lowest, axis.offset);
    highest = max64(highest, axis.offset + (axis.taps - 1) * axis.offset_step);
  }
  if (lowest > highest || highest - lowest >= max64(kMaxClassSpan, kernel)) return none;
  for (int64_t i = 0; i < all.count; ++i) {
    all.classes[i].first = all.classes[i].axis.offset - lowest;
    all.classes[i].step = all.classes[i].axis.offset_step;
  }
  all.gathered = {div_up(in, all.count), 0, 1, highest - lowest + 1, 0, 1, out, 1, lowest, 1};
  return all;
}

// Calls body(h, w) for every class of dx's pixels, one pair of axes after the other.
template <typename Body>
static void for_each_residue(const ConvProblem& o, const Body& body) {
  for (int64_t i = 0; i < min64(o.stride_h, o.H); ++i) {
    const GatherAxis h = dgrad_axis(o.H, o.P(), o.R, o.stride_h, o.pad_h, o.dilation_h, i);
    for (int64_t j = 0; j < min64(o.stride_w, o.W); ++j) {
      body(h, dgrad_axis(o.W, o.Q(), o.S, o.stride_w, o.pad_w, o.dilation_w, j));
    }
  }
}

// The classes of both axes: class (a, b) has taps(a, b) taps.
struct Classes {
  AxisClasses h, w;

  int64_t classes() const { return h.count * w.count; }
  int64_t taps(int64_t a, int64_t b) const { return h[a].axis.taps * w[b].axis.taps; }
  int64_t all_taps() const {
    int64_t sum = 0;
    for (int64_t i = 0; i < classes(); ++i) sum += taps(i / w.count, i % w.count);
    return sum;
  }
};

// Calls body(Classes) for the pixels of dx: once for all of them, or for one class after the other.
template <typename Body>
static void for_each_dgrad(const ConvProblem& o, const Body& body) {
  const AxisClasses h = dgrad_classes(o.H, o.P(), o.R, o.stride_h, o.pad_h, o.dilation_h);
  const AxisClasses w = dgrad_classes(o.W, o.Q(), o.S, o.stride_w, o.pad_w, o.dilation_w);
  if (h.count > 0 && w.count > 0) return body(Classes{h, w});
  for_each_residue(o, [&](const GatherAxis& rows, const GatherAxis& columns) {
    body(Classes{one_class(rows), one_class(columns)});
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
