// The plan of the depthwise kernels: which of them, and into how many slices wgrad cuts its sums.
#include <algorithm>

#include "plan/cuda_depthwise_tile.h"
#include "plan/cuda_plan.h"
#include "problem/layout.h"

namespace fastconv {
namespace {

// wgrad gets enough slices to fill the device, few enough that adding them up costs little: as many
// blocks on each multiprocessor as kWaves, of the kernels for vectors as it holds at once.
constexpr int64_t kWaves = 4;
constexpr int64_t kMaxSplits = 256;
constexpr int64_t kTensorsToSlices = 8;  // bytes of x and dy for each byte of the workspace

// The number of slices. `items` is what they divide among them: rows, or tiles of rows, of all
// images. One slice needs blocks_of_one blocks and bytes_of_one bytes of workspace; all of them may
// take `traffic` bytes, and more only where the device would be left half empty.
int choose_splits(int64_t items, int64_t blocks_of_one, int64_t bytes_of_one, int64_t traffic,
                  int sm_count, int64_t waves = kWaves) {
  const int64_t multiprocessors = std::max(sm_count, 1);
  const int64_t wanted = div_up(waves * multiprocessors, blocks_of_one);
  const int64_t affordable =
      std::max(traffic / bytes_of_one, div_up(multiprocessors, blocks_of_one));
  const int64_t most =
      std::clamp<int64_t>(std::min(wanted, affordable), 1, std::min(items, kMaxSplits));
  return static_cast<int>(div_up(items, div_up(items, most)));  // no slice is empty
}

}  // namespace

std::string depthwise_unsupported_reason(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  if (problem.channels_per_group() != 1) {
    return "depthwise needs one channel per group, got " +
           std::to_string(problem.channels_per_group());
  }
  constexpr int64_t kLargest = int64_t{1} << 30;
  for (const int64_t size :
       {problem.N, problem.H, problem.W, problem.K, problem.P(), problem.Q(), problem.R, problem.S,
        problem.pad_h, problem.pad_w, problem.stride_h, problem.stride_w, problem.dilation_h,
        problem.dilation_w, (problem.R - 1) * problem.dilation_h,
        (problem.S - 1) * problem.dilation_w}) {
    if (size > kLargest) return "a size of " + std::to_string(size) + " exceeds 2^30";
  }
  return "";
}

CudaConvPlan plan_depthwise(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  const Strides& source = call.op == ConvOp::dgrad ? call.y : call.x;
  CudaConvPlan plan;
  plan.depthwise = depthwise_kernel(call);
  const DepthwiseConfig config = config_of(plan.depthwise);
  const char* const lanes = depthwise_channels_inner(problem, source) ? ", lanes along channels"
                                                                      : ", lanes along columns";
  const int64_t sums_bytes = problem.K * problem.R * problem.S * accumulator_size(call.dtype);
  const int64_t traffic = problem.bytes(call.op, element_size(call.dtype)) / kTensorsToSlices;
  if (plan.depthwise == DepthwiseKernel::any_geometry) {
    plan.tile_name = std::string("any geometry") + lanes;
    if (call.op == ConvOp::wgrad) {
      plan.splits = choose_splits(problem.N * problem.P(), depthwise_generic_wgrad_blocks(problem),
                                  sums_bytes, traffic, call.device.sm_count);
      plan.workspace_bytes = plan.splits * sums_bytes;
    }
    return plan;
  }
  const DepthwiseTile tile = depthwise_tile(call.op, problem, call.dtype, source, plan.depthwise);
  const bool dgrad = call.op == ConvOp::dgrad;
  plan.vectorised =
      config.vectors ||
      depthwise_copy_bytes(source, tile.channels_inner, problem.N, problem.C,
                           dgrad ? problem.P() : problem.H, dgrad ? problem.Q() : problem.W,
                           call.dtype, call.aligned) == kAccessBytes;
  const std::string size = std::to_string(config.filter) + "x" + std::to_string(config.filter) +
                           " stride " + std::to_string(config.stride);
  const char* const vectors = config.vectors ? " in vectors" : "";
  plan.tile_name = size + lanes + vectors + ", block of " + std::to_string(tile.channels) +
                   " channels x " + std::to_string(tile.rows) + " rows x " +
                   std::to_string(tile.tile_cols()) + " columns";
  if (call.op == ConvOp::wgrad) {
    plan.splits = choose_splits(problem.N * tile.row_tiles, tile.channel_blocks * tile.col_tiles,
                                tile.col_tiles * sums_bytes, traffic, call.device.sm_count,
                                config.vectors ? kDepthwiseVectorBlocks : kWaves);
    plan.workspace_bytes = plan.splits * tile.col_tiles * sums_bytes;
  }
  return plan;
}

}  // namespace fastconv
