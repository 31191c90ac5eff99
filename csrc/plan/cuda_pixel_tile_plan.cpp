// The kernels on the tensor cores whose blocks take rectangles of pixels: stems, and groups of few
// channels.
#include "plan/cuda_pixel_tile_plan.h"

#include <algorithm>
#include <string>

#include "plan/implicit_gemm_geometry.h"
#include "plan/pixel_tile_geometry.h"
#include "problem/checked_math.h"
#include "problem/layout.h"

namespace fastconv {
namespace {

// Blocks, for one multiprocessor, of the kernels whose blocks take rectangles of pixels, as far as
// registers go.
constexpr int64_t kPixelTileBlocksPerSm = 3;

bool can_launch(const CudaDevice& device, int64_t columns, int64_t shared_bytes) {
  return columns <= kMaxChannelBlocks && shared_bytes <= device.shared_memory;
}

// Divides the rectangles of N x P x Q pixels among blocks that all run at once, so that each loads
// its filters once. As many blocks again for each of `columns` sets of filters.
int pixel_tile_blocks(const CudaDevice& device, int64_t N, int64_t P, int64_t Q, int64_t columns,
                      int64_t shared_bytes) {
  const int64_t tiles =
      checked_product("tiles", N, div_up(P, kPixelTileRows), div_up(Q, kPixelTileColumns));
  const int64_t resident =
      std::clamp<int64_t>(device.shared_memory / shared_bytes, 1, kPixelTileBlocksPerSm);
  return static_cast<int>(std::clamp<int64_t>(
      resident * device.sm_count / std::max<int64_t>(columns, 1), 1, std::max<int64_t>(tiles, 1)));
}

std::string pixel_tile_name(const std::string& what, int64_t columns) {
  return what + ", " + std::to_string(kPixelTileRows) + "x" + std::to_string(kPixelTileColumns) +
         " pixels x " + std::to_string(columns);
}

GemmKernel stem_kernel(const ConvProblem& problem) {
  return problem.K <= stem_filters(GemmKernel::stem_few_filters) ? GemmKernel::stem_few_filters
                                                                 : GemmKernel::stem;
}

bool has_stem(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  const GemmKernel kernel = stem_kernel(problem);
  return call.op == ConvOp::fprop && element_size(call.dtype) == 2 && problem.groups == 1 &&
         problem.C <= kStemChannels &&
         can_launch(call.device, div_up(problem.K, stem_filters(kernel)),
                    StemGeometry(problem, kernel).shared_bytes);
}

CudaConvPlan plan_stem(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  CudaConvPlan plan;
  plan.math = math_of(call);
  plan.gemm = stem_kernel(problem);
  const int filters = stem_filters(plan.gemm);
  plan.blocks =
      pixel_tile_blocks(call.device, problem.N, problem.P(), problem.Q(),
                        div_up(problem.K, filters), StemGeometry(problem, plan.gemm).shared_bytes);
  plan.tile_name = pixel_tile_name("stem", filters);
  return plan;
}

bool has_grouped(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  const int64_t group = problem.channels_per_group();
  const bool dgrad = call.op == ConvOp::dgrad;
  const Strides& source = dgrad ? call.y : call.x;
  const TensorSize size = dgrad ? TensorSize{problem.N, problem.K, problem.P(), problem.Q()}
                                : TensorSize{problem.N, problem.C, problem.H, problem.W};
  const int64_t vector = kAccessBytes / 2;
  const bool dy_aligned = rows_are_aligned(call.y, {problem.N, problem.K, problem.P(), problem.Q()},
                                           2, &Strides::c, kAccessBytes);
  return element_size(call.dtype) == 2 && problem.groups > 1 &&
         group == problem.filters_per_group() && (group == 4 || group == 8 || group == 16) &&
         (!dgrad || (problem.stride_h == 1 && problem.stride_w == 1)) && call.aligned &&
         problem.C % vector == 0 && source.c == 1 &&
         rows_are_aligned(source, size, 2, &Strides::c, kAccessBytes) &&
         (call.op != ConvOp::wgrad || (call.y.c == 1 && dy_aligned)) &&
         can_launch(call.device, div_up(problem.C, kGroupedChannels),
                    GroupedGeometry(call.op, problem).shared_bytes);
}

CudaConvPlan plan_grouped(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  const bool dgrad = call.op == ConvOp::dgrad;
  const int64_t group = problem.channels_per_group();
  CudaConvPlan plan;
  plan.math = math_of(call);
  plan.vectorised = true;
  plan.gemm = group == 4   ? GemmKernel::grouped4
              : group == 8 ? GemmKernel::grouped8
                           : GemmKernel::grouped16;
  plan.blocks = pixel_tile_blocks(
      call.device, problem.N, dgrad ? problem.H : problem.P(), dgrad ? problem.W : problem.Q(),
      div_up(problem.C, kGroupedChannels), GroupedGeometry(call.op, problem).shared_bytes);
  plan.tile_name = pixel_tile_name("groups of " + std::to_string(group), kGroupedChannels);
  if (call.op == ConvOp::wgrad) {
    const int64_t slice_bytes = problem.w_elements() * static_cast<int64_t>(sizeof(float));
    const int64_t affordable =
        std::max<int64_t>(kMaxPartialBytes / (slice_bytes * kWgradGroupedSlices), 1);
    plan.blocks = static_cast<int>(std::min<int64_t>(plan.blocks, affordable));
    plan.splits = plan.blocks * kWgradGroupedSlices;
    plan.workspace_bytes = workspace_part(plan.splits * slice_bytes);
  }
  return plan;
}

}  // namespace

std::optional<CudaConvPlan> plan_pixel_tiles(const CudaConvCall& call) {
  if (has_stem(call)) return plan_stem(call);
  if (has_grouped(call)) return plan_grouped(call);
  return std::nullopt;
}

}  // namespace fastconv
