// The tensor-core implicit GEMM: which tile, how it loads, how often gemm_k is split.
#include <algorithm>
#include <stdexcept>

#include "plan/cuda_plan.h"
#include "plan/implicit_gemm_geometry.h"

namespace fastconv {
namespace {

// Positions and GEMM indices have 32 bits in the kernel; half of their range is left for sums.
constexpr int64_t kMaxExtent = int64_t{1} << 30;
// Offsets within an image of the source, taps in the padding included, have 32 bits.
constexpr double kMaxSpan = 1 << 30;
// A slice of fewer steps of the main loop than this spends its time on filling the pipeline.
constexpr int64_t kMinStepsPerSlice = 8;
constexpr int64_t kMaxSplits = 256;
// Partial sums may take this much memory.
constexpr int64_t kMaxPartialBytes = int64_t{256} << 20;

CudaMath math_of(const CudaConvCall& call) {
  switch (call.dtype) {
    case DType::float16:
      return CudaMath::fp16;
    case DType::bfloat16:
      return CudaMath::bf16;
    case DType::float32:
      return call.allow_tf32 ? CudaMath::tf32 : CudaMath::tf32x3;
    case DType::float64:
      break;
  }
  throw std::invalid_argument("the implicit GEMM knows no float64");
}

// Whether channels lie side by side, and every pixel of every group begins a 16-byte vector.
bool vectorisable(const Strides& strides, const TensorSize& size, int64_t channels_per_group,
                  DType dtype) {
  const int64_t element = element_size(dtype);
  return strides.c == 1 && channels_per_group % (kAccessBytes / element) == 0 &&
         rows_are_aligned(strides, size, element, &Strides::c, kAccessBytes);
}

bool x_vectorisable(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  return vectorisable(call.x, {problem.N, problem.C, problem.H, problem.W},
                      problem.channels_per_group(), call.dtype);
}

bool y_vectorisable(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  return vectorisable(call.y, {problem.N, problem.K, problem.P(), problem.Q()},
                      problem.filters_per_group(), call.dtype);
}

// Whether w can be read as rows of gemm_k adjacent elements in the order (r, s, c).
bool is_krsc(const CudaConvCall& call, int64_t vector) {
  const ConvProblem& problem = call.problem;
  const int64_t channels = problem.channels_per_group();
  return call.aligned && (channels == 1 || call.w.c == 1) &&
         (problem.S == 1 || call.w.w == channels) &&
         (problem.R == 1 || call.w.h == problem.S * channels) &&
         call.w.n == problem.R * problem.S * channels && call.w.n % vector == 0;
}

// Slices of gemm_k so that all multiprocessors have a block, if there is enough to slice.
int choose_splits(int64_t blocks, int64_t steps, int64_t partial_bytes, const CudaDevice& device) {
  const int64_t wanted = device.sm_count / std::max<int64_t>(blocks, 1);
  const int64_t possible = std::max<int64_t>(steps / kMinStepsPerSlice, 1);
  const int64_t affordable =
      std::max<int64_t>(kMaxPartialBytes / std::max<int64_t>(partial_bytes, 1), 1);
  return static_cast<int>(
      std::clamp<int64_t>(wanted, 1, std::min({possible, affordable, kMaxSplits})));
}

// Elements from an image's first to the farthest that a tap is computed for, in the padding too. As
// a double, for any strides.
double image_span(const Strides& strides, int64_t channels, int64_t height, int64_t width) {
  const auto along = [](int64_t size, int64_t stride) {
    return static_cast<double>(size - 1) * static_cast<double>(stride);
  };
  return along(channels, strides.c) + along(height, strides.h) + along(width, strides.w);
}

double source_span(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  const int64_t reach_h = problem.dilation_h * (problem.R - 1),
                reach_w = problem.dilation_w * (problem.S - 1);
  const double x = image_span(call.x, problem.C, problem.H + reach_h, problem.W + reach_w);
  const double y = image_span(call.y, problem.K, problem.P() + reach_h / problem.stride_h + 1,
                              problem.Q() + reach_w / problem.stride_w + 1);
  switch (call.op) {
    case ConvOp::fprop:
      return x;
    case ConvOp::dgrad:
      return y;
    case ConvOp::wgrad:
      return std::max(x, y);
  }
  throw std::logic_error("source_span: unknown ConvOp");
}

std::string name_of(GemmKernel kernel) {
  const GemmTile tile = tile_of(kernel);
  return "tile " + std::to_string(tile.m) + "x" + std::to_string(tile.n);
}

int64_t tiles(int64_t size, int tile_size) { return div_up(size, tile_size); }

// Whether a warp has registers for 64 x 32 sums.
bool has_wide_warps(const CudaConvPlan& plan) {
  return plan.vectorised && plan.math != CudaMath::tf32x3;
}

CudaConvPlan plan_wgrad(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  const int64_t size = element_size(call.dtype);
  const GemmShape shape = problem.gemm_shape(ConvOp::wgrad);
  CudaConvPlan plan;
  plan.math = math_of(call);
  plan.vectorised = call.aligned && x_vectorisable(call) && y_vectorisable(call);
  const bool large = shape.gemm_m > tile_of(GemmKernel::tile64x64).m;
  plan.gemm = !large                 ? GemmKernel::tile64x64
              : has_wide_warps(plan) ? GemmKernel::tile128x128
                                     : GemmKernel::tile128x64_small_warps;
  plan.tile_name = name_of(plan.gemm);
  const GemmTile tile = tile_of(plan.gemm);
  const int64_t blocks = tiles(shape.gemm_m, tile.m) * tiles(shape.gemm_n, tile.n) * problem.groups;
  const int64_t steps = div_up(shape.gemm_k, kGemmSlabBytes / size);
  const int64_t partial_bytes = problem.w_elements() * static_cast<int64_t>(sizeof(float));
  // Two blocks run on a multiprocessor at a time, and gemm_k is long: fill both.
  plan.splits = choose_splits(div_up(blocks, 2), steps, partial_bytes, call.device);
  plan.workspace_bytes = workspace_part(plan.splits * partial_bytes);
  return plan;
}

CudaConvPlan plan_fprop_or_dgrad(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  const bool dgrad = call.op == ConvOp::dgrad;
  const int64_t size = element_size(call.dtype), vector = kAccessBytes / size;
  const GemmShape shape = problem.gemm_shape(call.op);
  CudaConvPlan plan;
  plan.math = math_of(call);
  plan.vectorised = call.aligned && (dgrad ? y_vectorisable(call) : x_vectorisable(call));
  plan.packed_w = dgrad || !is_krsc(call, vector);

  const auto blocks_of = [&](GemmKernel kernel) {
    const GemmTile tile = tile_of(kernel);
    return tiles(shape.gemm_m, tile.m) * tiles(shape.gemm_n, tile.n) * problem.groups;
  };
  const GemmKernel wide =
      has_wide_warps(plan) ? GemmKernel::tile128x64 : GemmKernel::tile128x64_small_warps;
  if (shape.gemm_n <= tile_of(GemmKernel::tile128x32).n) {
    plan.gemm = GemmKernel::tile128x32;
  } else if (has_wide_warps(plan) && shape.gemm_n > tile_of(GemmKernel::tile128x64).n &&
             blocks_of(GemmKernel::tile128x128) >= call.device.sm_count) {
    plan.gemm = GemmKernel::tile128x128;
  } else if (blocks_of(wide) >= call.device.sm_count) {
    plan.gemm = wide;
  } else {
    plan.gemm = GemmKernel::tile64x64;
  }
  plan.tile_name = name_of(plan.gemm);

  const int64_t pixels = shape.gemm_m;
  const int64_t steps = div_up(shape.gemm_k, kGemmSlabBytes / size);
  const int64_t partial_bytes =
      checked_product("partial sums", pixels, shape.gemm_n, problem.groups, int64_t{sizeof(float)});
  plan.splits = choose_splits(blocks_of(plan.gemm), steps, partial_bytes, call.device);
  if (plan.packed_w) {
    plan.workspace_bytes += workspace_part(packed_elements(call.op, problem, size) * size);
  }
  if (plan.splits > 1) plan.workspace_bytes += workspace_part(plan.splits * partial_bytes);
  return plan;
}

}  // namespace

std::string implicit_gemm_unsupported_reason(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  if (call.dtype == DType::float64) return "the tensor cores' implicit GEMM has no float64";
  const GemmShape shape = problem.gemm_shape(call.op);
  for (const int64_t extent :
       {shape.gemm_m, shape.gemm_n, shape.gemm_k, problem.C, problem.K,
        problem.H + 2 * problem.pad_h, problem.W + 2 * problem.pad_w,
        problem.dilation_h * problem.R, problem.dilation_w * problem.S, problem.stride_h,
        problem.stride_w, problem.K * problem.R * problem.S}) {
    if (extent >= kMaxExtent) {
      return "the implicit GEMM indexes with 32 bits: an extent of " + std::to_string(extent) +
             " is too large";
    }
  }
  if (const double span = source_span(call); span >= kMaxSpan) {
    return "the implicit GEMM's offsets within an image have 32 bits, this one spans " +
           std::to_string(static_cast<int64_t>(span)) + " elements";
  }
  if (call.op == ConvOp::dgrad &&
      std::min(problem.stride_h, problem.H) * std::min(problem.stride_w, problem.W) >
          kMaxGemmPhases) {
    return "dgrad has one sub-problem for each of stride_h * stride_w = " +
           std::to_string(problem.stride_h * problem.stride_w) + " phases, more than " +
           std::to_string(kMaxGemmPhases);
  }
  const int64_t blocks = checked_product(
      "blocks", tiles(shape.gemm_m, tile_of(GemmKernel::tile64x64).m) + kMaxGemmPhases,
      tiles(shape.gemm_n, tile_of(GemmKernel::tile128x32).n), problem.groups);
  if (blocks >= kMaxExtent) return "too many blocks for one launch: " + std::to_string(blocks);
  return "";
}

CudaConvPlan plan_implicit_gemm(const CudaConvCall& call) {
  return call.op == ConvOp::wgrad ? plan_wgrad(call) : plan_fprop_or_dgrad(call);
}

}  // namespace fastconv
