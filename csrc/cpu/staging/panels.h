// The stage of a tile (stage.h) as a panel, one vector of channels wide: a row of pixels is then
// one run of memory that stays in L1 while a depthwise filter's taps pass over it.
#pragma once

#include "cpu/kernels/depthwise_product.h"

namespace fastconv::cpu::FASTCONV_ISA {

template <typename A>
static inline Stage panel_stage(const PixelTile& tile, const GatherAxis& h, const GatherAxis& w) {
  Stage s = tile.stage<A>(h, w, kLanes<A>);
  s.pitch = kLanes<A>;
  return s;
}

// Pixel after pixel: where channels are adjacent or lanes repeat them.
template <typename T>
static void fill_pixels(const Stage& s, const Lanes& lanes, int64_t k, int64_t count,
                        int64_t first_image, accumulator_t<T>* out) {
  using A = accumulator_t<T>;
  const Strides& strides = lanes.tensor.strides;
  const bool whole = lanes.repeat == 1 && count == kLanes<A>;
  int64_t channels[kLanes<A>];  // of the lanes, relative to lane k's
  for (int64_t l = 0; l < count; ++l) {
    channels[l] = ((k + l) / lanes.repeat - k / lanes.repeat) * strides.c;
  }
  for (int64_t image = 0; image < s.images; ++image) {
    for (int64_t i = 0; i < s.h.runs(); ++i) {
      const StageAxis::Run rows = s.h.run(i);
      for (int64_t t = 0; t < rows.count; ++t) {
        const int64_t h = rows.first + t * rows.step;
        A* const row = out + image * s.image_elements() + (rows.slot + t) * s.row_elements();
        if (h < 0 || h >= s.h.axis.source_size) {
          zero_row(row, s.row_elements());
          continue;
        }
        for (int64_t j = 0; j < s.w.runs(); ++j) {
          const StageAxis::Run run = s.w.run(j);
          const Range inside = valid_range(run.first, run.step, s.w.axis.source_size, 0, run.count);
          A* to = row + run.slot * kLanes<A>;
          zero_row(to, inside.begin * kLanes<A>);
          zero_row(to + inside.end * kLanes<A>, (run.count - inside.end) * kLanes<A>);
          if (inside.begin == inside.end) continue;
          to += inside.begin * kLanes<A>;
          const T* in = lanes.tensor.at<T>(first_image + image, k / lanes.repeat, h, 0) +
                        (run.first + inside.begin * run.step) * strides.w;
          const int64_t step = run.step * strides.w;
          for (int64_t v = inside.begin; v < inside.end; ++v, in += step, to += kLanes<A>) {
            if (whole) {
              store_vector(to, load_vector(in));
              // The next panel takes the next channels of the same pixels.
              __builtin_prefetch(in + kLanes<A>, 0, 2);
            } else {
              for (int64_t l = 0; l < count; ++l) to[l] = to_accumulator(in[channels[l]]);
            }
          }
        }
      }
    }
  }
}

// Stages `count` lanes from lane k on.
template <typename T>
static void fill_panel(const Stage& s, const Lanes& lanes, int64_t k, int64_t count,
                       int64_t first_image, accumulator_t<T>* rows, accumulator_t<T>* out) {
  const Strides& strides = lanes.tensor.strides;
  if (lanes.repeat > 1 || strides.c == 1) {
    return fill_pixels<T>(s, lanes, k, count, first_image, out);
  }
  Stage panel = s;
  panel.channels = count;
  const TensorView view = {static_cast<T*>(lanes.tensor.data) + k * strides.c, strides};
  fill_stage<T>(panel, view, first_image, rows, out);
}

}  // namespace fastconv::cpu::FASTCONV_ISA
