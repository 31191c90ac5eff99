#include <algorithm>

#include "plan/cuda_depthwise_tile.h"
#include "plan/cuda_plan.h"

namespace fastconv {
namespace {

// Slices of wgrad's sums: enough blocks to fill the device several times over, few enough that
// adding them up costs little.
constexpr int64_t kWaves = 4;
constexpr int64_t kMaxSlices = 256;
constexpr int64_t kTensorsToSlices = 8;  // bytes of x and dy for each byte of the workspace

// `traffic`: bytes that slices may cost in all, unless the device would be left half empty.
int slices(int64_t items, int64_t blocks_of_one, int64_t bytes_of_one, int64_t traffic,
           int sm_count) {
  const int64_t multiprocessors = std::max(sm_count, 1);
  const int64_t wanted = ceil_div(kWaves * multiprocessors, blocks_of_one);
  const int64_t affordable =
      std::max(traffic / bytes_of_one, ceil_div(multiprocessors, blocks_of_one));
  const int64_t most =
      std::clamp<int64_t>(std::min(wanted, affordable), 1, std::min(items, kMaxSlices));
  return static_cast<int>(ceil_div(items, ceil_div(items, most)));  // none is empty
}

}  // namespace

std::string depthwise_unsupported_reason(const CudaConvCall& call) {
  const ConvProblem& o = call.problem;
  if (o.channels_per_group() != 1) {
    return "depthwise needs one channel per group, got " + std::to_string(o.channels_per_group());
  }
  constexpr int64_t kLargest = int64_t{1} << 30;
  for (const int64_t size :
       {o.N, o.H, o.W, o.K, o.P(), o.Q(), o.R, o.S, o.pad_h, o.pad_w, o.stride_h, o.stride_w,
        o.dilation_h, o.dilation_w, (o.R - 1) * o.dilation_h, (o.S - 1) * o.dilation_w}) {
    if (size > kLargest) return "a size of " + std::to_string(size) + " exceeds 2^30";
  }
  return "";
}

CudaConvPlan plan_depthwise(const CudaConvCall& call) {
  const ConvProblem& o = call.problem;
  const Strides& gathered = call.op == ConvOp::dgrad ? call.y : call.x;
  CudaConvPlan plan;
  plan.tile = depthwise_config(o, call.dtype);
  const DepthwiseConfig config = kDepthwiseConfigs[plan.tile];
  const char* const lanes =
      depthwise_channels_inner(o, gathered) ? ", lanes along channels" : ", lanes along columns";
  const int64_t sums_bytes = o.K * o.R * o.S * (call.dtype == DType::float64 ? 8 : 4);
  const int64_t traffic = o.bytes(call.op, dtype_bytes(call.dtype)) / kTensorsToSlices;
  if (plan.tile == 0) {
    plan.tile_name = std::string("any geometry") + lanes;
    if (call.op == ConvOp::wgrad) {
      plan.splits = slices(o.N * o.P(), depthwise_generic_wgrad_blocks(o), sums_bytes, traffic,
                           call.device.sm_count);
      plan.workspace_bytes = plan.splits * sums_bytes;
    }
    return plan;
  }
  const DepthwiseTile tile = depthwise_tile(call.op, o, call.dtype, gathered, plan.tile);
  const bool dgrad = call.op == ConvOp::dgrad;
  plan.vectorised =
      depthwise_copy_bytes(gathered, tile.channels_inner, o.N, o.C, dgrad ? o.P() : o.H,
                           dgrad ? o.Q() : o.W, call.dtype, call.aligned) == 16;
  const std::string size = std::to_string(config.filter) + "x" + std::to_string(config.filter) +
                           " stride " + std::to_string(config.stride);
  plan.tile_name = size + lanes + ", block of " + std::to_string(tile.channels) + " channels x " +
                   std::to_string(tile.rows) + " rows x " + std::to_string(tile.tile_cols()) +
                   " columns";
  if (call.op == ConvOp::wgrad) {
    plan.splits = slices(o.N * tile.row_tiles, tile.channel_blocks * tile.col_tiles,
                         tile.col_tiles * sums_bytes, traffic, call.device.sm_count);
    plan.workspace_bytes = plan.splits * tile.col_tiles * sums_bytes;
  }
  return plan;
}

}  // namespace fastconv
