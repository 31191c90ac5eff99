// The source channels of a tile of output rows, copied into planes by a polyphase decomposition:
// with a stride, source positions that are equal modulo the stride (a phase of the source) lie next
// to each other in a plane of their own. A tap meets positions of one phase only, so that whatever
// the stride, the pixels of the tile are for every tap one run of memory that vectors go along:
//
//     source(channel, pixel + tap) = planes[channel * channel_elements + offset(tap) + column]
//     column = (u - first u) * pitch + (v - first v)
//
//     stride 2:     plane 0 | 0 2 4 6 | for taps 0, 2      plane 1 | 1 3 5 7 | for taps 1, 3
//
// Positions outside of the source are zeros. The sums of columns beyond a row's last pixel are
// computed but not stored.
#pragma once

#include "cpu/staging/gather.h"
#include "cpu/vectors/rows.h"
#include "cpu/vectors/vectors.h"

namespace fastconv::cpu::FASTCONV_ISA {

// Output positions [begin, begin + positions) of an axis. Slot t of a plane holds source position
// first(plane) + t * source_step. There is a plane for each phase of the source or, where that
// takes fewer slots, for each tap.
struct PlaneAxis {
  GatherAxis axis;
  int64_t positions, planes, size;

  PlaneAxis(const GatherAxis& gathered, int64_t begin, int64_t end)
      : axis(gathered), positions(end - begin) {
    if (axis.taps < 2) axis.tap_offset = 1;  // unused without a second tap; it could overflow
    if (positions < 2) axis.source_step = 1;
    first_ = axis.source_first + (begin == 0 ? 0 : begin * gathered.source_step);
    const int64_t span = (axis.taps - 1) * axis.tap_offset;
    planes = min64(axis.source_step, span + 1);
    size = positions + span / axis.source_step;
    apart_ = axis.taps == 0 || planes > positions * axis.taps / size;  // planes * size may overflow
    if (apart_) {
      planes = axis.taps;
      size = positions;
    }
  }
  int64_t plane(int64_t i) const { return apart_ ? i : i * axis.tap_offset % axis.source_step; }
  int64_t shift(int64_t i) const { return apart_ ? 0 : i * axis.tap_offset / axis.source_step; }
  int64_t first(int64_t plane) const { return first_ + plane * (apart_ ? axis.tap_offset : 1); }

 private:
  int64_t first_;
  bool apart_;
};

template <typename A>
struct Planes {
  PlaneAxis h, w;
  int64_t row_elements;  // w.size, or more: zeros behind

  Planes(const PlaneAxis& h, const PlaneAxis& w) : h(h), w(w), row_elements(w.size) {}
  Planes(const PlaneAxis& h, const PlaneAxis& w, int64_t pitch) : h(h), w(w), row_elements(pitch) {}

  int64_t pitch() const { return row_elements; }
  int64_t columns() const { return (h.positions - 1) * pitch() + w.positions; }
  int64_t rows() const { return w.planes * h.planes * h.size; }
  // With room for the vector that ends behind the last row.
  int64_t channel_elements() const { return rows() * pitch() + kLanes<A>; }
  int64_t offset(int64_t i, int64_t j) const {
    const int64_t plane = w.plane(j) * h.planes + h.plane(i);
    return (plane * h.size + h.shift(i)) * pitch() + w.shift(j);
  }

  // Calls body(row of the planes, source row, first column's source position) for rows inside of
  // the source; the others become zero in all of `channels` channels.
  template <typename Body>
  void for_each_row(int64_t channels, A* out, const Body& body) const {
    int64_t row = 0;
    for (int64_t plane_w = 0; plane_w < w.planes; ++plane_w) {
      for (int64_t plane_h = 0; plane_h < h.planes; ++plane_h) {
        for (int64_t t = 0; t < h.size; ++t, ++row) {
          const int64_t at = h.first(plane_h) + t * h.axis.source_step;
          if (at >= 0 && at < h.axis.source_size) {
            body(row, at, w.first(plane_w));
          } else {
            for (int64_t c = 0; c < channels; ++c) {
              A* const to = out + c * channel_elements() + row * pitch();
              for (int64_t i = 0; i < pitch(); ++i) to[i] = A(0);
            }
          }
        }
      }
    }
  }

  // Fills the planes with channels [0, channels) of image n, zeros behind their last rows.
  template <typename T>
  void fill(const TensorView& source, int64_t n, int64_t channels, A* out) const {
    const Strides& strides = source.strides;
    const int64_t step = w.axis.source_step * strides.w;
    const int64_t adjacent = strides.c == 1 ? channels / kLanes<A> * kLanes<A> : 0;
    const T* const end =
        source.at<T>(n, channels - 1, h.axis.source_size - 1, w.axis.source_size - 1) + 1;
    // Row after row of all channels: many planes at once keep many loads in flight.
    for_each_row(channels, out, [&](int64_t row, int64_t at, int64_t first) {
      const Range inside = valid_range(first, w.axis.source_step, w.axis.source_size, 0, w.size);
      const T* const in = source.at<T>(n, 0, at, 0) + first * strides.w;
      A* const to = out + row * pitch();
      for (int64_t c = 0; c < adjacent; c += kLanes<A>) {
        fill_lanes(in + c, step, inside, to + c * channel_elements());
      }
      for (int64_t c = adjacent; c < channels; ++c) {
        fill_row(in + c * strides.c, step, inside, end, to + c * channel_elements());
      }
    });
    for (int64_t c = 0; c < channels; ++c) {
      store_vector(out + c * channel_elements() + rows() * pitch(), vector_t<A>{});
    }
  }

 private:
  // One row of a channel whose tensor ends at `end`. What whole vectors write behind the row's end
  // belongs to the next row, which is filled later.
  template <typename T>
  void fill_row(const T* in, int64_t step, const Range& inside, const T* end, A* out) const {
    for (int64_t i = 0; i < inside.begin; i += kLanes<A>) store_vector(out + i, vector_t<A>{});
    int64_t i = inside.begin;
    const auto whole = [&] { return i < inside.end && end - in >= step * (i + kLanes<A>); };
    if (step == 1) {
      for (; whole(); i += kLanes<A>) store_vector(out + i, load_vector(in + i));
    } else if (step == 2) {
      for (; whole(); i += kLanes<A>) {
        store_vector(out + i,
                     even_lanes<A>(load_vector(in + 2 * i), load_vector(in + 2 * i + kLanes<A>)));
      }
    }
    load_row(out + i, in + i * step, step, max64(0, inside.end - i));
    for (i = inside.end; i < pitch(); i += kLanes<A>) store_vector(out + i, vector_t<A>{});
  }

  // One row of a vector of adjacent channels. What is written behind the row's end belongs to the
  // next row of the same channel, which is filled later.
  template <typename T>
  void fill_lanes(const T* in, int64_t step, const Range& inside, A* out) const {
    for (int64_t i = 0; i < pitch(); i += kLanes<A>) {
      vector_t<A> block[kLanes<A>];
#pragma GCC unroll 16
      for (int l = 0; l < kLanes<A>; ++l) {
        const bool there = i + l >= inside.begin && i + l < inside.end;
        block[l] = there ? load_vector(in + (i + l) * step) : vector_t<A>{};
      }
      transpose<A>(block);
#pragma GCC unroll 16
      for (int l = 0; l < kLanes<A>; ++l) store_vector(out + l * channel_elements() + i, block[l]);
    }
  }
};

}  // namespace fastconv::cpu::FASTCONV_ISA
