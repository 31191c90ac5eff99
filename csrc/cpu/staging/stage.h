// Source pixels of a tile of output positions, copied to where the taps of a position lie at fixed
// distances: pixel-major in accumulator type, zeros where a tap reaches outside. Kernels read
//
//     buffer[position(image, u, v) + tap(i, j) + channel]
//
// with no index arithmetic of their own, whatever the layout, the strides and the type of the
// source. A copied element is used by every tap that reads it and every filter.
//
// Along an axis, slots hold either all source positions from the first to the last tap, or, where
// that is fewer (strided 1x1, far dilation), one run of positions for each tap:
//
//     dense    | u=0 tap 0 | u=0 tap 1, u=1 tap 0 | ...
//     apart    | u=0.. of tap 0 | u=0.. of tap 1 | ...
#pragma once

#include "cpu/staging/gather.h"
#include "cpu/vectors/rows.h"
#include "cpu/vectors/vectors.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Output positions [begin, begin + positions) of an axis.
struct StageAxis {
  GatherAxis axis;
  int64_t begin, positions;
  bool dense;
  int64_t slots;

  StageAxis(const GatherAxis& gathered, int64_t begin, int64_t end)
      : axis(gathered), begin(begin), positions(end - begin) {
    if (axis.taps < 2) axis.tap_offset = 1;  // unused without a second tap; it could overflow
    if (positions < 2) axis.source_step = 1;
    first_ = axis.source_first + (begin == 0 ? 0 : begin * gathered.source_step);
    const int64_t covered =
        (positions - 1) * axis.source_step + (axis.taps - 1) * axis.tap_offset + 1;
    dense = covered <= positions * axis.taps;
    slots = dense ? covered : positions * axis.taps;
  }

  int64_t position(int64_t u) const { return dense ? u * axis.source_step : u; }
  int64_t tap(int64_t i) const { return dense ? i * axis.tap_offset : i * positions; }

  // Slots come in runs of `count`, of source positions first, first + step, ...
  struct Run {
    int64_t slot, first, step, count;
  };
  int64_t runs() const { return dense ? 1 : axis.taps; }
  Run run(int64_t i) const {
    if (dense) return {0, first_, 1, slots};
    return {i * positions, first_ + i * axis.tap_offset, axis.source_step, positions};
  }

 private:
  int64_t first_;
};

// Elements from one staged pixel to the next: not a multiple of 512 bytes, which would put all
// pixels of a tile into a few sets of the L1 cache.
template <typename A>
static inline int64_t staged_pitch(int64_t channels) {
  constexpr int64_t kConflict = 512 / sizeof(A);
  return channels > 0 && channels % kConflict == 0 ? channels + kLanes<A> : channels;
}

struct Stage {
  StageAxis h, w;
  int64_t images, channels, pitch;

  int64_t row_elements() const { return w.slots * pitch; }
  int64_t image_elements() const { return h.slots * row_elements(); }
  int64_t elements() const { return images * image_elements(); }
  int64_t position(int64_t image, int64_t u, int64_t v) const {
    return image * image_elements() + h.position(u) * row_elements() + w.position(v) * pitch;
  }
  int64_t tap(int64_t i, int64_t j) const { return h.tap(i) * row_elements() + w.tap(j) * pitch; }
};

// Elements from which a call of the C library is worth it.
constexpr int64_t kLongRow = 64;

template <typename A>
static inline void zero_row(A* out, int64_t n) {
  if (n >= kLongRow) {
    __builtin_memset(out, 0, static_cast<size_t>(n) * sizeof(A));
  } else {
    for (int64_t i = 0; i < n; ++i) out[i] = A(0);
  }
}

// out[i] = in[i], converted to the accumulator type.
template <typename T>
static inline void copy_row(accumulator_t<T>* out, const T* in, int64_t n) {
  if constexpr (std::is_same_v<T, accumulator_t<T>>) {
    if (n >= kLongRow) {
      __builtin_memcpy(out, in, static_cast<size_t>(n) * sizeof(T));
      return;
    }
  }
  load_row(out, in, 1, n);
}

// One row of pixels whose channels are adjacent.
template <typename T>
static void stage_pixels(const Stage& s, const T* in, const Strides& strides,
                         accumulator_t<T>* out) {
  const int64_t C = s.channels, pitch = s.pitch;
  for (int64_t i = 0; i < s.w.runs(); ++i) {
    const StageAxis::Run run = s.w.run(i);
    const Range inside = valid_range(run.first, run.step, s.w.axis.source_size, 0, run.count);
    accumulator_t<T>* const to = out + run.slot * pitch;
    zero_row(to, inside.begin * pitch);
    zero_row(to + inside.end * pitch, (run.count - inside.end) * pitch);
    if (inside.begin == inside.end) continue;
    const T* const from = in + (run.first + inside.begin * run.step) * strides.w;
    const int64_t step = run.step * strides.w, count = inside.end - inside.begin;
    if (step == C && pitch == C) {
      copy_row(to + inside.begin * C, from, count * C);
    } else {
      for (int64_t t = 0; t < count; ++t) {
        copy_row(to + (inside.begin + t) * pitch, from + t * step, C);
      }
    }
  }
}

// One row of one channel, to slots of unit step.
template <typename T>
static void stage_channel(const Stage& s, const T* in, int64_t stride, accumulator_t<T>* out) {
  for (int64_t i = 0; i < s.w.runs(); ++i) {
    const StageAxis::Run run = s.w.run(i);
    const Range inside = valid_range(run.first, run.step, s.w.axis.source_size, 0, run.count);
    accumulator_t<T>* const to = out + run.slot;
    zero_row(to, inside.begin);
    zero_row(to + inside.end, run.count - inside.end);
    if (inside.begin == inside.end) continue;
    load_row(to + inside.begin, in + (run.first + inside.begin * run.step) * stride,
             run.step * stride, inside.end - inside.begin);
  }
}

// out[column * out_step + row] = in[row * in_step + column] for whole vectors of rows and columns;
// `columns` beyond the last whole vector may be read (in) and are not written.
template <typename A>
static void transpose_block(const A* in, int64_t in_step, int64_t columns, A* out,
                            int64_t out_step) {
  for (int64_t i = 0; i < columns; i += kLanes<A>) {
    vector_t<A> block[kLanes<A>];
#pragma GCC unroll 16
    for (int l = 0; l < kLanes<A>; ++l) block[l] = load_vector(in + l * in_step + i);
    transpose<A>(block);
#pragma GCC unroll 16
    for (int l = 0; l < kLanes<A>; ++l) {
      if (i + l < columns) store_vector(out + (i + l) * out_step, block[l]);
    }
  }
}

// One row of planes; `rows` has room for kLanes rows of stage_row_slots().
static inline int64_t stage_row_slots(const Stage& s) { return div_up(s.w.slots, 16) * 16; }
template <typename T>
static void stage_planes(const Stage& s, const T* in, const Strides& strides,
                         accumulator_t<T>* rows, accumulator_t<T>* out) {
  using A = accumulator_t<T>;
  const int64_t step = stage_row_slots(s);
  for (int64_t c = 0; c < s.channels; c += kLanes<A>) {
    const int64_t count = min64(kLanes<A>, s.channels - c);
    for (int64_t l = 0; l < count; ++l) {
      stage_channel(s, in + (c + l) * strides.c, strides.w, rows + l * step);
    }
    if (count == kLanes<A>) {
      transpose_block(rows, step, s.w.slots, out + c, s.pitch);
    } else {
      for (int64_t l = 0; l < count; ++l) {
        for (int64_t t = 0; t < s.w.slots; ++t) out[t * s.pitch + c + l] = rows[l * step + t];
      }
    }
  }
}

// Row h of planes whose rows are adjacent, every run.step-th pixel: whole vectors of the planes are
// transposed and those pixels taken from them. No vector ends beyond its plane.
template <typename T>
static void stage_strided_planes(const Stage& s, const T* planes, int64_t channel_stride, int64_t h,
                                 accumulator_t<T>* out) {
  using A = accumulator_t<T>;
  const int64_t W = s.w.axis.source_size, last = s.h.axis.source_size * W - kLanes<A>;
  for (int64_t i = 0; i < s.w.runs(); ++i) {
    const StageAxis::Run run = s.w.run(i);
    const Range inside = valid_range(run.first, run.step, W, 0, run.count);
    A* const to = out + run.slot * s.pitch;
    zero_row(to, inside.begin * s.pitch);
    zero_row(to + inside.end * s.pitch, (run.count - inside.end) * s.pitch);
    const int64_t row = h * W + run.first;
    for (int64_t c = 0; c < s.channels; c += kLanes<A>) {
      const int64_t lanes = min64(kLanes<A>, s.channels - c);
      const T* const from = planes + c * channel_stride;
      int64_t t = inside.begin;
      while (lanes == kLanes<A> && t < inside.end) {
        const int64_t first = min64(row + t * run.step, last);
        vector_t<A> block[kLanes<A>];
#pragma GCC unroll 16
        for (int l = 0; l < kLanes<A>; ++l) {
          block[l] = load_vector(from + l * channel_stride + first);
        }
        transpose<A>(block);
        for (; t < inside.end && row + t * run.step < first + kLanes<A>; ++t) {
          store_vector(to + t * s.pitch + c, block[row + t * run.step - first]);
        }
      }
      for (; t < inside.end; ++t) {
        for (int64_t l = 0; l < lanes; ++l) {
          to[t * s.pitch + c + l] = to_accumulator(from[l * channel_stride + row + t * run.step]);
        }
      }
    }
  }
}

// Rows of planes whose rows are adjacent, where the stage has all columns of its rows: source
// pixels [begin, end) of the image, whose first one belongs at `out`, are transposed as one run.
template <typename T>
static void stage_whole_rows(const Stage& s, const T* in, int64_t channel_stride, int64_t begin,
                             int64_t end, accumulator_t<T>* out) {
  using A = accumulator_t<T>;
  const int64_t W = s.w.axis.source_size;
  for (int64_t c = 0; c < s.channels; c += kLanes<A>) {
    const int64_t lanes = min64(kLanes<A>, s.channels - c);
    A* to = out + c;
    int64_t column = 0;
    const auto next = [&] {
      to += s.pitch;
      if (++column == W) {
        column = 0;
        to += s.row_elements() - W * s.pitch;
      }
    };
    const T* const from = in + c * channel_stride;
    int64_t i = begin;
    for (; lanes == kLanes<A> && end - begin >= kLanes<A> && i < end; i += kLanes<A>) {
      if (i + kLanes<A> > end) {  // the last block ends with the run and copies some pixels twice
        i = end - kLanes<A>;
        column = (i - begin) % W;
        to = out + c + (i - begin) / W * s.row_elements() + column * s.pitch;
      }
      vector_t<A> block[kLanes<A>];
#pragma GCC unroll 16
      for (int l = 0; l < kLanes<A>; ++l) block[l] = load_vector(from + l * channel_stride + i);
      transpose<A>(block);
      if (column + kLanes<A> < W) {
#pragma GCC unroll 16
        for (int l = 0; l < kLanes<A>; ++l) store_vector(to + l * s.pitch, block[l]);
        to += kLanes<A> * s.pitch;
        column += kLanes<A>;
        continue;
      }
#pragma GCC unroll 16
      for (int l = 0; l < kLanes<A>; ++l) {
        store_vector(to, block[l]);
        next();
      }
    }
    for (; i < end; ++i) {
      for (int64_t l = 0; l < lanes; ++l) to[l] = to_accumulator(from[l * channel_stride + i]);
      next();
    }
  }
}

template <typename T>
static bool stage_image_of_whole_rows(const Stage& s, const T* in, const Strides& strides,
                                      accumulator_t<T>* out) {
  if (!s.h.dense || !s.w.dense || s.h.slots == 0 || s.w.slots == 0) return false;
  const int64_t H = s.h.axis.source_size, W = s.w.axis.source_size;
  const int64_t top = -s.h.run(0).first, left = -s.w.run(0).first;
  if (strides.w != 1 || strides.h != W || left < 0 || left + W > s.w.slots) return false;
  const Range rows = valid_range(-top, 1, H, 0, s.h.slots);
  const int64_t row = s.row_elements();
  zero_row(out, rows.begin * row);
  for (int64_t t = rows.begin; t < rows.end; ++t) {
    zero_row(out + t * row, left * s.pitch);
    zero_row(out + t * row + (left + W) * s.pitch, (s.w.slots - left - W) * s.pitch);
  }
  zero_row(out + rows.end * row, (s.h.slots - rows.end) * row);
  if (rows.begin == rows.end) return true;
  stage_whole_rows(s, in, strides.c, (rows.begin - top) * W, (rows.end - top) * W,
                   out + rows.begin * row + left * s.pitch);
  return true;
}

// Fills the stage with images first_image, ... of a source whose channel 0 is the stage's first.
template <typename T>
static void fill_stage(const Stage& s, const TensorView& source, int64_t first_image,
                       accumulator_t<T>* rows, accumulator_t<T>* out) {
  const int64_t H = s.h.axis.source_size, W = s.w.axis.source_size;
  const bool takes_strided_vectors = !s.w.dense && s.w.axis.source_step > 1 &&
                                     source.strides.w == 1 && source.strides.h == W &&
                                     H * W >= kLanes<accumulator_t<T>>;
  for (int64_t image = 0; image < s.images; ++image) {
    if (source.strides.c != 1 &&
        stage_image_of_whole_rows(s, source.at<T>(first_image + image, 0, 0, 0), source.strides,
                                  out + image * s.image_elements())) {
      continue;
    }
    for (int64_t i = 0; i < s.h.runs(); ++i) {
      const StageAxis::Run run = s.h.run(i);
      for (int64_t t = 0; t < run.count; ++t) {
        const int64_t h = run.first + t * run.step;
        accumulator_t<T>* const to =
            out + image * s.image_elements() + (run.slot + t) * s.row_elements();
        if (h < 0 || h >= s.h.axis.source_size) {
          zero_row(to, s.row_elements());
        } else if (const T* const in = source.at<T>(first_image + image, 0, h, 0);
                   source.strides.c == 1) {
          stage_pixels(s, in, source.strides, to);
        } else if (takes_strided_vectors) {
          stage_strided_planes(s, in - h * source.strides.h, source.strides.c, h, to);
        } else {
          stage_planes(s, in, source.strides, rows, to);
        }
      }
    }
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
