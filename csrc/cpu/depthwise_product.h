// What fprop and dgrad of a depthwise convolution compute, the filters as vectors of channels, and
// rows cut into runs of pixels.
#pragma once

#include "cpu/store_tile.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int kRun = kVectorBytes >= 32 ? 14 : 7;  // pixels of a row at a time; ImageNet's rows

// Lanes [k, k + count) of a tensor: lane l is its channel (k + l) / repeat.
struct Lanes {
  TensorView tensor;
  int64_t repeat;
};

// Output channel k sums `depth` source lanes: the k-th of each. Output position u * classes + class
// of an axis is position u of that class; the stage holds what the taps of all classes read.
struct DepthwiseProduct {
  PixelTiles tiles;  // of positions u, v
  AxisClasses h, w;
  Lanes source;
  int64_t source_step;  // elements from source d's channel 0 to the next one's
  TensorView filters;
  int64_t filter_stride, depth_stride;  // filter of output channel k and source d
  int64_t depth, channels;
  TileOutput out;

  int64_t classes() const { return h.count * w.count; }
  int64_t taps(int64_t a, int64_t b) const { return h[a].axis.taps * w[b].axis.taps; }
  int64_t all_taps() const {
    int64_t sum = 0;
    for (int64_t i = 0; i < classes(); ++i) sum += taps(i / w.count, i % w.count);
    return sum;
  }
};

// Where a run's results go: y = clamp(sum + bias + residual), pixels a step apart.
template <typename T>
struct RunOutput {
  T* y;
  const T *bias, *residual;  // may be null
  int64_t y_step, residual_step;
  Clamp<accumulator_t<T>> clamp;

  // A vector of pixel m, k channels further on.
  void store(int m, int64_t k, vector_t<accumulator_t<T>> sum) const {
    if (bias != nullptr) sum += load_vector(bias + k);
    if (residual != nullptr) sum += load_vector(residual + m * residual_step + k);
    store_vector(y + m * y_step + k, clamp(sum));
  }
};

// Calls body(first, constant number of pixels) for the pixels of a row: 14, 7, 4, 2 or 1 at a time.
template <int kPixels = kRun, typename Body>
static inline void for_each_run(int64_t pixels, const Body& body, int64_t first = 0) {
  for (; first + kPixels <= pixels; first += kPixels) body(first, Constant<kPixels>{});
  if constexpr (kPixels > 1) for_each_run<(kPixels == 7 ? 4 : kPixels / 2)>(pixels, body, first);
}

// weights[d][class][tap][output channel], rows `step` apart.
template <typename T>
static void pack_depthwise_weights(const DepthwiseProduct& o, int64_t step, accumulator_t<T>* out) {
  for (int64_t d = 0; d < o.depth; ++d) {
    for (int64_t i = 0; i < o.classes(); ++i) {
      const GatherAxis& h = o.h[i / o.w.count].axis;
      const GatherAxis& w = o.w[i % o.w.count].axis;
      for (int64_t tap = 0; tap < h.taps * w.taps; ++tap, out += step) {
        const T* const in = o.filters.at<T>(0, 0, h.weight + tap / w.taps * h.weight_step,
                                            w.weight + tap % w.taps * w.weight_step) +
                            d * o.depth_stride;
        load_row(out, in, o.filter_stride, o.channels);
        zero_row(out + o.channels, step - o.channels);
      }
    }
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
