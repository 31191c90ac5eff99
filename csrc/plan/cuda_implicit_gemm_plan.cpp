// The tensor-core implicit GEMM: which tile, how it loads, how often gemm_k is split.
#include <algorithm>
#include <initializer_list>
#include <limits>
#include <optional>
#include <stdexcept>
#include <vector>

#include "plan/cuda_pixel_tile_plan.h"
#include "plan/cuda_plan.h"
#include "plan/implicit_gemm_clocks.h"
#include "plan/implicit_gemm_geometry.h"

namespace fastconv {
namespace {

// Positions and GEMM indices have 32 bits in the kernel; half of their range is left for sums.
constexpr int64_t kMaxExtent = int64_t{1} << 30;
// Offsets within an image of the source, taps in the padding included, have 32 bits.
constexpr double kMaxSpan = 1 << 30;
// Terms of a sum, so that the offsets within 128 packed filters have 32 bits.
constexpr int64_t kMaxTerms = int64_t{1} << 23;
constexpr int64_t kMaxSplits = 256;
// A grid has at most 65535 blocks, of 64 channels each, along its second axis.
constexpr int64_t kMaxPackedChannels = int64_t{65535} * 64;

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

// The tiles that have a kernel. The first one fits most filters.
std::vector<GemmKernel> kernels_of(const CudaConvPlan& plan, ConvOp op) {
  using enum GemmKernel;
  const bool wgrad = op == ConvOp::wgrad;
  if (plan.math == CudaMath::tf32x3) {
    return wgrad ? std::vector{tile64x64} : std::vector{tile64x64, tile128x32};
  }
  if (!plan.vectorised) {
    return wgrad ? std::vector{tile128x64_small_warps, tile64x64}
                 : std::vector{tile128x64_small_warps, tile64x64, tile128x32};
  }
  return wgrad ? std::vector{tile128x128, tile64x128, tile64x64}
               : std::vector{tile128x128, tile256x64, tile128x64, tile64x64, tile128x32};
}

// The phases of fprop (one) or dgrad.
struct PhaseShape {
  int64_t gemm_m, gemm_k;
};
std::vector<PhaseShape> phases_of(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  if (call.op == ConvOp::wgrad) {
    const GemmShape shape = problem.gemm_shape(call.op);
    return {{shape.gemm_m, shape.gemm_k}};
  }
  const int64_t channels =
      call.op == ConvOp::dgrad ? problem.filters_per_group() : problem.channels_per_group();
  std::vector<PhaseShape> phases;
  const GemmAxes axes(call.op, problem);
  for (const GatherAxis& h : axes.h) {
    for (const GatherAxis& w : axes.w) {
      phases.push_back({problem.N * h.positions * w.positions, h.taps * w.taps * channels});
    }
  }
  return phases;
}

// Chooses tile and splits together, by modelled time, which it returns in clocks. Partial sums of
// one slice take slice_bytes; wgrad's kernel writes them without a split, too.
double choose_tile_and_splits(const CudaConvCall& call, int64_t slice_bytes, CudaConvPlan& plan) {
  const int64_t slab = kGemmSlabBytes / element_size(call.dtype);
  const int64_t affordable =
      std::clamp<int64_t>(kMaxPartialBytes / std::max<int64_t>(slice_bytes, 1), 1, kMaxSplits);
  const std::vector<PhaseShape> phases = phases_of(call);
  const int64_t gemm_n = call.problem.gemm_shape(call.op).gemm_n;
  double best = std::numeric_limits<double>::infinity();
  for (const GemmKernel kernel : kernels_of(plan, call.op)) {
    const GemmTile tile = tile_of(kernel);
    const int64_t columns = tiles(gemm_n, tile.n) * call.problem.groups;
    GemmWork work;
    int64_t slabs = 0, longest = 1;
    for (const PhaseShape& phase : phases) {
      const int64_t blocks = tiles(phase.gemm_m, tile.m) * columns;
      work.blocks += blocks;
      slabs += blocks * div_up(phase.gemm_k, slab);
      longest = std::max(longest, div_up(phase.gemm_k, slab));
    }
    work.slabs =
        static_cast<double>(slabs) / static_cast<double>(std::max<int64_t>(work.blocks, 1));
    // fprop and dgrad load their filters in vectors always.
    const int single = plan.vectorised ? 0 : call.op == ConvOp::wgrad ? tile.m + tile.n : tile.m;
    const double clocks_of_slab =
        slab_clocks(tile, plan.math, static_cast<double>(single) * static_cast<double>(slab));
    // Splits double, or half as much again: 1, 2, 3, 4, 6, 8, 12, ...
    for (int64_t wanted = 1; wanted <= std::min(affordable, longest);
         wanted += wanted < 3                     ? 1
                   : (wanted & (wanted - 1)) == 0 ? wanted / 2
                                                  : wanted / 3) {
      const int64_t splits = div_up(longest, div_up(longest, wanted));  // none is empty
      const bool reduces = splits > 1 || call.op == ConvOp::wgrad;
      const double clocks = gemm_clocks(tile, clocks_of_slab, work, splits, call.device) +
                            (reduces ? reduce_clocks(slice_bytes, splits) : 0);
      if (clocks < best) {
        best = clocks;
        plan.gemm = kernel;
        plan.splits = static_cast<int>(splits);
      }
    }
  }
  plan.tile_name = name_of(plan.gemm);
  return best;
}

bool masks_have_bits(const ConvProblem& problem) { return problem.R + problem.S <= kMaxMaskedTaps; }

TensorSize x_size(const ConvProblem& problem) {
  return {problem.N, problem.C, problem.H, problem.W};
}
TensorSize y_size(const ConvProblem& problem) {
  return {problem.N, problem.K, problem.P(), problem.Q()};
}

// Whether channels fill vectors, so that tensors that do not lie in them can be copied to where
// they do.
bool fills_vectors(int64_t channels_per_group, DType dtype) {
  return channels_per_group % (kAccessBytes / element_size(dtype)) == 0;
}

// Makes the plan for tensors as they lie. Where they have no vectors, another one for copies of
// `sources` to channels_last, if they would have some there, and takes the faster one.
CudaConvPlan plan_with_sources(const CudaConvCall& call, CudaConvPlan plan, bool could_be_packed,
                               std::initializer_list<TensorSize> sources, int64_t slice_bytes) {
  const double clocks = choose_tile_and_splits(call, slice_bytes, plan);
  // An expanded tensor's copy may span more than the kernel's offsets can.
  CudaConvCall dense = call;
  dense.x = packed_source_strides(x_size(call.problem));
  dense.y = packed_source_strides(y_size(call.problem));
  if (plan.vectorised || !could_be_packed || !masks_have_bits(call.problem) ||
      source_span(dense) >= kMaxSpan || call.problem.C + call.problem.K > kMaxPackedChannels) {
    return plan;
  }
  CudaConvPlan packed = plan;
  packed.vectorised = packed.packed_source = true;
  int64_t bytes = 0;
  for (const TensorSize& size : sources) {
    bytes += packed_source_bytes(size, element_size(call.dtype));
  }
  packed.workspace_bytes += bytes;
  return choose_tile_and_splits(call, slice_bytes, packed) + copy_clocks(bytes) < clocks ? packed
                                                                                         : plan;
}

CudaConvPlan plan_wgrad(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  CudaConvPlan plan;
  plan.math = math_of(call);
  plan.vectorised = call.aligned && x_vectorisable(call) && y_vectorisable(call) &&
                    masks_have_bits(problem) && pixels_equally_spaced(call.y, problem);
  const bool could_be_packed = fills_vectors(problem.channels_per_group(), call.dtype) &&
                               fills_vectors(problem.filters_per_group(), call.dtype);
  const int64_t slice_bytes = problem.w_elements() * static_cast<int64_t>(sizeof(float));
  plan = plan_with_sources(call, plan, could_be_packed, {x_size(problem), y_size(problem)},
                           slice_bytes);
  plan.workspace_bytes += workspace_part(plan.splits * slice_bytes);
  return plan;
}

CudaConvPlan plan_fprop_or_dgrad(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  const bool dgrad = call.op == ConvOp::dgrad;
  const int64_t size = element_size(call.dtype), vector = kAccessBytes / size;
  const GemmShape shape = problem.gemm_shape(call.op);
  CudaConvPlan plan;
  plan.math = math_of(call);
  plan.vectorised = call.aligned && (dgrad ? y_vectorisable(call) : x_vectorisable(call)) &&
                    masks_have_bits(problem);
  plan.packed_w = dgrad || !is_krsc(call, vector);
  const int64_t slice_bytes = checked_product("partial sums", shape.gemm_m, shape.gemm_n,
                                              problem.groups, int64_t{sizeof(float)});
  const bool could_be_packed =
      fills_vectors(dgrad ? problem.filters_per_group() : problem.channels_per_group(), call.dtype);
  plan = plan_with_sources(call, plan, could_be_packed, {dgrad ? y_size(problem) : x_size(problem)},
                           slice_bytes);
  if (plan.packed_w) {
    plan.workspace_bytes += workspace_part(packed_elements(call.op, problem, size) * size);
  }
  if (plan.splits > 1) plan.workspace_bytes += workspace_part(plan.splits * slice_bytes);
  return plan;
}

}  // namespace

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
  if (call.op != ConvOp::wgrad && shape.gemm_k > kMaxTerms) {
    return "the implicit GEMM sums at most " + std::to_string(kMaxTerms) + " terms, not " +
           std::to_string(shape.gemm_k);
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
  if (const std::optional<CudaConvPlan> plan = plan_pixel_tiles(call)) return *plan;
  return call.op == ConvOp::wgrad ? plan_wgrad(call) : plan_fprop_or_dgrad(call);
}

}  // namespace fastconv
