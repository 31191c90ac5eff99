// Depthwise fprop and dgrad where channels are adjacent and of accumulator type: the source is read
// and the result written where they lie, with vector lanes along channels.
//
//   sums[pixel][vector] += source[pixel + tap][vector] * weights[tap][vector]
//
// kRowPixels pixels of a row x up to kRowVectors vectors of channels stay in registers while all
// taps pass over them, or one vector of two rows where the second row's taps lie a tap row further
// on: a source vector then meets two filters each time it comes to L1. (More sums than that would
// leave no registers for the filters.)
//
//     source row 0:  y row 0 += x * filter row 0
//     source row 1:  y row 0 += x * filter row 1    y row 1 += x * filter row 0
//     source row 2:  y row 0 += x * filter row 2    y row 1 += x * filter row 1
//     source row 3:                                 y row 1 += x * filter row 2
//
// Taps that leave the image are left out pixel by pixel. A run of pixels takes all its channels
// before the next begins, so that memory is read and written in order. A task: some rows of one
// image.
// Bound: bytes.
#pragma once

#include "cpu/kernels/depthwise_product.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int kRowPixels = 7;
constexpr int kRowVectors = kVectorBytes == 64 ? 4 : 2;
// The most taps of a phase for each source pixel, in single rows and in pairs; with more, the
// panels of conv2d_depthwise.cpp, whose steps are constants, are faster.
constexpr int64_t kMaxRowTaps = 9, kMaxPairTaps = 25;
constexpr int64_t kTasksOfThread = 4;
constexpr int64_t kMaxAhead = 2;  // rows and columns of a position that are prefetched

// Whether a row's taps lie a tap row further on than those of the row before.
static inline bool rows_pair(const DepthwiseProduct& product) {
  bool result = true;
  for (int64_t a = 0; a < product.h.count; ++a) {
    const GatherAxis& h = product.h[a].axis;
    result = result && h.source_step == 1 && (h.taps < 2 || h.tap_offset == 1);
  }
  return result;
}

// Whether depthwise_rows() runs a product, and is the faster way.
template <typename T>
static bool has_rows_of_channels(const DepthwiseProduct& product) {
  const Epilogue& e = *product.out.epilogue;
  const int64_t most = rows_pair(product) ? kMaxPairTaps : kMaxRowTaps;
  for (int64_t i = 0; i < product.phases(); ++i) {
    const GatherAxis &h = product.h[i / product.w.count].axis,
                     &w = product.w[i % product.w.count].axis;
    if (h.taps * w.taps > most * min64(h.source_step, h.taps) * min64(w.source_step, w.taps)) {
      return false;
    }
  }
  return product.depth == 1 && product.source.repeat == 1 && product.source.tensor.strides.c == 1 &&
         product.out.tensor.strides.c == 1 &&
         (e.residual.data == nullptr || e.residual.strides.c == 1) && product.channels >= kLanes<T>;
}

// Pixels [begin, end) of a run whose tap lies inside of the source.
struct Clip {
  int32_t begin, end;
};

// Tap (i, j) of pixel m reads source[i * row_step + j * column_step + m * pixel_step]. Of source
// rows 0, 1, ... those in `inside` lie in the image.
struct RowTaps {
  Range inside;
  int64_t rows, columns, row_step, column_step, pixel_step;
  const Clip* clips;  // of each column
  int64_t weight_step;
};

// Prefetches all channels of `pixels` pixels to L2, in the order of their addresses: memory is then
// a third faster than in pieces of some channels.
template <bool kWrite, typename T>
static inline void prefetch_pixels(const T* first, int64_t pixels, int64_t step, int64_t channels) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t m = 0; m < pixels; ++m) {
    for (int64_t k = 0; k < channels; k += kLine) {
      __builtin_prefetch(first + m * step + k, kWrite, 2);
    }
  }
}

// One tap of kPixels pixels, for output rows [kFirst, kLast): row y meets filter + y * filter_step.
template <int kFirst, int kLast, int kRows, int kPixels, int kVectors, typename T>
static inline void depthwise_row_tap(const Clip& clip, const T* at, int64_t step, const T* filter,
                                     int64_t filter_step,
                                     vector_t<T> (&sums)[kRows][kPixels][kVectors]) {
  const bool whole = clip.begin == 0 && clip.end == kPixels;
#pragma GCC unroll 4
  for (int v = 0; v < kVectors; ++v) {
    vector_t<T> filters[kRows];
    for (int y = kFirst; y < kLast; ++y) {
      filters[y] = load_vector(filter + y * filter_step + v * kLanes<T>);
    }
    if (whole) {
#pragma GCC unroll 7
      for (int m = 0; m < kPixels; ++m) {
        const vector_t<T> pixel = load_vector(at + m * step + v * kLanes<T>);
        for (int y = kFirst; y < kLast; ++y) sums[y][m][v] += pixel * filters[y];
      }
    } else {
#pragma GCC unroll 7
      for (int m = 0; m < kPixels; ++m) {
        if (m < clip.begin || m >= clip.end) continue;
        const vector_t<T> pixel = load_vector(at + m * step + v * kLanes<T>);
        for (int y = kFirst; y < kLast; ++y) sums[y][m][v] += pixel * filters[y];
      }
    }
  }
}

// A function by itself, or the compiler does not keep the sums in registers.
template <int kRows, int kPixels, int kVectors, typename T>
[[gnu::noinline]] static void depthwise_row_micro(const RowTaps& taps, const T* source,
                                                  const T* weights, const RunOutput<T>* outputs,
                                                  int64_t k) {
  const int64_t step = taps.pixel_step, columns = taps.columns;
  const int64_t filter_row = columns * taps.weight_step;
  vector_t<T> sums[kRows][kPixels][kVectors] = {};
  for (int64_t i = taps.inside.begin; i < taps.inside.end; ++i) {
    const T* at = source + k + i * taps.row_step;
    const T* filter = weights + k + i * filter_row;
    for (int64_t j = 0; j < columns; ++j, at += taps.column_step, filter += taps.weight_step) {
      if (kRows == 1 || i == 0) {
        depthwise_row_tap<0, 1>(taps.clips[j], at, step, filter, -filter_row, sums);
      } else if (i < taps.rows) {
        depthwise_row_tap<0, kRows>(taps.clips[j], at, step, filter, -filter_row, sums);
      } else {
        depthwise_row_tap<kRows - 1, kRows>(taps.clips[j], at, step, filter, -filter_row, sums);
      }
    }
  }
#pragma GCC unroll 2
  for (int y = 0; y < kRows; ++y) {
    const RunOutput<T> to = outputs[y];  // a copy that no store can change
#pragma GCC unroll 7
    for (int m = 0; m < kPixels; ++m) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) to.store(m, k + v * kLanes<T>, sums[y][m][v]);
    }
  }
}

// All channels of a run: as many vectors at once as fit. The last vector ends with the last channel
// and computes some channels twice.
template <int kRows, int kPixels, int kVectors = kRows == 1 ? kRowVectors : 1, typename T>
static void depthwise_run(const RowTaps& taps, const T* source, const T* weights,
                          const RunOutput<T>* outputs, int64_t channels, int64_t k = 0) {
  constexpr int64_t kChannels = kVectors * kLanes<T>;
  for (; k + kChannels <= channels; k += kChannels) {
    depthwise_row_micro<kRows, kPixels, kVectors>(taps, source, weights, outputs, k);
  }
  if constexpr (kVectors > 1) {
    depthwise_run<kRows, kPixels, kVectors / 2>(taps, source, weights, outputs, channels, k);
  } else if (k < channels) {
    depthwise_row_micro<kRows, kPixels, 1>(taps, source, weights, outputs, channels - kLanes<T>);
  }
}

// Rows u, ..., u + kRows - 1 of positions of phase (a, b) in image n.
template <int kRows, typename T>
static void depthwise_row(const DepthwiseProduct& product, int64_t n, int64_t u, int64_t a,
                          int64_t b, const T* weights, int64_t weight_step, Range* inside,
                          Clip* clips) {
  GatherAxis h = product.h[a].axis, w = product.w[b].axis;
  if (h.taps < 2) h.tap_offset = 1;  // unused without a second tap; it could overflow
  if (w.taps < 2) w.tap_offset = 1;
  Strides x = product.source.tensor.strides;
  if (h.source_size < 2) x.h = 0;  // unused in an axis of one position, too
  if (w.source_size < 2) x.w = 0;
  const Epilogue& e = *product.out.epilogue;
  const int64_t first_h = u * h.source_step + h.source_first;
  const int64_t source_rows = h.taps == 0 ? 0 : h.taps + kRows - 1;
  const int64_t next_h = first_h + max64(0, h.taps - 1) * h.tap_offset + 1 + (kRows - 1);
  const bool prefetches = a == 0 && b == 0;  // the first phase, for all of them
  const int64_t next_rows =
      prefetches ? min64(min64(h.source_step * kRows, kMaxAhead), h.source_size - next_h) : 0;
  const int64_t next_columns = min64(w.source_step, kMaxAhead);
  const RowTaps taps = {valid_range(first_h, h.tap_offset, h.source_size, 0, source_rows),
                        h.taps,
                        w.taps,
                        h.tap_offset * x.h,
                        w.tap_offset * x.w,
                        w.positions > 1 ? w.source_step * x.w : 0,
                        clips,
                        weight_step};
  const T* const image =
      static_cast<const T*>(product.source.tensor.data) + n * x.n + w.source_first * x.w;
  const T *const source = image + first_h * x.h, *const next = image + next_h * x.h;
  for (int64_t j = 0; j < w.taps; ++j) {
    inside[j] = valid_range(w.source_first + j * w.tap_offset, w.source_step, w.source_size, 0,
                            w.positions);
  }
  const bool is_clamp = Clamp<T>::is(e.activation);
  RunOutput<T> out[kRows];
  for (int y = 0; y < kRows; ++y) {
    out[y] = RunOutput<T>{nullptr,
                          static_cast<const T*>(e.bias),
                          nullptr,
                          product.out.tensor.strides.w * product.w.count * product.out.w.step,
                          e.residual.strides.w * product.w.count * product.out.w.step,
                          Clamp<T>(is_clamp ? e.activation : Activation{})};
  }
  for_each_run<kRowPixels, 4, 2, 1>(w.positions, [&](int64_t v, auto run) {
    constexpr int kPixels = decltype(run)::value;
    for (int64_t j = 0; j < w.taps; ++j) {
      clips[j] = {static_cast<int32_t>(min64(kPixels, max64(0, inside[j].begin - v))),
                  static_cast<int32_t>(min64(kPixels, max64(0, inside[j].end - v)))};
    }
    // What the next rows of positions read first, and where the next run is stored.
    for (int64_t i = 0; i < next_rows; ++i) {
      prefetch_pixels<false>(next + v * taps.pixel_step + i * x.h, kPixels * next_columns, x.w,
                             product.channels);
    }
    const int64_t out_w = product.out.w.first + (v * product.w.count + b) * product.out.w.step;
    for (int y = 0; y < kRows; ++y) {
      const int64_t out_h =
          product.out.h.first + ((u + y) * product.h.count + a) * product.out.h.step;
      out[y].y = product.out.tensor.at<T>(n, 0, out_h, out_w);
      out[y].residual = e.residual.data == nullptr ? nullptr : e.residual.at<T>(n, 0, out_h, out_w);
      prefetch_pixels<true>(out[y].y + kPixels * out[y].y_step, kPixels, out[y].y_step,
                            product.channels);
    }
    depthwise_run<kRows, kPixels>(taps, source + v * taps.pixel_step, weights, out,
                                  product.channels);
    if (is_clamp) return;
    for (int y = 0; y < kRows; ++y) {
      for (int m = 0; m < kPixels; ++m) {
        activate_row(out[y].y + m * out[y].y_step, product.channels, e.activation);
      }
    }
  });
}

// weights[phase][tap][channel], rows weight_step apart.
template <typename T>
static void depthwise_rows(const DepthwiseProduct& product, const T* weights, int64_t weight_step,
                           int num_threads) {
  const int64_t U = product.tiles.h.positions, images = product.tiles.images;
  const int64_t at_once = rows_pair(product) ? 2 : 1;
  const int64_t tasks = div_up(kTasksOfThread * num_threads, max64(1, images));  // of an image
  const int64_t task_rows = at_once * max64(1, U / (tasks * at_once));
  const int64_t blocks = div_up(U, task_rows);
  int64_t columns = 0;  // of any phase
  for (int64_t b = 0; b < product.w.count; ++b) columns = max64(columns, product.w[b].axis.taps);
  parallel_for(images * blocks, num_threads, [&](int64_t task) {
    Range* const inside = static_cast<Range*>(
        scratch(ScratchSlot::kTask,
                max64(1, columns) * static_cast<int64_t>(sizeof(Range) + sizeof(Clip))));
    Clip* const clips = reinterpret_cast<Clip*>(inside + columns);
    const int64_t begin = task % blocks * task_rows, end = min64(U, begin + task_rows);
    for (int64_t u = begin, rows = 0; u < end; u += rows) {
      rows = min64(at_once, end - u);
      const T* filters = weights;
      for (int64_t a = 0; a < product.h.count; ++a) {
        for (int64_t b = 0; b < product.w.count; ++b) {
          const int64_t there = min64(rows, product.h[a].axis.positions - u);
          if (there == 2) {
            depthwise_row<2, T>(product, task / blocks, u, a, b, filters, weight_step, inside,
                                clips);
          } else if (there == 1) {
            depthwise_row<1, T>(product, task / blocks, u, a, b, filters, weight_step, inside,
                                clips);
          }
          filters += product.taps(a, b) * weight_step;
        }
      }
    }
  });
}

}  // namespace fastconv::cpu::FASTCONV_ISA
