// A convolution over planes (planes.h): which groups and which rows a task takes, and where in its
// planes each term lies.
#pragma once

#include "cpu/runtime/conv2d_args.h"
#include "cpu/staging/planes.h"
#include "problem/epilogue.h"

namespace fastconv::cpu::FASTCONV_ISA {

constexpr int64_t kAdjacentVectors = 4;     // of output channels, where the source's are adjacent
constexpr int64_t kPlaneBytes = 512 << 10;  // of a task's planes, or one row of them

// fprop or dgrad of all groups. The planes of a tile serve all phases of its output positions.
struct PlaneProduct : GatherPhases {
  int64_t images, groups, rows, depth;  // a group has `rows` output and `depth` source channels
  TensorView source, filters;
  int64_t group_stride, row_stride, depth_stride;  // of the filters, by output and source channel
  TensorView out;
  const Epilogue* epilogue;

  int64_t terms(int64_t a, int64_t b) const { return taps(a, b) * depth; }
  int64_t all_terms() const { return all_taps() * depth; }
};

static inline PlaneProduct fprop_product(const CpuConvArgs& args) {
  const ConvProblem& problem = args.problem;
  const Strides& strides = args.w.strides;
  const int64_t Kg = problem.filters_per_group();
  return {{one_phase(fprop_axis(h_axis(problem))), one_phase(fprop_axis(w_axis(problem)))},
          problem.N,
          problem.groups,
          Kg,
          problem.channels_per_group(),
          args.x,
          args.w,
          Kg * strides.n,
          strides.n,
          strides.c,
          args.y,
          &args.epilogue};
}

constexpr int half(int count) { return count > 1 ? count / 2 : 1; }

// Groups of a task: about a vector of output channels; some vectors where channels are adjacent, so
// that whole cache lines are read and written one after the other.
template <typename A>
static inline int64_t groups_at_once(const PlaneProduct& product) {
  const int64_t vectors = product.source.strides.c == 1 ? kAdjacentVectors : 1;
  return min64(product.groups, max64(1, vectors * kLanes<A> / product.rows));
}

template <typename A>
static inline Planes<A> planes_of(const PlaneProduct& product, int64_t u, int64_t u_end, int64_t v,
                                  int64_t v_end) {
  return {PlaneAxis(product.h.gathered, u, u_end), PlaneAxis(product.w.gathered, v, v_end)};
}

// Output rows and columns of a task, so that its planes hold kPlaneBytes.
struct PlaneTiles {
  int64_t rows, columns, row_tiles, column_tiles;

  template <typename A>
  static PlaneTiles of(const PlaneProduct& product) {
    const int64_t channels = groups_at_once<A>(product) * product.depth;
    const auto bytes = [&](int64_t rows, int64_t columns) {
      const Planes<A> planes = planes_of<A>(product, 0, rows, 0, columns);
      const int64_t sums = groups_at_once<A>(product) * product.rows * planes.columns();
      return (channels * planes.channel_elements() + sums) * static_cast<int64_t>(sizeof(A));
    };
    int64_t rows = product.h.gathered.positions, columns = product.w.gathered.positions;
    while (rows > 1 && bytes(rows, columns) > kPlaneBytes) rows = div_up(rows, 2);
    while (columns > kLanes<A> && bytes(rows, columns) > kPlaneBytes) columns = div_up(columns, 2);
    return {rows, columns, div_up(product.h.gathered.positions, rows),
            div_up(product.w.gathered.positions, columns)};
  }
  int64_t count() const { return row_tiles * column_tiles; }
};

// Where each term of phase (a, b) begins in the planes of a group.
template <typename A>
static void fill_offsets(const PlaneProduct& product, const Planes<A>& planes, int64_t a, int64_t b,
                         int32_t* out) {
  const PhaseAxis &h = product.h[a], &w = product.w[b];
  for (int64_t d = 0; d < product.depth; ++d) {
    for (int64_t i = 0; i < h.axis.taps; ++i) {
      for (int64_t j = 0; j < w.axis.taps; ++j) {
        *out++ = static_cast<int32_t>(
            d * planes.channel_elements() +
            planes.offset(h.first_tap + i * h.tap_step, w.first_tap + j * w.tap_step));
      }
    }
  }
}

}  // namespace fastconv::cpu::FASTCONV_ISA
