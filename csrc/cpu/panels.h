// The stage of a tile (stage.h) as panels of one vector of channels: a row of pixels is then one
// run of memory that stays in L1 while a depthwise filter's taps pass over it.
#pragma once

#include "cpu/depthwise_product.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int64_t kPanels = 4;  // of a task: whole cache lines in channels_last

template <typename A>
static inline Stage panel_stage(const PixelTile& tile, const GatherAxis& h, const GatherAxis& w) {
  Stage s = tile.stage<A>(h, w, kLanes<A>);
  s.pitch = kLanes<A>;
  return s;
}

// Pixel after pixel, all panels of a pixel at once: where channels are adjacent or lanes repeat
// them.
template <typename T>
static void fill_pixels(const Stage& s, const Lanes& lanes, int64_t k, int64_t count,
                        int64_t first_image, int64_t panel_elements, accumulator_t<T>* out) {
  using A = accumulator_t<T>;
  const Strides& strides = lanes.tensor.strides;
  const int64_t panels = div_up(count, kLanes<A>);
  const int64_t whole = lanes.repeat == 1 ? count / kLanes<A> : 0;  // panels copied as vectors
  int64_t channels[kPanels * kLanes<A>];  // of the lanes, relative to lane k's
  for (int64_t l = 0; l < count; ++l) {
    channels[l] = ((k + l) / lanes.repeat - k / lanes.repeat) * strides.c;
  }
  const auto zero = [&](A* to, int64_t slots) {
    for (int64_t p = 0; p < panels; ++p) zero_row(to + p * panel_elements, slots * kLanes<A>);
  };
  for (int64_t image = 0; image < s.images; ++image) {
    for (int64_t i = 0; i < s.h.runs(); ++i) {
      const StageAxis::Run rows = s.h.run(i);
      for (int64_t t = 0; t < rows.count; ++t) {
        const int64_t h = rows.first + t * rows.step;
        A* const row = out + image * s.image_elements() + (rows.slot + t) * s.row_elements();
        if (h < 0 || h >= s.h.axis.source_size) {
          zero(row, s.w.slots);
          continue;
        }
        for (int64_t j = 0; j < s.w.runs(); ++j) {
          const StageAxis::Run run = s.w.run(j);
          const Range inside = valid_range(run.first, run.step, s.w.axis.source_size, 0, run.count);
          A* to = row + run.slot * kLanes<A>;
          zero(to, inside.begin);
          zero(to + inside.end * kLanes<A>, run.count - inside.end);
          if (inside.begin == inside.end) continue;
          to += inside.begin * kLanes<A>;
          const T* in = lanes.tensor.at<T>(first_image + image, k / lanes.repeat, h, 0) +
                        (run.first + inside.begin * run.step) * strides.w;
          for (int64_t v = inside.begin; v < inside.end; ++v) {
            if (whole == kPanels) {
#pragma GCC unroll 4
              for (int64_t p = 0; p < kPanels; ++p) {
                store_vector(to + p * panel_elements, load_vector(in + p * kLanes<A>));
              }
            } else {
              for (int64_t p = 0; p < whole; ++p) {
                store_vector(to + p * panel_elements, load_vector(in + p * kLanes<A>));
              }
            }
            for (int64_t l = whole * kLanes<A>; l < count; ++l) {
              to[l / kLanes<A> * panel_elements + l % kLanes<A>] = to_accumulator(in[channels[l]]);
            }
            in += run.step * strides.w;
            to += kLanes<A>;
          }
        }
      }
    }
  }
}

// Stages `count` lanes from lane k on, panel after panel.
template <typename T>
static void fill_panels(const Stage& s, const Lanes& lanes, int64_t k, int64_t count,
                        int64_t first_image, int64_t panel_elements, accumulator_t<T>* rows,
                        accumulator_t<T>* out) {
  using A = accumulator_t<T>;
  const Strides& strides = lanes.tensor.strides;
  if (lanes.repeat > 1 || strides.c == 1) {
    return fill_pixels<T>(s, lanes, k, count, first_image, panel_elements, out);
  }
  for (int64_t l = 0; l < count; l += kLanes<A>, out += panel_elements) {
    Stage panel = s;
    panel.channels = min64(kLanes<A>, count - l);
    const TensorView view = {static_cast<T*>(lanes.tensor.data) + (k + l) * strides.c, strides};
    fill_stage<T>(panel, view, first_image, rows, out);
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
