// The tensor-core implicit GEMM: which tile, how it loads, how often gemm_k is split.
#include <algorithm>
#include <stdexcept>

#include "plan/cuda_plan.h"
#include "plan/implicit_gemm_geometry.h"

namespace fastconv {
namespace {

// Coordinates and GEMM indices are 32-bit in the kernel; half of the range is left for sums.
constexpr int64_t kMaxExtent = int64_t{1} << 30;
// Offsets within an image of the gathered tensor, taps in the padding included, have 32 bits.
constexpr double kMaxSpan = 1 << 30;
// Slices shorter than this many main-loop steps are all prologue.
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

// Whether channels lie side by side, and every position of the tensor begins a 16-byte vector. The
// stride of an axis of one position says nothing.
bool vectorisable(const Strides& strides, int64_t N, int64_t channels_per_group, int64_t height,
                  int64_t width, int64_t vector) {
  const auto whole = [&](int64_t size, int64_t stride) {
    return size == 1 || stride % vector == 0;
  };
  return strides.c == 1 && channels_per_group % vector == 0 && whole(N, strides.n) &&
         whole(height, strides.h) && whole(width, strides.w);
}

bool x_vectorisable(const CudaConvCall& call, int64_t vector) {
  const ConvProblem& o = call.problem;
  return vectorisable(call.x, o.N, o.channels_per_group(), o.H, o.W, vector);
}

bool y_vectorisable(const CudaConvCall& call, int64_t vector) {
  const ConvProblem& o = call.problem;
  return vectorisable(call.y, o.N, o.filters_per_group(), o.P(), o.Q(), vector);
}

// Whether w can be read as rows of gemm_k adjacent elements in the order (r, s, c).
bool is_krsc(const CudaConvCall& call, int64_t vector) {
  const ConvProblem& o = call.problem;
  const int64_t channels = o.channels_per_group();
  return call.aligned && (channels == 1 || call.w.c == 1) && (o.S == 1 || call.w.w == channels) &&
         (o.R == 1 || call.w.h == o.S * channels) && call.w.n == o.R * o.S * channels &&
         call.w.n % vector == 0;
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

double gathered_span(const CudaConvCall& call) {
  const ConvProblem& o = call.problem;
  const int64_t reach_h = o.dilation_h * (o.R - 1), reach_w = o.dilation_w * (o.S - 1);
  const double x = image_span(call.x, o.C, o.H + reach_h, o.W + reach_w);
  const double y =
      image_span(call.y, o.K, o.P() + reach_h / o.stride_h + 1, o.Q() + reach_w / o.stride_w + 1);
  switch (call.op) {
    case ConvOp::fprop:
      return x;
    case ConvOp::dgrad:
      return y;
    case ConvOp::wgrad:
      return std::max(x, y);
  }
  throw std::logic_error("gathered_span: unknown ConvOp");
}

std::string name_of(int tile) {
  return "tile " + std::to_string(kGemmTiles[tile].m) + "x" + std::to_string(kGemmTiles[tile].n);
}

int64_t tiles(int64_t size, int tile_size) { return ceil_div(size, tile_size); }

// Whether a warp has registers for 64 x 32 sums.
bool has_wide_warps(const CudaConvPlan& plan) {
  return plan.vectorised && plan.math != CudaMath::tf32x3;
}

CudaConvPlan plan_wgrad(const CudaConvCall& call) {
  const ConvProblem& o = call.problem;
  const int64_t size = element_size(call.dtype), vector = kGemmVectorBytes / size;
  const GemmShape shape = o.gemm_shape(ConvOp::wgrad);
  CudaConvPlan plan;
  plan.math = math_of(call);
  plan.vectorised = call.aligned && x_vectorisable(call, vector) && y_vectorisable(call, vector);
  const bool large = shape.gemm_m > kGemmTiles[kTile64x64].m;
  plan.tile = !large ? kTile64x64 : has_wide_warps(plan) ? kTile128x128 : kTile128x64Small;
  plan.tile_name = name_of(plan.tile);
  const GemmTile tile = kGemmTiles[plan.tile];
  const int64_t blocks = tiles(shape.gemm_m, tile.m) * tiles(shape.gemm_n, tile.n) * o.groups;
  const int64_t steps = ceil_div(shape.gemm_k, kGemmSlabBytes / size);
  const int64_t partial_bytes = o.w_elements() * static_cast<int64_t>(sizeof(float));
  // Two blocks run on a multiprocessor at a time, and gemm_k is long: fill both.
  plan.splits = choose_splits(ceil_div(blocks, 2), steps, partial_bytes, call.device);
  plan.workspace_bytes = workspace_part(plan.splits * partial_bytes);
  return plan;
}

CudaConvPlan plan_fprop_or_dgrad(const CudaConvCall& call) {
  const ConvProblem& o = call.problem;
  const bool dgrad = call.op == ConvOp::dgrad;
  const int64_t size = element_size(call.dtype), vector = kGemmVectorBytes / size;
  const GemmShape shape = o.gemm_shape(call.op);
  CudaConvPlan plan;
  plan.math = math_of(call);
  plan.vectorised =
      call.aligned && (dgrad ? y_vectorisable(call, vector) : x_vectorisable(call, vector));
  plan.packed_w = dgrad || !is_krsc(call, vector);

  const auto blocks_of = [&](int tile) {
    return tiles(shape.gemm_m, kGemmTiles[tile].m) * tiles(shape.gemm_n, kGemmTiles[tile].n) *
           o.groups;
  };
  const int wide = has_wide_warps(plan) ? kTile128x64 : kTile128x64Small;
  if (shape.gemm_n <= kGemmTiles[kTile128x32].n) {
    plan.tile = kTile128x32;
  } else if (has_wide_warps(plan) && shape.gemm_n > kGemmTiles[kTile128x64].n &&
             blocks_of(kTile128x128) >= call.device.sm_count) {
    plan.tile = kTile128x128;
  } else if (blocks_of(wide) >= call.device.sm_count) {
    plan.tile = wide;
  } else {
    plan.tile = kTile64x64;
  }
  plan.tile_name = name_of(plan.tile);

  const int64_t pixels = shape.gemm_m;
  const int64_t steps = ceil_div(shape.gemm_k, kGemmSlabBytes / size);
  const int64_t partial_bytes =
      checked_product("partial sums", pixels, shape.gemm_n, o.groups, int64_t{sizeof(float)});
  plan.splits = choose_splits(blocks_of(plan.tile), steps, partial_bytes, call.device);
  if (plan.packed_w) {
    plan.workspace_bytes += workspace_part(packed_elements(call.op, o, size) * size);
  }
  if (plan.splits > 1) plan.workspace_bytes += workspace_part(plan.splits * partial_bytes);
  return plan;
}

}  // namespace

std::string implicit_gemm_unsupported_reason(const CudaConvCall& call) {
  const ConvProblem& o = call.problem;
  if (call.dtype == DType::float64) return "the tensor cores' implicit GEMM has no float64";
  const GemmShape shape = o.gemm_shape(call.op);
  for (const int64_t extent :
       {shape.gemm_m, shape.gemm_n, shape.gemm_k, o.C, o.K, o.H + 2 * o.pad_h, o.W + 2 * o.pad_w,
        o.dilation_h * o.R, o.dilation_w * o.S, o.stride_h, o.stride_w, o.K * o.R * o.S}) {
    if (extent >= kMaxExtent) {
      return "the implicit GEMM indexes with 32 bits: an extent of " + std::to_string(extent) +
             " is too large";
    }
  }
  if (const double span = gathered_span(call); span >= kMaxSpan) {
    return "the implicit GEMM's offsets within an image have 32 bits, this one spans " +
           std::to_string(static_cast<int64_t>(span)) + " elements";
  }
  if (call.op == ConvOp::dgrad &&
      std::min(o.stride_h, o.H) * std::min(o.stride_w, o.W) > kMaxGemmClasses) {
    return "dgrad has one sub-problem for each of stride_h * stride_w = " +
           std::to_string(o.stride_h * o.stride_w) + " residue classes, more than " +
           std::to_string(kMaxGemmClasses);
  }
  const int64_t blocks =
      checked_product("blocks", tiles(shape.gemm_m, kGemmTiles[kTile64x64].m) + kMaxGemmClasses,
                      tiles(shape.gemm_n, kGemmTiles[kTile128x32].n), o.groups);
  if (blocks >= kMaxExtent) return "too many blocks for one launch: " + std::to_string(blocks);
  return "";
}

CudaConvPlan plan_implicit_gemm(const CudaConvCall& call) {
  return call.op == ConvOp::wgrad ? plan_wgrad(call) : plan_fprop_or_dgrad(call);
}

}  // namespace fastconv
