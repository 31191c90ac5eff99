#include "plan/cuda_depthwise_tile.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace fastconv {
namespace {

constexpr int64_t kVectorBytes = 16;
constexpr int64_t kWarpSize = 32;
// Without opting in, and four such blocks share a multiprocessor.
constexpr int64_t kSharedBudget = 48 << 10;
// Fewer bytes of a pixel than this use its sectors of memory badly.
constexpr int64_t kMinSegmentBytes = 64;
constexpr int64_t kMinThreads = 128;
// Blocks that keep a large GPU busy for two waves; tiles shrink to get there.
constexpr int64_t kEnoughBlocks = 1024;
constexpr int kMinRows = 4;
constexpr int64_t kMaxRows = 64;
constexpr int kMaxStripsAlongChannels = 8;
constexpr int kMaxStripsAlongColumns = 16;

int64_t round_up(int64_t value, int64_t multiple) { return ceil_div(value, multiple) * multiple; }

// Output sizes as the kernel sees them. dgrad of stride 2 counts from an even padded position.
struct Extent {
  int64_t rows = 0, cols = 0;
};

Extent output_extent(ConvOp op, const ConvProblem& o, int stride) {
  if (op != ConvOp::dgrad) return {o.P(), o.Q()};
  if (stride == 1) return {o.H, o.W};
  return {o.H + o.pad_h % 2, o.W + o.pad_w % 2};
}

int64_t window(int64_t outputs, ConvOp op, DepthwiseConfig config) {
  if (op == ConvOp::dgrad && config.stride == 2) return outputs / 2 + (config.filter - 1) / 2;
  return (outputs - 1) * config.stride + config.filter;
}

int64_t threads_of(const DepthwiseTile& tile) {
  return round_up(tile.channels * tile.strips, kWarpSize);
}

int64_t shared_bytes(const DepthwiseTile& tile, ConvOp op, int filter, int64_t element,
                     int64_t unit) {
  // Along channels a pixel is padded to whole vectors; along columns a row may begin inside of one.
  const auto plane = [&](int64_t rows, int64_t cols) {
    return tile.channels_inner ? round_up(tile.channels, unit) * rows * cols
                               : tile.channels * (rows * round_up(cols + unit - 1, unit) + unit);
  };
  const int64_t input = plane(tile.in_rows, tile.in_cols) * element;
  const int64_t output = plane(tile.rows, tile.tile_cols()) * element;
  if (op == ConvOp::wgrad) {
    const int64_t sums = filter * threads_of(tile) * 4;
    return std::max(input + output, sums);
  }
  const int64_t taps = filter * filter * tile.channels * element;
  return taps + input + (tile.channels_inner ? 0 : output);
}

// Channels of a block: as few idle lanes as possible, then as few channels as possible.
int best_channels(int64_t C, int64_t low, int64_t high, int64_t unit) {
  if (C <= low) return static_cast<int>(round_up(C, unit));
  int64_t best = low;
  for (int64_t c = low; c <= high; c += unit) {
    if (round_up(C, c) < round_up(C, best)) best = c;
  }
  return static_cast<int>(best);
}

}  // namespace

bool depthwise_channels_inner(const ConvProblem& problem, const Strides& gathered) {
  return problem.C > 1 && gathered.c == 1 && gathered.w != 1;
}

int depthwise_copy_bytes(const Strides& strides, bool channels_inner, int64_t N, int64_t C,
                         int64_t H, int64_t W, DType dtype, bool aligned_16, bool aligned_4) {
  const int64_t element = dtype_bytes(dtype);
  const int64_t adjacent = channels_inner ? strides.c : strides.w;
  const int64_t length = channels_inner ? C : W;
  for (const int64_t bytes : {int64_t{16}, int64_t{4}}) {
    const int64_t unit = bytes / element;
    if (unit == 0 || !(bytes == 16 ? aligned_16 : aligned_4)) continue;
    const auto whole = [&](int64_t size, int64_t stride) {
      return size == 1 || stride % unit == 0;
    };
    if ((unit > 1 && adjacent != 1) || length % unit != 0) continue;
    if (!whole(N, strides.n) || !whole(H, strides.h)) continue;
    if (!(channels_inner ? whole(W, strides.w) : whole(C, strides.c))) continue;
    return static_cast<int>(bytes);
  }
  return static_cast<int>(element);
}

int depthwise_config(const ConvProblem& o, DType dtype) {
  if (dtype == DType::float64 || o.K != o.C || o.R != o.S) return 0;
  if (o.stride_h != o.stride_w || o.dilation_h != 1 || o.dilation_w != 1) return 0;
  for (int i = 1; i < kDepthwiseConfigCount; ++i) {
    if (kDepthwiseConfigs[i].filter == o.R && kDepthwiseConfigs[i].stride == o.stride_h) return i;
  }
  return 0;
}

DepthwiseTile depthwise_tile(ConvOp op, const ConvProblem& o, DType dtype, const Strides& gathered,
                             int config_index) {
  const DepthwiseConfig config = kDepthwiseConfigs[config_index];
  const int64_t element = dtype_bytes(dtype), unit = kVectorBytes / element;
  const bool pairs = op == ConvOp::dgrad && config.stride == 2;
  const Extent extent = output_extent(op, o, config.stride);

  DepthwiseTile tile;
  tile.channels_inner = depthwise_channels_inner(o, gathered);
  tile.strip = pairs ? kDepthwiseStripStride2Dgrad : kDepthwiseStrip;
  const int64_t strips = ceil_div(extent.cols, tile.strip);

  const bool dgrad = op == ConvOp::dgrad;
  const int64_t copied =
      depthwise_copy_bytes(gathered, tile.channels_inner, o.N, o.C, dgrad ? o.P() : o.H,
                           dgrad ? o.Q() : o.W, dtype, true) /
      element;
  const int64_t min_rows = std::min<int64_t>(extent.rows, std::max(kMinRows, config.filter));

  // Fills in the tile; whether it fits into the budget of shared memory.
  const auto attempt = [&](int64_t max_strips, int64_t min_channels, int64_t min_threads) {
    tile.col_tiles = ceil_div(strips, max_strips);
    // Along columns every tile but the last begins at a whole vector.
    const bool whole = !tile.channels_inner && tile.col_tiles > 1;
    tile.strips = static_cast<int>(whole ? max_strips : ceil_div(strips, tile.col_tiles));
    const int64_t wanted = ceil_div(min_threads, tile.strips);
    if (tile.channels_inner) {
      const int64_t low = round_up(std::max(min_channels, wanted), unit);
      const int64_t high =
          std::min(2 * low, depthwise_max_threads(config.filter) / tile.strips / unit * unit);
      tile.channels = best_channels(o.C, low, high, unit);
    } else {
      tile.channels = static_cast<int>(ceil_div(o.C, ceil_div(o.C, wanted)));
    }
    tile.channel_blocks = ceil_div(o.C, tile.channels);
    const bool threads_fit = threads_of(tile) <= depthwise_max_threads(config.filter);
    for (tile.row_tiles = ceil_div(extent.rows, kMaxRows);; ++tile.row_tiles) {
      tile.rows = static_cast<int>(ceil_div(extent.rows, tile.row_tiles));
      if (pairs) tile.rows += tile.rows % 2;
      tile.in_rows = static_cast<int>(window(tile.rows, op, config));
      tile.in_cols = static_cast<int>(window(tile.tile_cols(), op, config));
      tile.shared_bytes = shared_bytes(tile, op, config.filter, element, copied);
      const bool fits = threads_fit && tile.shared_bytes <= kSharedBudget;
      const bool enough = op == ConvOp::wgrad || o.N * tile.blocks_per_sample() >= kEnoughBlocks;
      if ((fits && enough) || tile.rows <= min_rows) {
        tile.row_tiles = ceil_div(extent.rows, tile.rows);
        return fits;
      }
    }
  };

  int64_t max_strips = tile.channels_inner ? kMaxStripsAlongChannels : kMaxStripsAlongColumns;
  int64_t min_channels = kMinSegmentBytes / element, min_threads = kMinThreads;
  while (!attempt(max_strips, min_channels, min_threads)) {
    if (min_threads > kMinThreads / 4) {
      min_threads /= 2;
    } else if (max_strips > 1) {
      max_strips /= 2;
    } else if (min_channels > unit) {
      min_channels /= 2;
    } else {
      break;
    }
  }
  if (threads_of(tile) > depthwise_max_threads(config.filter)) {
    throw std::logic_error("a depthwise block of " + std::to_string(threads_of(tile)) +
                           " threads is more than its kernel was compiled for");
  }
  return tile;
}

}  // namespace fastconv
