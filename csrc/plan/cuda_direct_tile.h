// The tile of the direct convolution for a network's first layer (the stem), for its plan and its
// launch alike.
#pragma once

#include <algorithm>
#include <cstdint>

#include "problem/conv_problem.h"
#include "problem/math.h"

namespace fastconv {

// What a block of conv2d_fprop_stem computes at once, and what it holds in shared memory for that:
// first the halo, which is all pixels of x that the tile's outputs read, then the filters, then a
// table of the columns that taps read (column_offsets in the kernel).
struct StemTile {
  static constexpr int64_t kColumns = 32, kWarps = 8;
  int64_t channels = 1;           // that the kernel is compiled for: 1, 3 or 4
  int64_t rows = 4, filters = 8;  // of a thread
  int64_t filter_groups = 1;      // warps side by side along the filters; the others along rows
  int64_t halo_rows = 0, halo_columns = 0;
  // Columns of the halo that are equal modulo stride_w form a phase and lie side by side, so that
  // adjacent lanes read adjacent elements: a row of the halo holds stride_w such phases.
  int64_t phase_columns = 0, pitch = 0;            // of a phase; of a row
  int64_t filter_pitch = 0;                        // elements from one (tap, channel) to the next
  int64_t filters_offset = 0, columns_offset = 0;  // where these parts begin, in accumulators
  int64_t shared_bytes = 0;

  int64_t tile_rows() const { return kWarps / filter_groups * rows; }
  int64_t tile_filters() const { return filter_groups * filters; }
};

inline constexpr int64_t kMaxStemChannels = 4;
// Of stride, dilation, R and S, which decide how large the halo is.
inline constexpr int64_t kMaxStemReach = 64;

inline bool stem_reach_is_small(const ConvProblem& problem) {
  return std::max({problem.stride_h, problem.stride_w, problem.dilation_h, problem.dilation_w,
                   problem.R, problem.S}) <= kMaxStemReach;
}

// For problems of which stem_reach_is_small is true.
inline StemTile stem_tile(const ConvProblem& problem, bool few_filters, int64_t accumulator_bytes) {
  StemTile tile;
  const int64_t channels = problem.channels_per_group();
  tile.channels = channels == 1 ? 1 : (channels == 3 && !few_filters ? 3 : 4);
  tile.rows = few_filters ? 8 : 4;
  tile.filters = few_filters ? 4 : 8;
  // More warps go along the filters until the tile has all filters of a group.
  while (tile.filter_groups < StemTile::kWarps &&
         tile.tile_filters() < problem.filters_per_group()) {
    tile.filter_groups *= 2;
  }
  const auto halo = [](int64_t outputs, int64_t stride, int64_t taps, int64_t dilation) {
    return (outputs - 1) * stride + (taps - 1) * dilation + 1;
  };
  tile.halo_rows = halo(tile.tile_rows(), problem.stride_h, problem.R, problem.dilation_h);
  tile.halo_columns = halo(StemTile::kColumns, problem.stride_w, problem.S, problem.dilation_w);
  tile.phase_columns = div_up(tile.halo_columns, problem.stride_w);
  tile.pitch = tile.phase_columns * problem.stride_w;
  tile.filter_pitch = tile.tile_filters() + 16 / accumulator_bytes;
  // Filters are read 16 bytes at a time.
  tile.filters_offset = div_up(tile.channels * tile.halo_rows * tile.pitch, 4) * 4;
  tile.columns_offset =
      tile.filters_offset + problem.R * problem.S * tile.channels * tile.filter_pitch;
  tile.shared_bytes = tile.columns_offset * accumulator_bytes + problem.S * 4;
  return tile;
}

}  // namespace fastconv
