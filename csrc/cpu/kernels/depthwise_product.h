// What fprop and dgrad of a depthwise convolution compute, the filters as vectors of channels, and
// rows cut into runs of pixels.
#pragma once

#include "cpu/staging/store_tile.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Pixels of a row that are computed at a time: rows of 224, 112, 56, 28 and 14 are whole runs.
constexpr int kRun = kVectorBytes >= 32 ? 14 : 7;

// Lanes [k, k + count) of a tensor: lane l is its channel (k + l) / repeat.
struct Lanes {
  TensorView tensor;
  int64_t repeat;
};

// Output channel k is a sum over `depth` sources: x alone in fprop, and in dgrad the dy of each of
// the channel's filters. It reads lane k of each. Output position u * phases + phase of an axis is
// position u of that phase; the stage holds what the taps of all phases read.
struct DepthwiseProduct : GatherPhases {
  PixelTiles tiles;     // of positions u, v
  Lanes source;         // source 0
  int64_t source_step;  // elements from one source's lane 0 to the next one's
  TensorView filters;
  int64_t filter_stride, depth_stride;  // filter of output channel k and source d
  int64_t depth, channels;
  TileOutput out;
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

// Fills out[tap * step + channel] for whole vectors of channels, whose filters lie filter_stride
// apart and have their `taps` taps side by side: vectors of taps are transposed. Returns for how
// many channels; the last ones are left out, since a vector could reach behind their filters.
template <typename T>
static int64_t transpose_filters(const T* filters, int64_t filter_stride, int64_t channels,
                                 int64_t taps, accumulator_t<T>* out, int64_t step) {
  using A = accumulator_t<T>;
  int64_t k = 0;
  for (int64_t left = channels - kLanes<A>; left > 0 && left * filter_stride >= kLanes<A>;
       left -= kLanes<A>, k += kLanes<A>) {
    for (int64_t tap = 0; tap < taps; tap += kLanes<A>) {
      vector_t<A> block[kLanes<A>];
#pragma GCC unroll 16
      for (int l = 0; l < kLanes<A>; ++l) {
        block[l] = load_vector(filters + (k + l) * filter_stride + tap);
      }
      transpose<A>(block);
#pragma GCC unroll 16
      for (int l = 0; l < kLanes<A>; ++l) {
        if (tap + l < taps) store_vector(out + (tap + l) * step + k, block[l]);
      }
    }
  }
  return k;
}

// weights[d][phase][tap][output channel], rows `step` apart.
template <typename T>
static void pack_depthwise_weights(const DepthwiseProduct& product, int64_t step,
                                   accumulator_t<T>* out) {
  const Strides& strides = product.filters.strides;
  for (int64_t d = 0; d < product.depth; ++d) {
    for (int64_t i = 0; i < product.phases(); ++i) {
      const GatherAxis& h = product.h[i / product.w.count].axis;
      const GatherAxis& w = product.w[i % product.w.count].axis;
      const int64_t taps = h.taps * w.taps;
      const auto filter = [&](int64_t tap) {
        return product.filters.at<T>(0, 0, h.tap_first + tap / w.taps * h.tap_step,
                                     w.tap_first + tap % w.taps * w.tap_step) +
               d * product.depth_stride;
      };
      // fprop's taps rise, dgrad's fall.
      const int64_t apart = w.tap_step * strides.w;
      const bool adjacent = taps > 1 && (apart == 1 || apart == -1) &&
                            (h.taps == 1 || h.tap_step * strides.h == w.taps * apart);
      int64_t packed = 0;
      if (adjacent && apart == 1) {
        packed =
            transpose_filters(filter(0), product.filter_stride, product.channels, taps, out, step);
      } else if (adjacent) {
        packed = transpose_filters(filter(taps - 1), product.filter_stride, product.channels, taps,
                                   out + (taps - 1) * step, -step);
      }
      for (int64_t tap = 0; tap < taps; ++tap, out += step) {
        load_row(out + packed, filter(tap) + packed * product.filter_stride, product.filter_stride,
                 product.channels - packed);
        zero_row(out + product.channels, step - product.channels);
      }
    }
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
