// The filters as operand of the implicit GEMM: panels of kMicroColumns rows (filters for fprop,
// input channels for dgrad), within a panel blocks of channels, within a block
//
//     out[(tap, channel)][row]        rows past the end zero
//
// so that the micro kernel walks through memory. Each layout of the filter is read along its
// adjacent elements.
#pragma once

#include "cpu/kernels/gemm.h"
#include "cpu/staging/pixel_tiles.h"

namespace fastconv::cpu::FASTCONV_ISA {

// The filters of one group: element (row m, channel c, r, s) and the taps of a phase.
struct PackedWeights {
  GatherAxis h, w;
  TensorView filters;
  int64_t row_stride, channel_stride;
  int64_t R, S;  // of the whole filter

  int64_t taps() const { return h.taps * w.taps; }
};

// Calls body(j, the vector of in[l][j] for kLanes rows l) for each j in [0, n). `count` rows exist,
// the others are zero. Whole vectors are loaded where they end before `end`.
template <typename T, typename Body>
static inline void transposed_rows(const T* in, int64_t row_stride, int64_t count, int64_t n,
                                   const T* end, const Body& body) {
  using A = accumulator_t<T>;
  for (int64_t j = 0; j < n; j += kLanes<A>) {
    vector_t<A> block[kLanes<A>];
    const int64_t columns = min64(kLanes<A>, n - j);
    const bool whole = end - in >= (count - 1) * row_stride + j + kLanes<A>;
    if (count == kLanes<A> && whole) {
#pragma GCC unroll 16
      for (int l = 0; l < kLanes<A>; ++l) block[l] = load_vector(in + l * row_stride + j);
    } else {
      for (int l = 0; l < kLanes<A>; ++l) {
        A row[kLanes<A>] = {};
        for (int64_t i = 0; l < count && i < columns; ++i) {
          row[i] = to_accumulator(in[l * row_stride + j + i]);
        }
        block[l] = load_vector(row);
      }
    }
    transpose<A>(block);
    for (int64_t i = 0; i < columns; ++i) body(j + i, block[i]);
  }
}

// Elements of a filter's plane whose taps fit in a table.
constexpr int64_t kMaxPlane = 64;
// Rows of planes are prefetched, which lie in another page for each channel.
constexpr int64_t kPlanesAhead = 4;

// Packs kLanes rows from `row` on, of which `count` exist, with channels [c, c_end); in `out` a
// term's rows lie out_step behind those of the term before.
template <typename T>
static void pack_weight_lanes(const PackedWeights& p, int64_t row, int64_t count, int64_t c,
                              int64_t c_end, accumulator_t<T>* out, int64_t out_step) {
  using A = accumulator_t<T>;
  const Strides& strides = p.filters.strides;
  const int64_t channels = c_end - c;
  const T* const first = static_cast<const T*>(p.filters.data) + row * p.row_stride;
  // Behind the elements of the last row and channel here.
  const T* const end = first + (count - 1) * p.row_stride + (c_end - 1) * p.channel_stride +
                       (p.R - 1) * strides.h + (p.S - 1) * strides.w + 1;
  const auto tap_element = [&](int64_t i, int64_t j) {
    return (p.h.tap_first + i * p.h.tap_step) * strides.h +
           (p.w.tap_first + j * p.w.tap_step) * strides.w;
  };
  const int64_t plane = p.R * p.S;
  const bool taps_adjacent = strides.w == 1 && strides.h == p.S && plane > 1;
  // Transposing whole planes costs about four taps a vector; a phase of a strided dgrad has fewer.
  const bool most_taps = 4 * p.taps() >= round_up(plane, kLanes<A>);
  if (taps_adjacent && most_taps && plane <= kMaxPlane && p.row_stride != 1 &&
      p.channel_stride != 1) {
    // Which of the packed taps each element of a filter's plane is; none where of other phases.
    int64_t tap_of[kMaxPlane];
    for (int64_t at = 0; at < plane; ++at) tap_of[at] = -1;
    for (int64_t tap = 0; tap < p.taps(); ++tap) {
      tap_of[tap_element(tap / p.w.taps, tap % p.w.taps)] = tap;
    }
    // Planes that lie one after the other are one run.
    const bool one_run = p.channel_stride == plane;
    const int64_t run = one_run ? channels * plane : plane;
    for (int64_t k = 0; k < channels; k += one_run ? channels : 1) {
      A* to = out + k * out_step;
      int64_t at = 0;
      if (p.row_stride == plane && c + k + kPlanesAhead < c_end) {
        const T* const ahead = first + (c + k + kPlanesAhead) * p.channel_stride;
        for (int64_t i = 0; i < count * plane; i += kLanes<A>) __builtin_prefetch(ahead + i);
      }
      transposed_rows(first + (c + k) * p.channel_stride, p.row_stride, count, run, end,
                      [&](int64_t, vector_t<A> rows) {
                        if (tap_of[at] >= 0) {
                          store_vector(to + tap_of[at] * channels * out_step, rows);
                        }
                        if (++at == plane) {
                          at = 0;
                          to += out_step;
                        }
                      });
    }
    return;
  }
  for (int64_t i = 0; i < p.h.taps; ++i) {
    for (int64_t j = 0; j < p.w.taps; ++j) {
      const T* const in = first + tap_element(i, j) + c * p.channel_stride;
      A* const to = out + (i * p.w.taps + j) * channels * out_step;
      if (p.channel_stride == 1) {
        transposed_rows(in, p.row_stride, count, channels, end, [&](int64_t k, vector_t<A> rows) {
          store_vector(to + k * out_step, rows);
        });
      } else if (p.row_stride == 1 && count == kLanes<A>) {
        for (int64_t k = 0; k < channels; ++k) {
          store_vector(to + k * out_step, load_vector(in + k * p.channel_stride));
        }
      } else {
        for (int64_t k = 0; k < channels; ++k) {
          for (int64_t l = 0; l < kLanes<A>; ++l) {
            to[k * out_step + l] =
                l < count ? to_accumulator(in[k * p.channel_stride + l * p.row_stride]) : A(0);
          }
        }
      }
    }
  }
}

// Packs one panel: rows [row, row_end), at most kMicroColumns of them, with all channels in blocks
// of channel_block.
template <typename T>
static void pack_weight_panel(const PackedWeights& p, int64_t row, int64_t row_end,
                              int64_t channels, int64_t channel_block, accumulator_t<T>* out) {
  using A = accumulator_t<T>;
  const int64_t width = row_end - row > kLanes<A> ? kMicroColumns<A> : kLanes<A>;
  for (int64_t c = 0; c < channels; c += channel_block) {
    const int64_t c_end = min64(channels, c + channel_block);
    for (int64_t lane = 0; lane < width; lane += kLanes<A>) {
      const int64_t count = min64(kLanes<A>, row_end - row - lane);
      pack_weight_lanes<T>(p, row + lane, count, c, c_end, out + p.taps() * c * width + lane,
                           width);
    }
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
