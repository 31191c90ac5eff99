#include "plan/cuda_depthwise_tile.h"

#include <algorithm>
#include <stdexcept>
#include <string>

#include "problem/layout.h"

namespace fastconv {
namespace {

// A kernel gets so much without asking for more, and four such blocks share a multiprocessor.
constexpr int64_t kSharedBudget = 48 << 10;
// Memory is read in sectors of 32 bytes: fewer adjacent bytes of a pixel than this waste much of
// them.
constexpr int64_t kMinSegmentBytes = 64;
constexpr int64_t kMinThreads = 128;
// Blocks that keep a large GPU busy for two waves; tiles shrink to get there.
constexpr int64_t kEnoughBlocks = 1024;
constexpr int kMinRows = 4;
constexpr int64_t kMaxRows = 64;
constexpr int kMaxStripsAlongChannels = 8;
constexpr int kMaxStripsAlongColumns = 16;
// Strips of vectors that share a block: neighbours read some of the same columns of x.
constexpr int64_t kStripsOfVectors = 8;
// Multiprocessors of a large GPU, and the rows that a block of vectors could compute in the time in
// which it fetches filters and its first row.
constexpr int64_t kMultiprocessors = 132;
constexpr int64_t kStartRows = 3;
// No strip of vectors reads so many columns.
constexpr int64_t kStripWindow = 32;

// Height and width of the output as the kernel sees them. dgrad of stride 2 begins where h + pad is
// even, which is at h = -1 with an odd padding.
struct Extent {
  int64_t rows = 0, cols = 0;
};

Extent output_extent(ConvOp op, const ConvProblem& problem, int stride) {
  if (op != ConvOp::dgrad) return {problem.P(), problem.Q()};
  if (stride == 1) return {problem.H, problem.W};
  return {problem.H + problem.pad_h % 2, problem.W + problem.pad_w % 2};
}

// Adjacent source positions that so many adjacent outputs read.
int64_t window(int64_t outputs, ConvOp op, DepthwiseConfig config) {
  if (op == ConvOp::dgrad && config.stride == 2) return outputs / 2 + (config.filter - 1) / 2;
  return (outputs - 1) * config.stride + config.filter;
}

// Shared memory of a block. `element`: bytes of one; `unit`: elements of a copy.
int64_t shared_bytes(const DepthwiseTile& tile, ConvOp op, int filter, int64_t element,
                     int64_t unit) {
  // Along channels a pixel is padded to whole vectors; along columns a row may begin inside of one.
  const auto plane = [&](int64_t rows, int64_t cols) {
    return tile.channels_inner ? round_up(tile.channels, unit) * rows * cols
                               : tile.channels * (rows * round_up(cols + unit - 1, unit) + unit);
  };
  const int64_t input = plane(tile.source_rows, tile.source_cols) * element;
  const int64_t output = plane(tile.rows, tile.tile_cols()) * element;
  if (op == ConvOp::wgrad) {
    const int64_t sums = filter * tile.threads() * 4;
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

// Whether the threads of a kernel for vectors can own those of a call.
bool vectors_fit(const CudaConvCall& call, DepthwiseConfig config) {
  if (!depthwise_has_kernel(call.op, config)) return false;
  const ConvProblem& problem = call.problem;
  const int vector = depthwise_vector(call.op, config.filter, element_size(call.dtype));
  const auto fits = [&](const Strides& strides, int64_t H, int64_t W) {
    return depthwise_has_vectors(strides, problem, H, W, call.dtype, vector, call.aligned);
  };
  return fits(call.x, problem.H, problem.W) && fits(call.y, problem.P(), problem.Q());
}

// How many tiles of rows the kernels for vectors want, where `blocks` share each: few, because a
// tile reads and multiplies rows that others do as well, but enough that no multiprocessor idles.
int64_t row_tiles_of_vectors(ConvOp op, DepthwiseConfig config, int64_t rows, int64_t blocks) {
  const int64_t fewest = div_up(rows, kMaxRows);
  const int64_t most = std::clamp(rows / kMinRows, fewest, fewest + kMaxRows);
  if (op == ConvOp::wgrad) {  // whose blocks take several tiles, one after the other
    const int64_t at_once = kMultiprocessors * kDepthwiseVectorBlocks / blocks;
    return std::clamp(std::min(at_once, rows / (2 * config.filter)), fewest, most);
  }
  const bool pairs = op == ConvOp::dgrad && config.stride == 2;
  const int64_t shared_rows =
      pairs ? config.filter - 1 : (config.filter + config.stride - 1) / config.stride - 1;
  int64_t best = fewest, best_steps = INT64_MAX;
  for (int64_t tiles = fewest; tiles <= most; ++tiles) {
    // A multiprocessor that has few blocks works no faster on each.
    const int64_t turns =
        std::max(div_up(blocks * tiles, kMultiprocessors), kDepthwiseVectorBlocks);
    const int64_t steps =
        turns * (div_up(rows, tiles) + div_up(shared_rows * (tiles - 1), tiles) + kStartRows);
    if (steps < best_steps) best = tiles, best_steps = steps;
  }
  return best;
}

// The tile of a kernel whose threads own vectors. It needs shared memory for filters alone.
DepthwiseTile tile_of_vectors(const ConvProblem& problem, DType dtype, Extent extent, ConvOp op,
                              DepthwiseConfig config) {
  DepthwiseTile tile;
  tile.channels_inner = true;
  tile.vector = depthwise_vector(op, config.filter, element_size(dtype));
  const int64_t max_threads = depthwise_max_threads(config);
  const int64_t vectors = problem.C / tile.vector;
  tile.strip = depthwise_strip_of_vectors(config.filter);
  // Blocks as wide as many threads make them, their columns and channels divided evenly.
  const int64_t strips = div_up(extent.cols, tile.strip);
  tile.col_tiles = div_up(strips, std::max(kStripsOfVectors, max_threads / vectors));
  tile.strips = static_cast<int>(div_up(strips, tile.col_tiles));
  // A float for each tap, and for the bias.
  const int64_t vector_bytes = (config.filter * config.filter + 1) * 4 * tile.vector;
  tile.channel_blocks =
      div_up(vectors, std::min(max_threads / tile.strips, kSharedBudget / vector_bytes));
  tile.channels = static_cast<int>(div_up(vectors, tile.channel_blocks)) * tile.vector;
  tile.channel_blocks = div_up(problem.C, tile.channels);
  const int64_t row_tiles = row_tiles_of_vectors(op, config, extent.rows,
                                                 problem.N * tile.channel_blocks * tile.col_tiles);
  tile.rows = static_cast<int>(div_up(extent.rows, row_tiles));
  if (op == ConvOp::dgrad && config.stride == 2) tile.rows += tile.rows % 2;
  tile.row_tiles = div_up(extent.rows, tile.rows);
  tile.source_rows = static_cast<int>(window(tile.rows, op, config));
  tile.source_cols = static_cast<int>(window(tile.tile_cols(), op, config));
  return tile;
}

}  // namespace

bool depthwise_channels_inner(const ConvProblem& problem, const Strides& source) {
  return problem.C > 1 && source.c == 1 && source.w != 1;
}

int depthwise_copy_bytes(const Strides& strides, bool channels_inner, int64_t N, int64_t C,
                         int64_t H, int64_t W, DType dtype, bool aligned_16, bool aligned_4) {
  const int64_t element = element_size(dtype);
  const auto along = channels_inner ? &Strides::c : &Strides::w;
  const int64_t adjacent = strides.*along;
  const int64_t length = channels_inner ? C : W;
  for (const int64_t bytes : {int64_t{16}, int64_t{4}}) {
    const int64_t unit = bytes / element;
    if (unit == 0 || !(bytes == 16 ? aligned_16 : aligned_4)) continue;
    if ((unit > 1 && adjacent != 1) || length % unit != 0) continue;
    if (rows_are_aligned(strides, {N, C, H, W}, element, along, bytes)) {
      return static_cast<int>(bytes);
    }
  }
  return static_cast<int>(element);
}

bool depthwise_has_vectors(const Strides& strides, const ConvProblem& problem, int64_t H, int64_t W,
                           DType dtype, int vector, bool aligned) {
  const int64_t element = element_size(dtype), farthest = INT32_MAX / kStripWindow / element;
  return aligned && problem.C % vector == 0 && strides.c == 1 && strides.w != 1 &&
         strides.w <= farthest &&
         rows_are_aligned(strides, {problem.N, problem.C, H, W}, element, &Strides::c,
                          vector * element);
}

DepthwiseKernel depthwise_kernel_of_any_layout(DepthwiseConfig config) {
  for (int i = 1; i < kDepthwiseKernelCount; ++i) {
    const DepthwiseConfig other = kDepthwiseConfigs[i];
    if (other.filter == config.filter && other.stride == config.stride && !other.vectors) {
      return static_cast<DepthwiseKernel>(i);
    }
  }
  return DepthwiseKernel::any_geometry;
}

DepthwiseKernel depthwise_kernel(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  const bool square = problem.R == problem.S && problem.stride_h == problem.stride_w;
  const bool dilated = problem.dilation_h != 1 || problem.dilation_w != 1;
  if (call.dtype == DType::float64 || problem.K != problem.C || !square || dilated) {
    return DepthwiseKernel::any_geometry;
  }
  for (int i = 1; i < kDepthwiseKernelCount; ++i) {
    const DepthwiseConfig config = kDepthwiseConfigs[i];
    if (config.vectors && config.filter == problem.R && config.stride == problem.stride_h &&
        vectors_fit(call, config)) {
      return static_cast<DepthwiseKernel>(i);
    }
  }
  return depthwise_kernel_of_any_layout(
      {static_cast<int>(problem.R), static_cast<int>(problem.stride_h)});
}

DepthwiseTile depthwise_tile(ConvOp op, const ConvProblem& problem, DType dtype,
                             const Strides& source, DepthwiseKernel kernel) {
  const DepthwiseConfig config = config_of(kernel);
  const int64_t element = element_size(dtype), unit = kAccessBytes / element;
  const bool pairs = op == ConvOp::dgrad && config.stride == 2;
  const Extent extent = output_extent(op, problem, config.stride);
  if (config.vectors) return tile_of_vectors(problem, dtype, extent, op, config);

  DepthwiseTile tile;
  tile.channels_inner = depthwise_channels_inner(problem, source);
  tile.strip = pairs ? kDepthwiseStripStride2Dgrad : kDepthwiseStrip;
  const int64_t strips = div_up(extent.cols, tile.strip);

  const bool dgrad = op == ConvOp::dgrad;
  const int64_t copied = depthwise_copy_bytes(source, tile.channels_inner, problem.N, problem.C,
                                              dgrad ? problem.P() : problem.H,
                                              dgrad ? problem.Q() : problem.W, dtype, true) /
                         element;
  const int64_t min_rows = std::min<int64_t>(extent.rows, std::max(kMinRows, config.filter));

  // Fills in the tile; whether it fits into the budget of shared memory.
  const auto attempt = [&](int64_t max_strips, int64_t min_channels, int64_t min_threads) {
    tile.col_tiles = div_up(strips, max_strips);
    // Along columns every tile but the last begins at a whole vector.
    const bool whole = !tile.channels_inner && tile.col_tiles > 1;
    tile.strips = static_cast<int>(whole ? max_strips : div_up(strips, tile.col_tiles));
    const int64_t wanted = div_up(min_threads, tile.strips);
    if (tile.channels_inner) {
      const int64_t low = round_up(std::max(min_channels, wanted), unit);
      const int64_t high =
          std::min(2 * low, depthwise_max_threads(config) / tile.strips / unit * unit);
      tile.channels = best_channels(problem.C, low, high, unit);
    } else {
      tile.channels = static_cast<int>(div_up(problem.C, div_up(problem.C, wanted)));
    }
    tile.channel_blocks = div_up(problem.C, tile.channels);
    const bool threads_fit = tile.threads() <= depthwise_max_threads(config);
    for (tile.row_tiles = div_up(extent.rows, kMaxRows);; ++tile.row_tiles) {
      tile.rows = static_cast<int>(div_up(extent.rows, tile.row_tiles));
      if (pairs) tile.rows += tile.rows % 2;
      tile.source_rows = static_cast<int>(window(tile.rows, op, config));
      tile.source_cols = static_cast<int>(window(tile.tile_cols(), op, config));
      tile.shared_bytes = shared_bytes(tile, op, config.filter, element, copied);
      const bool fits = threads_fit && tile.shared_bytes <= kSharedBudget;
      const bool enough =
          op == ConvOp::wgrad || problem.N * tile.blocks_per_image() >= kEnoughBlocks;
      if ((fits && enough) || tile.rows <= min_rows) {
        tile.row_tiles = div_up(extent.rows, tile.rows);
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
  if (tile.threads() > depthwise_max_threads(config)) {
    throw std::logic_error("a depthwise block of " + std::to_string(tile.threads()) +
                           " threads is more than its kernel was compiled for");
  }
  return tile;
}

}  // namespace fastconv
