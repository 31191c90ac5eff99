// The direct convolution runs everything. Its plan picks the tile by the filters of a group,
// vectors by layout, and wgrad's slices so that the device is full.
#include <algorithm>
#include <climits>

#include "plan/cuda_direct_tile.h"
#include "plan/cuda_plan.h"
#include "problem/layout.h"

namespace fastconv {
namespace {

constexpr int64_t kMaxNarrowFilters = 32;         // more go to the wide tile
constexpr int64_t kStemSharedMemory = 112 << 10;  // two blocks fit an SM of 228 KiB
constexpr int64_t kMinStemColumns = 12;           // of y: the stem's tile is 32 wide

// wgrad cuts its pixels into slices until there are so many blocks for each multiprocessor, if the
// slices stay as long as this and their sums fit into the workspace.
constexpr int64_t kWgradBlocksPerSm = 4;
constexpr int64_t kMinSlicePixels = 256;
constexpr int64_t kMaxSplits = 4096;
constexpr int64_t kMaxWgradWorkspace = int64_t{64} << 20;

// Whether `vector` adjacent channels of a group lie at an aligned address wherever they begin.
bool channels_in_vectors(const Strides& strides, int64_t channels, int64_t vector) {
  return strides.c == 1 && channels % vector == 0 && strides.n % vector == 0 &&
         strides.h % vector == 0 && strides.w % vector == 0;
}

bool has_stem(const CudaConvCall& call, bool few_filters) {
  const ConvProblem& problem = call.problem;
  if (call.op != ConvOp::fprop || problem.channels_per_group() > kMaxStemChannels ||
      problem.Q() < kMinStemColumns || !stem_reach_is_small(problem)) {
    return false;
  }
  return stem_tile(problem, few_filters, accumulator_size(call.dtype)).shared_bytes <=
         std::min(kStemSharedMemory, call.device.shared_memory);
}

void plan_wgrad(const CudaConvCall& call, CudaConvPlan& plan) {
  const ConvProblem& problem = call.problem;
  const bool wide = plan.direct == DirectKernel::wide;
  const GemmShape shape = call.problem.gemm_shape(ConvOp::wgrad);
  const int64_t tiles =
      div_up(shape.gemm_n, wide ? 128 : 64) * div_up(shape.gemm_m, wide ? 64 : 16) * problem.groups;
  const int64_t wanted = div_up(kWgradBlocksPerSm * std::max(call.device.sm_count, 1), tiles);
  const int64_t slice_bytes = problem.w_elements() * accumulator_size(call.dtype);
  const int64_t most = std::min({kMaxSplits, div_up(shape.gemm_k, kMinSlicePixels),
                                 kMaxWgradWorkspace / std::max<int64_t>(slice_bytes, 1)});
  plan.splits = static_cast<int>(std::max<int64_t>(1, std::min(wanted, most)));
  plan.workspace_bytes = plan.splits > 1 ? plan.splits * slice_bytes : 0;
}

}  // namespace

std::string direct_unsupported_reason(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  return std::max(problem.R, problem.S) > INT_MAX ? "R and S must be less than 2^31" : "";
}

CudaConvPlan plan_direct(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  const bool dgrad = call.op == ConvOp::dgrad;
  const int64_t filters = dgrad ? problem.channels_per_group() : problem.filters_per_group();
  const int64_t vector = kAccessBytes / element_size(call.dtype);
  CudaConvPlan plan;
  if (const bool few = filters <= 4; has_stem(call, few)) {
    plan.direct = few ? DirectKernel::stem_few_filters : DirectKernel::stem;
    plan.tile_name = few ? "stem, 8 rows x 4 filters" : "stem, 4 rows x 8 filters";
    return plan;
  }
  const bool wide = filters > kMaxNarrowFilters;
  plan.direct = wide ? DirectKernel::wide : DirectKernel::narrow;
  if (call.op == ConvOp::wgrad) {
    plan.vectorised = call.aligned &&
                      channels_in_vectors(call.x, problem.channels_per_group(), vector) &&
                      channels_in_vectors(call.y, problem.filters_per_group(), vector);
    plan.tile_name = wide ? "128x64" : "64x16";
    plan_wgrad(call, plan);
    return plan;
  }
  plan.vectorised =
      call.aligned && (dgrad ? channels_in_vectors(call.y, problem.filters_per_group(), vector)
                             : channels_in_vectors(call.x, problem.channels_per_group(), vector));
  plan.tile_name = wide ? "128x64" : "128x16";
  return plan;
}

}  // namespace fastconv
