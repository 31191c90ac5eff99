// Packing for the im2col convolutions: which source pixel meets which tap, and the copies into the
// operands of gemm.h. fprop gathers x around output pixels; dgrad gathers dy around the pixels of
// dx of one residue class modulo the stride, where it is a convolution of stride 1 again and no
// multiply-add is spent on the zeros between strides.
#pragma once

#include "cpu/gemm.h"
#include "cpu/isa.h"
#include "cpu/rows.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Output positions first, first + step, ... along one axis, and the taps that reach the source from
// position number u: tap i reads source position u * source_step + offset + i * offset_step and the
// filter's element weight + i * weight_step.
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
// (residue + pad - r * dilation) divisible by stride: every weight_step-th from the first on.
static inline GatherAxis dgrad_axis(int64_t in, int64_t out, int64_t kernel, int64_t stride,
                                    int64_t pad, int64_t dilation, int64_t residue) {
  GatherAxis axis = {div_up(in - residue, stride), residue, stride, 0, 0, stride, out, 1, 0, 0};
  for (int64_t r = 0; r < kernel; ++r) {
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

struct Gather {
  GatherAxis h, w;
  int64_t channels;   // of the source, in one group
  TensorView source;  // of the group: its channel 0 is the group's first
  int64_t pixels_per_image() const { return h.positions * w.positions; }
  int64_t gemm_k() const { return h.taps * w.taps * channels; }
};

// A run of consecutive flattened pixels (n, u, v) that share n and u.
struct PixelRun {
  int64_t n, u, v, count;
};
static inline PixelRun pixel_run(const Gather& g, int64_t pixel, int64_t end) {
  const int64_t image = g.pixels_per_image();
  const int64_t n = pixel / image, u = pixel % image / g.w.positions, v = pixel % g.w.positions;
  return {n, u, v, min64(g.w.positions - v, end - pixel)};
}

// What a run of pixels reads for one tap: pixels [begin, end) lie inside the source, the first of
// them at `first` in channel 0, and a step further each; the others read zeros.
template <typename T>
struct RunSource {
  int64_t begin, end;
  const T* first;
  int64_t step;
};

template <typename T>
static inline RunSource<T> run_source(const Gather& g, const PixelRun& run, int64_t tap_h,
                                      int64_t tap_w) {
  const int64_t h = run.u * g.h.source_step + g.h.offset + tap_h * g.h.offset_step;
  const int64_t w = run.v * g.w.source_step + g.w.offset + tap_w * g.w.offset_step;
  RunSource<T> source = {0, 0, nullptr, g.w.source_step * g.source.strides.w};
  if (h < 0 || h >= g.h.source_size) return source;
  const Range inside = valid_range(w, g.w.source_step, g.w.source_size, 0, run.count);
  source.begin = inside.begin;
  source.end = inside.end;
  if (source.begin < source.end) {
    source.first = g.source.at<T>(run.n, 0, h, w + source.begin * g.w.source_step);
  }
  return source;
}

// One gathered row: out[i * out_step] for the pixels of a run in one channel.
template <typename T>
static inline void gather_run(const RunSource<T>& source, int64_t channel_offset, int64_t count,
                              accumulator_t<T>* __restrict out, int64_t out_step) {
  using A = accumulator_t<T>;
  const int64_t begin = source.begin, end = source.end, step = source.step;
  for (int64_t i = 0; i < begin; ++i) out[i * out_step] = A(0);
  if (begin < end) {
    const T* const in = source.first + channel_offset;
    A* const target = out + begin * out_step;
    if (out_step == 1 && step == 1) {
      for (int64_t i = 0; i < end - begin; ++i) target[i] = to_accumulator(in[i]);
    } else if (out_step == 1) {
      for (int64_t i = 0; i < end - begin; ++i) target[i] = to_accumulator(in[i * step]);
    } else {
      for (int64_t i = 0; i < end - begin; ++i) target[i * out_step] = to_accumulator(in[i * step]);
    }
  }
  for (int64_t i = end; i < count; ++i) out[i * out_step] = A(0);
}

// Where pixels outside the source read their zeros from: as many as the longest run of channels
// that a caller of pixel_addresses may pack at once.
constexpr int64_t kMaxChannelRun = 288;
template <typename T>
static const T kZeros[kMaxChannelRun] = {};

// The address of `channel` of each pixel of a tile for one tap.
template <typename T>
static void pixel_addresses(const Gather& g, int64_t pixel, int64_t end, int64_t tap_h,
                            int64_t tap_w, int64_t channel, const T** out) {
  while (pixel < end) {
    const PixelRun run = pixel_run(g, pixel, end);
    const RunSource<T> source = run_source<T>(g, run, tap_h, tap_w);
    for (int64_t i = 0; i < run.count; ++i) {
      const bool inside = source.begin <= i && i < source.end;
      *out++ = inside ? source.first + channel + (i - source.begin) * source.step : kZeros<T>;
    }
    pixel += run.count;
  }
}

// Calls body(tap_h, tap_w, channel, count, k) for the runs of channels that share a tap in the
// gemm_k range [begin, end); gemm_k goes (tap_h, tap_w, channel), channel fastest.
template <typename Body>
static inline void for_each_tap(const Gather& g, int64_t begin, int64_t end, const Body& body) {
  for (int64_t k = begin; k < end;) {
    const int64_t tap = k / g.channels, channel = k % g.channels;
    const int64_t count = min64(g.channels - channel, end - k);
    body(tap / g.w.taps, tap % g.w.taps, channel, count, k - begin);
    k += count;
  }
}

// out[k][pixel]: gemm_k range [k_begin, k_end), rows out_step apart, columns zero up to columns.
template <typename T, int kMaxPixels>
static void pack_pixels_as_columns(const Gather& g, int64_t pixel, int64_t end, int64_t k_begin,
                                   int64_t k_end, accumulator_t<T>* out, int64_t out_step,
                                   int64_t columns) {
  using A = accumulator_t<T>;
  const int64_t pixels = end - pixel;
  const bool channels_adjacent = g.source.strides.c == 1 && g.channels > 1;
  for_each_tap(g, k_begin, k_end,
               [&](int64_t tap_h, int64_t tap_w, int64_t channel, int64_t count, int64_t k) {
                 if (channels_adjacent) {
                   const T* address[kMaxPixels];
                   pixel_addresses(g, pixel, end, tap_h, tap_w, channel, address);
                   for (int64_t c = 0; c < count; ++c) {
                     A* const row = out + (k + c) * out_step;
                     for (int64_t i = 0; i < pixels; ++i) row[i] = to_accumulator(address[i][c]);
                   }
                 } else {
                   for (int64_t i = pixel; i < end;) {
                     const PixelRun run = pixel_run(g, i, end);
                     const RunSource<T> source = run_source<T>(g, run, tap_h, tap_w);
                     for (int64_t c = 0; c < count; ++c) {
                       gather_run<T>(source, (channel + c) * g.source.strides.c, run.count,
                                     out + (k + c) * out_step + (i - pixel), 1);
                     }
                     i += run.count;
                   }
                 }
                 for (int64_t c = 0; c < count; ++c) {
                   for (int64_t i = pixels; i < columns; ++i) out[(k + c) * out_step + i] = A(0);
                 }
               });
}

// out[pixel][k]: the same values transposed, pixels out_step apart, columns zero up to columns.
template <typename T, int kMaxPixels>
static void pack_pixels_as_rows(const Gather& g, int64_t pixel, int64_t end, int64_t k_begin,
                                int64_t k_end, accumulator_t<T>* out, int64_t out_step,
                                int64_t columns) {
  using A = accumulator_t<T>;
  const int64_t pixels = end - pixel;
  const bool channels_adjacent = g.source.strides.c == 1 && g.channels > 1;
  for_each_tap(g, k_begin, k_end,
               [&](int64_t tap_h, int64_t tap_w, int64_t channel, int64_t count, int64_t k) {
                 if (channels_adjacent) {
                   const T* address[kMaxPixels];
                   pixel_addresses(g, pixel, end, tap_h, tap_w, channel, address);
                   for (int64_t i = 0; i < pixels; ++i)
                     load_row(out + i * out_step + k, address[i], 1, count);
                 } else {
                   for (int64_t i = pixel; i < end;) {
                     const PixelRun run = pixel_run(g, i, end);
                     const RunSource<T> source = run_source<T>(g, run, tap_h, tap_w);
                     for (int64_t c = 0; c < count; ++c) {
                       gather_run<T>(source, (channel + c) * g.source.strides.c, run.count,
                                     out + (i - pixel) * out_step + k + c, out_step);
                     }
                     i += run.count;
                   }
                 }
               });
  for (int64_t i = 0; i < pixels; ++i) {
    for (int64_t k = k_end - k_begin; k < columns; ++k) out[i * out_step + k] = A(0);
  }
}

// The filter as the GEMM's a operand: element (row m, channel c, r, s) of one group.
struct GatherWeights {
  TensorView w;  // of the group
  int64_t row_stride, channel_stride;
};

// One panel of kMicroM rows, out[k][row], rows past the end zero. A block of channels at a time, so
// that what all taps read and what one tap writes stays in L1 in every layout of the filter.
template <typename T>
static void pack_weight_panel(const Gather& g, const GatherWeights& weights, int64_t row,
                              int64_t row_end, accumulator_t<T>* __restrict out) {
  using A = accumulator_t<T>;
  constexpr int64_t kChannels = 32;
  const Strides& strides = weights.w.strides;
  const int64_t rows = min64(kMicroM, row_end - row);
  if (rows < kMicroM) {
    for (int64_t i = 0; i < g.gemm_k() * kMicroM; ++i) out[i] = A(0);
  }
  for (int64_t c0 = 0; c0 < g.channels; c0 += kChannels) {
    const int64_t c1 = min64(c0 + kChannels, g.channels);
    for (int64_t tap_h = 0; tap_h < g.h.taps; ++tap_h) {
      for (int64_t tap_w = 0; tap_w < g.w.taps; ++tap_w) {
        const T* const in = static_cast<const T*>(weights.w.data) + row * weights.row_stride +
                            (g.h.weight + tap_h * g.h.weight_step) * strides.h +
                            (g.w.weight + tap_w * g.w.weight_step) * strides.w;
        A* const to = out + (tap_h * g.w.taps + tap_w) * g.channels * kMicroM;
        for (int64_t m = 0; m < rows; ++m) {
          for (int64_t c = c0; c < c1; ++c) {
            to[c * kMicroM + m] =
                to_accumulator(in[m * weights.row_stride + c * weights.channel_stride]);
          }
        }
      }
    }
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
