// Depthwise fprop and dgrad where channels are adjacent and of accumulator type: the source is read
// and the result written where they lie, with vector lanes along channels.
//
//   sums[pixel][lane] += source[pixel + tap][lane] * weights[tap][lane]
//
// A run of pixels of a row stays in registers while all taps pass over it; taps that leave the
// image are left out pixel by pixel. A run takes all channels before the next begins, so that
// memory is read and written in order. A task: some rows of one image. Bound: bytes for 3x3, loads
// from L1 beyond.
#pragma once

#include "cpu/depthwise_product.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int64_t kRowTasks = 16;  // at least, where the images have that many rows

template <typename T>
static bool has_rows_of_channels(const DepthwiseProduct& o) {
  const Epilogue& e = *o.out.epilogue;
  return o.depth == 1 && o.source.repeat == 1 && o.source.tensor.strides.c == 1 &&
         o.out.tensor.strides.c == 1 && (e.residual.data == nullptr || e.residual.strides.c == 1) &&
         o.channels >= kLanes<T>;
}

// Pixels [begin, end) of a run whose tap lies inside of the source.
struct Clip {
  int32_t begin, end;
};

// Tap (i, j) of pixel m reads source[i * row_step + j * column_step + m * pixel_step].
struct RowTaps {
  int64_t rows, columns, row_step, column_step, pixel_step;
  const Clip* clips;  // of each column
};

// Where the results of a run of pixels go.
template <typename T>
struct RowOutput {
  T* y;
  const T *residual, *bias;  // may be null
  int64_t y_step, residual_step;
  Clamp<T> clamp;
};

// kPixels neighbours of a row, all channels. A function by itself, or the compiler does not keep
// the sums in registers.
template <int kPixels, typename T>
[[gnu::noinline]] static void depthwise_run(const RowTaps& row_taps, const T* first,
                                            const T* weights, int64_t weight_step, int64_t channels,
                                            const RowOutput<T>& out) {
  const RowTaps taps = row_taps;
  const int64_t step = taps.pixel_step;
  for (int64_t c = 0; c < channels; c += kLanes<T>) {
    // The last vector ends with the last channel and computes some channels twice.
    const int64_t k = min64(c, channels - kLanes<T>);
    const T* source = first + k;
    const T* filters = weights + k;
    vector_t<T> sums[kPixels] = {};
    for (int64_t i = 0; i < taps.rows; ++i, source += taps.row_step) {
      const T* at = source;
      for (int64_t j = 0; j < taps.columns; ++j, at += taps.column_step, filters += weight_step) {
        const vector_t<T> filter = load_vector(filters);
        const Clip clip = taps.clips[j];
        if (clip.begin == 0 && clip.end == kPixels) {
#pragma GCC unroll 14
          for (int m = 0; m < kPixels; ++m) sums[m] += load_vector(at + m * step) * filter;
        } else {
#pragma GCC unroll 14
          for (int m = 0; m < kPixels; ++m) {
            if (m >= clip.begin && m < clip.end) sums[m] += load_vector(at + m * step) * filter;
          }
        }
      }
    }
#pragma GCC unroll 14
    for (int m = 0; m < kPixels; ++m) {
      vector_t<T> z = sums[m];
      if (out.bias != nullptr) z += load_vector(out.bias + k);
      if (out.residual != nullptr) z += load_vector(out.residual + m * out.residual_step + k);
      store_vector(out.y + m * out.y_step + k, out.clamp(z));
    }
  }
}

template <typename T>
static void activate_channels(T* y, int64_t count, Activation activation) {
  const Epilogue only = {nullptr, {}, activation};
  store_channels<T>(y, count, only, nullptr, nullptr, 0, y);
}

// Row u of positions of class (a, b) in image n.
template <typename T>
static void depthwise_row(const DepthwiseProduct& o, int64_t n, int64_t u, int64_t a, int64_t b,
                          const T* weights, int64_t weight_step, Range* inside, Clip* clips) {
  const GatherAxis &h = o.h[a].axis, &w = o.w[b].axis;
  const Strides& x = o.source.tensor.strides;
  const Epilogue& e = *o.out.epilogue;
  const int64_t first_h = u * h.source_step + h.offset;
  const Range rows = valid_range(first_h, h.offset_step, h.source_size, 0, h.taps);
  const RowTaps taps = {rows.end - rows.begin, w.taps, h.offset_step * x.h, w.offset_step * x.w,
                        w.source_step * x.w,   clips};
  const T* const source = static_cast<const T*>(o.source.tensor.data) + n * x.n +
                          (first_h + rows.begin * h.offset_step) * x.h + w.offset * x.w;
  weights += rows.begin * w.taps * weight_step;
  for (int64_t j = 0; j < w.taps; ++j) {
    inside[j] =
        valid_range(w.offset + j * w.offset_step, w.source_step, w.source_size, 0, w.positions);
  }
  const bool is_clamp = Clamp<T>::is(e.activation);
  RowOutput<T> out = {nullptr,
                      nullptr,
                      static_cast<const T*>(e.bias),
                      o.out.tensor.strides.w * o.w_classes * o.out.w.step,
                      e.residual.strides.w * o.w_classes * o.out.w.step,
                      Clamp<T>(is_clamp ? e.activation : Activation::none)};
  const int64_t out_h = o.out.h.first + (u * o.h_classes + a) * o.out.h.step;
  for_each_run(w.positions, [&](int64_t v, auto run) {
    constexpr int kPixels = decltype(run)::value;
    for (int64_t j = 0; j < w.taps; ++j) {
      clips[j] = {static_cast<int32_t>(min64(kPixels, max64(0, inside[j].begin - v))),
                  static_cast<int32_t>(min64(kPixels, max64(0, inside[j].end - v)))};
    }
    const int64_t out_w = o.out.w.first + (v * o.w_classes + b) * o.out.w.step;
    out.y = o.out.tensor.at<T>(n, 0, out_h, out_w);
    out.residual = e.residual.data == nullptr ? nullptr : e.residual.at<T>(n, 0, out_h, out_w);
    depthwise_run<kPixels>(taps, source + v * taps.pixel_step, weights, weight_step, o.channels,
                           out);
    if (!is_clamp) {
      for (int m = 0; m < kPixels; ++m) {
        activate_channels(out.y + m * out.y_step, o.channels, e.activation);
      }
    }
  });
}

// weights[class][tap][channel], rows weight_step apart.
template <typename T>
static void depthwise_rows(const DepthwiseProduct& o, const T* weights, int64_t weight_step,
                           int num_threads) {
  const int64_t U = o.tiles.h.positions, images = o.tiles.images;
  const int64_t rows = div_up(U, max64(1, div_up(kRowTasks, max64(1, images))));
  const int64_t blocks = div_up(U, max64(1, rows));
  int64_t columns = 0;  // of any class
  for (int64_t b = 0; b < o.w_classes; ++b) columns = max64(columns, o.w[b].axis.taps);
  parallel_for(images * blocks, num_threads, [&](int64_t task) {
    Range* const inside = static_cast<Range*>(
        scratch(ScratchSlot::kTask,
                max64(1, columns) * static_cast<int64_t>(sizeof(Range) + sizeof(Clip))));
    Clip* const clips = reinterpret_cast<Clip*>(inside + columns);
    const int64_t first = task % blocks * rows;
    for (int64_t u = first; u < min64(U, first + rows); ++u) {
      const T* filters = weights;
      for (int64_t a = 0; a < o.h_classes; ++a) {
        for (int64_t b = 0; b < o.w_classes; ++b) {
          if (u < o.h[a].axis.positions) {
            depthwise_row<T>(o, task / blocks, u, a, b, filters, weight_step, inside, clips);
          }
          filters += o.taps(a, b) * weight_step;
        }
      }
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
