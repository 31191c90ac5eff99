// Depthwise fprop and dgrad where channels are adjacent and of accumulator type: the source is read
// and the result written where they lie, with vector lanes along channels.
//
//   sums[pixel][vector] += source[pixel + tap][vector] * weights[tap][vector]
//
// kRowPixels pixels of a row x up to kRowVectors vectors of channels stay in registers while all
// taps pass over them; taps that leave the image are left out pixel by pixel. A run of pixels takes
// all its channels before the next begins, so that memory is read and written in order. A task:
// some rows of one image.
// Bound: bytes.
#pragma once

#include "cpu/depthwise_product.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int kRowPixels = 7;
constexpr int kRowVectors = kVectorBytes == 64 ? 4 : 2;
constexpr int64_t kMaxRowTaps = 9;  // of a class; with more, panels.h's constant steps are faster
constexpr int64_t kTasksOfThread = 8;
constexpr int64_t kMaxAhead = 2;  // rows and columns of a position that are asked for ahead

template <typename T>
static bool has_rows_of_channels(const DepthwiseProduct& o) {
  const Epilogue& e = *o.out.epilogue;
  for (int64_t i = 0; i < o.classes(); ++i) {
    if (o.taps(i / o.w.count, i % o.w.count) > kMaxRowTaps) return false;
  }
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
  int64_t weight_step;
};

// Asks for all channels of `pixels` pixels. In the order of their addresses: memory then comes as
// fast as for a copy, where pieces of some channels would leave half of that.
template <bool kWrite, typename T>
static inline void prefetch_pixels(const T* first, int64_t pixels, int64_t step, int64_t channels) {
  constexpr int64_t kLine = 64 / sizeof(T);
  for (int64_t m = 0; m < pixels; ++m) {
    for (int64_t k = 0; k < channels; k += kLine) {
      __builtin_prefetch(first + m * step + k, kWrite, 3);
    }
  }
}

// A function by itself, or the compiler does not keep the sums in registers.
template <int kPixels, int kVectors, typename T>
[[gnu::noinline]] static void depthwise_row_micro(const RowTaps& taps, const T* source,
                                                  const T* weights, const RunOutput<T>& out,
                                                  int64_t k) {
  const int64_t step = taps.pixel_step, rows = taps.rows, columns = taps.columns;
  vector_t<T> sums[kPixels][kVectors] = {};
  source += k;
  weights += k;
  for (int64_t i = 0; i < rows; ++i, source += taps.row_step) {
    const T* at = source;
    for (int64_t j = 0; j < columns; ++j) {
      const Clip clip = taps.clips[j];
      if (clip.begin == 0 && clip.end == kPixels) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const vector_t<T> filter = load_vector(weights + v * kLanes<T>);
#pragma GCC unroll 7
          for (int m = 0; m < kPixels; ++m) {
            sums[m][v] += load_vector(at + m * step + v * kLanes<T>) * filter;
          }
        }
      } else {
#pragma GCC unroll 7
        for (int m = 0; m < kPixels; ++m) {
          if (m < clip.begin || m >= clip.end) continue;
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            sums[m][v] +=
                load_vector(at + m * step + v * kLanes<T>) * load_vector(weights + v * kLanes<T>);
          }
        }
      }
      at += taps.column_step;
      weights += taps.weight_step;
    }
  }
  const RunOutput<T> to = out;  // a copy that no store can change
#pragma GCC unroll 7
  for (int m = 0; m < kPixels; ++m) {
#pragma GCC unroll 4
    for (int v = 0; v < kVectors; ++v) {
      to.store(m, k + v * kLanes<T>, sums[m][v]);
    }
  }
}

// All channels of a run: as many vectors at once as fit. The last vector ends with the last channel
// and computes some channels twice.
template <int kPixels, int kVectors = kRowVectors, typename T>
static void depthwise_run(const RowTaps& taps, const T* source, const T* weights,
                          const RunOutput<T>& out, int64_t channels, int64_t k = 0) {
  constexpr int64_t kChannels = kVectors * kLanes<T>;
  for (; k + kChannels <= channels; k += kChannels) {
    depthwise_row_micro<kPixels, kVectors>(taps, source, weights, out, k);
  }
  if constexpr (kVectors > 1) {
    depthwise_run<kPixels, kVectors / 2>(taps, source, weights, out, channels, k);
  } else if (k < channels) {
    depthwise_row_micro<kPixels, 1>(taps, source, weights, out, channels - kLanes<T>);
  }
}

// Row u of positions of class (a, b) in image n.
template <typename T>
static void depthwise_row(const DepthwiseProduct& o, int64_t n, int64_t u, int64_t a, int64_t b,
                          const T* weights, int64_t weight_step, Range* inside, Clip* clips) {
  GatherAxis h = o.h[a].axis, w = o.w[b].axis;
  if (h.taps < 2) h.offset_step = 1;  // may be anything, as no second tap is there
  if (w.taps < 2) w.offset_step = 1;
  const Strides& x = o.source.tensor.strides;
  const Epilogue& e = *o.out.epilogue;
  const int64_t first_h = u * h.source_step + h.offset;
  const Range rows = valid_range(first_h, h.offset_step, h.source_size, 0, h.taps);
  const int64_t inside_h = first_h + rows.begin * h.offset_step;
  const int64_t next_h = first_h + max64(0, h.taps - 1) * h.offset_step + 1;
  const bool asks = a == 0 && b == 0;  // for what all classes read
  const int64_t next_rows =
      asks ? min64(min64(h.source_step, kMaxAhead), h.source_size - next_h) : 0;
  const int64_t pixel_step = w.positions > 1 ? w.source_step * x.w : 0;
  const RowTaps taps = {rows.end - rows.begin,
                        w.taps,
                        h.offset_step * x.h,
                        w.offset_step * x.w,
                        pixel_step,
                        clips,
                        weight_step};
  const T* const source =
      static_cast<const T*>(o.source.tensor.data) + n * x.n + inside_h * x.h + w.offset * x.w;
  const T* const next = source + (next_h - inside_h) * x.h;
  const int64_t next_columns = min64(w.source_step, kMaxAhead);
  weights += rows.begin * w.taps * weight_step;
  for (int64_t j = 0; j < w.taps; ++j) {
    inside[j] =
        valid_range(w.offset + j * w.offset_step, w.source_step, w.source_size, 0, w.positions);
  }
  const bool is_clamp = Clamp<T>::is(e.activation);
  RunOutput<T> out = {nullptr,
                      static_cast<const T*>(e.bias),
                      nullptr,
                      o.out.tensor.strides.w * o.w.count * o.out.w.step,
                      e.residual.strides.w * o.w.count * o.out.w.step,
                      Clamp<T>(is_clamp ? e.activation : Activation::none)};
  const int64_t out_h = o.out.h.first + (u * o.h.count + a) * o.out.h.step;
  for_each_run<kRowPixels>(w.positions, [&](int64_t v, auto run) {
    constexpr int kPixels = decltype(run)::value;
    for (int64_t j = 0; j < w.taps; ++j) {
      clips[j] = {static_cast<int32_t>(min64(kPixels, max64(0, inside[j].begin - v))),
                  static_cast<int32_t>(min64(kPixels, max64(0, inside[j].end - v)))};
    }
    const int64_t out_w = o.out.w.first + (v * o.w.count + b) * o.out.w.step;
    out.y = o.out.tensor.at<T>(n, 0, out_h, out_w);
    out.residual = e.residual.data == nullptr ? nullptr : e.residual.at<T>(n, 0, out_h, out_w);
    // What the next row of positions reads first, and where the next run is stored.
    for (int64_t i = 0; i < next_rows; ++i) {
      prefetch_pixels<false>(next + v * taps.pixel_step + i * x.h, kPixels * next_columns, x.w,
                             o.channels);
    }
    prefetch_pixels<true>(out.y + kPixels * out.y_step, kPixels, out.y_step, o.channels);
    depthwise_run<kPixels>(taps, source + v * taps.pixel_step, weights, out, o.channels);
    if (is_clamp) return;
    const Epilogue only = {nullptr, {}, e.activation};
    for (int m = 0; m < kPixels; ++m) {
      T* const y = out.y + m * out.y_step;
      store_channels<T>(y, o.channels, only, nullptr, nullptr, 0, y);
    }
  });
}

// weights[class][tap][channel], rows weight_step apart.
template <typename T>
static void depthwise_rows(const DepthwiseProduct& o, const T* weights, int64_t weight_step,
                           int num_threads) {
  const int64_t U = o.tiles.h.positions, images = o.tiles.images;
  const int64_t blocks =  // of an image
      max64(1, min64(U, div_up(kTasksOfThread * num_threads, max64(1, images))));
  int64_t columns = 0;  // of any class
  for (int64_t b = 0; b < o.w.count; ++b) columns = max64(columns, o.w[b].axis.taps);
  parallel_for(images * blocks, num_threads, [&](int64_t task) {
    Range* const inside = static_cast<Range*>(
        scratch(ScratchSlot::kTask,
                max64(1, columns) * static_cast<int64_t>(sizeof(Range) + sizeof(Clip))));
    Clip* const clips = reinterpret_cast<Clip*>(inside + columns);
    const int64_t block = task % blocks;
    for (int64_t u = block * U / blocks; u < (block + 1) * U / blocks; ++u) {
      const T* filters = weights;
      for (int64_t a = 0; a < o.h.count; ++a) {
        for (int64_t b = 0; b < o.w.count; ++b) {
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
