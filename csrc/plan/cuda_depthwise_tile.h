// How the depthwise kernels cut a problem into blocks. The plan and the launcher both ask these
// functions, so that they agree without passing more than a CudaConvPlan.
#pragma once

#include <cstdint>
#include <iterator>

#include "plan/cuda_plan.h"
#include "problem/conv_problem.h"
#include "problem/math.h"
#include "problem/tensor.h"

namespace fastconv {

// The square filter and the stride that a kernel is compiled for, and whether its threads own
// vectors of channels, by DepthwiseKernel. dgrad of stride 1 runs the kernels of fprop.
struct DepthwiseConfig {
  int filter = 0;
  int stride = 0;
  bool vectors = false;
};
inline constexpr DepthwiseConfig kDepthwiseConfigs[] = {
    {0, 0},       {3, 1},       {3, 2},       {5, 1},       {5, 2},       {7, 1},      {7, 2},
    {3, 1, true}, {3, 2, true}, {5, 1, true}, {5, 2, true}, {7, 1, true}, {7, 2, true}};
inline constexpr int kDepthwiseKernelCount = static_cast<int>(std::size(kDepthwiseConfigs));
constexpr DepthwiseConfig config_of(DepthwiseKernel kernel) {
  return kDepthwiseConfigs[static_cast<int>(kernel)];
}

// Adjacent output columns that one thread computes. dgrad of stride 2 wants pairs of columns.
inline constexpr int kDepthwiseStrip = 7;
inline constexpr int kDepthwiseStripStride2Dgrad = 8;
inline constexpr int depthwise_strip_of_vectors(int filter) { return filter == 7 ? 7 : 4; }
// Blocks of the kernels for vectors that a multiprocessor holds at once.
inline constexpr int64_t kDepthwiseVectorBlocks = 3;
// Adjacent channels of a thread of the kernels for vectors: 8 bytes of them, which leave enough
// registers for enough warps; two where a thread keeps more open, which is 7x7 and wgrad of 5x5.
constexpr int depthwise_vector(ConvOp op, int filter, int64_t element_bytes) {
  const bool two = filter == 7 || (op == ConvOp::wgrad && filter == 5);
  return two ? 2 : static_cast<int>(8 / element_bytes);
}
// Whether a pass has the kernel of a configuration. wgrad of 7x7 would need more registers for
// vectors than there are.
constexpr bool depthwise_has_kernel(ConvOp op, DepthwiseConfig config) {
  const bool fprop = op == ConvOp::fprop || (op == ConvOp::dgrad && config.stride == 1);
  return fprop || !config.vectors || config.filter < 7;
}
inline constexpr int depthwise_max_threads(DepthwiseConfig config) {
  return config.filter == 7 || config.vectors ? 128 : 256;
}

// A block owns `channels` channels and a tile of `rows` x `strips` strips of the output (of dy for
// wgrad). One thread owns a strip of one channel, or of a vector of them, and walks down its rows.
struct DepthwiseTile {
  bool channels_inner = false;  // lanes along channels (channels_last), else along columns
  int channels = 0, strips = 0, rows = 0;
  int strip = 0;                         // columns
  int vector = 1;                        // channels of a thread
  int source_rows = 0, source_cols = 0;  // of x (of dy for dgrad) that the tile reads
  int64_t channel_blocks = 0, row_tiles = 0, col_tiles = 0;
  int64_t shared_bytes = 0;

  int tile_cols() const { return strips * strip; }
  int threads() const { return round_up(channels / vector * strips, 32); }
  int64_t blocks_per_image() const { return channel_blocks * row_tiles * col_tiles; }
};

// Which kernel runs a call, whose sizes are at most 2^30.
DepthwiseKernel depthwise_kernel(const CudaConvCall& call);

// The kernel for the filter and the stride of a configuration that needs no vectors; any_geometry
// where there is none.
DepthwiseKernel depthwise_kernel_of_any_layout(DepthwiseConfig config);

// Whether threads can own vectors of so many channels of a tensor, whose columns must lie so close
// that 32 bits hold the distances within a strip. `aligned`: its address is a multiple of a vector.
bool depthwise_has_vectors(const Strides& strides, const ConvProblem& problem, int64_t H, int64_t W,
                           DType dtype, int vector, bool aligned);

// The tile of a kernel other than any_geometry. `source` are the strides of x (of dy for dgrad).
DepthwiseTile depthwise_tile(ConvOp op, const ConvProblem& problem, DType dtype,
                             const Strides& source, DepthwiseKernel kernel);

// Whether lanes should run along channels: then those are adjacent in memory.
bool depthwise_channels_inner(const ConvProblem& problem, const Strides& source);

// Bytes of the copies that fill shared memory from a tensor of N x C x H x W elements: 16, 4 or one
// element. aligned_16 and aligned_4 say whether its address is a multiple of these.
int depthwise_copy_bytes(const Strides& strides, bool channels_inner, int64_t N, int64_t C,
                         int64_t H, int64_t W, DType dtype, bool aligned_16, bool aligned_4 = true);

// wgrad of any geometry: a thread sums kDepthwiseTapsPerThread adjacent taps of one filter row.
inline constexpr int kDepthwiseTapsPerThread = 8;
inline constexpr int kDepthwiseWgradLanes = 32;
inline constexpr int kDepthwiseWgradRows = 4;  // pieces of filter rows in a block
inline int64_t depthwise_generic_wgrad_pieces(const ConvProblem& problem) {
  return problem.R * div_up(problem.S, kDepthwiseTapsPerThread);
}
inline int64_t depthwise_generic_wgrad_blocks(const ConvProblem& problem) {
  return div_up(problem.K, kDepthwiseWgradLanes) *
         div_up(depthwise_generic_wgrad_pieces(problem), kDepthwiseWgradRows);
}

}  // namespace fastconv
