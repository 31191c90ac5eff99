#include "plan/cpu_plan.h"

#include <stdexcept>

namespace fastconv {
namespace {

// One panel of packed filters (kMicroColumns rows of double) must stay small against the workspace.
constexpr int64_t kMaxProductGemmK = int64_t{1} << 18;
// dgrad runs one product for each phase, of which there are stride_h * stride_w.
constexpr int64_t kMaxProductDgradStride = 4;
// Groups of up to so many channels would leave most lanes along channels without work.
constexpr int64_t kMaxPlanes = 8;
constexpr int64_t kMaxWgradPlanes = 4;
// So few output channels, summed over more source channels, leave such lanes idle as well.
constexpr int64_t kFewOutputs = 4;
// Partial sums that a task of wgrad by planes keeps, each a vector.
constexpr int64_t kMaxPlanesSums = int64_t{1} << 14;
// Depthwise along one axis: rows of so many positions fill vectors along pixels, and for so few
// taps it would not pay to transpose them for vectors along channels.
constexpr int64_t kMinRowPositions = 128;
constexpr int64_t kMaxRowTaps = 8;
// Below this many rows or terms the products spend their time on packing.
constexpr int64_t kMinProductRows = 3;
constexpr int64_t kMinProductGemmK = 8;

// Output channels of a group; for wgrad its filters.
int64_t product_rows(ConvOp op, const ConvProblem& problem) {
  return op == ConvOp::dgrad ? problem.channels_per_group() : problem.filters_per_group();
}

// Terms of a sum; for wgrad the columns of dw instead, whose sums are as long as there are pixels.
int64_t product_depth(ConvOp op, const ConvProblem& problem) {
  const GemmShape shape = problem.gemm_shape(op);
  return op == ConvOp::wgrad ? shape.gemm_n : shape.gemm_k;
}

// Source channels of each output channel; for wgrad those of x for each filter.
int64_t group_depth(ConvOp op, const ConvProblem& problem) {
  return op == ConvOp::dgrad ? problem.filters_per_group() : problem.channels_per_group();
}

// A depthwise fprop or dgrad of long rows, as conv1d has them, that lie in memory as rows.
bool is_long_rows(ConvOp op, const ConvProblem& problem, bool channels_adjacent) {
  return !channels_adjacent && problem.H == 1 && problem.R == 1 && problem.S <= kMaxRowTaps &&
         problem.Q() >= kMinRowPositions &&
         (op == ConvOp::fprop || (op == ConvOp::dgrad && problem.stride_w == 1));
}

std::string bounded_gemm_k(ConvOp op, const ConvProblem& problem) {
  const int64_t gemm_k = problem.gemm_shape(op).gemm_k;
  if (op == ConvOp::wgrad || gemm_k <= kMaxProductGemmK) return "";
  return "the workspace of packed filters is bounded: gemm_k " + std::to_string(gemm_k) +
         " exceeds " + std::to_string(kMaxProductGemmK);
}

}  // namespace

std::string unsupported_reason(CpuAlgorithm algorithm, ConvOp op, const ConvProblem& problem) {
  switch (algorithm) {
    case CpuAlgorithm::reference:
    case CpuAlgorithm::direct:
      return "";
    case CpuAlgorithm::planes: {
      const GemmShape shape = problem.gemm_shape(op);
      if (op == ConvOp::wgrad && shape.gemm_m * shape.gemm_n > kMaxPlanesSums) {
        return "planes keeps a vector for each element of a group's filters, at most " +
               std::to_string(kMaxPlanesSums) + ", got " +
               std::to_string(shape.gemm_m * shape.gemm_n);
      }
      return bounded_gemm_k(op, problem);
    }
    case CpuAlgorithm::depthwise:
      return problem.channels_per_group() == 1 ? ""
                                               : "depthwise needs one channel per group, got " +
                                                     std::to_string(problem.channels_per_group());
    case CpuAlgorithm::implicit_gemm:
      return bounded_gemm_k(op, problem);
  }
  throw std::invalid_argument("unknown CpuAlgorithm " +
                              std::to_string(static_cast<int>(algorithm)));
}

CpuConvPlan plan_conv2d_cpu(ConvOp op, const ConvProblem& problem, bool channels_adjacent) {
  const int64_t outputs = product_rows(op, problem), sources = group_depth(op, problem);
  if (op == ConvOp::dgrad &&
      (problem.stride_h > kMaxProductDgradStride || problem.stride_w > kMaxProductDgradStride)) {
    return {CpuAlgorithm::direct, "one product for each of stride_h*stride_w phases is too many"};
  }
  if (problem.groups > 1 && outputs == 1 && sources == 1 &&
      !is_long_rows(op, problem, channels_adjacent)) {
    return {CpuAlgorithm::depthwise, "one channel per group: lanes along channels"};
  }
  const int64_t most = op == ConvOp::wgrad ? kMaxWgradPlanes : kMaxPlanes;
  const bool small_groups = problem.groups > 1 && sources <= most && outputs <= most;
  const bool few_outputs = op != ConvOp::wgrad && outputs <= kFewOutputs && sources > outputs;
  const int64_t depth = product_depth(op, problem);
  const bool thin = outputs < kMinProductRows || depth < kMinProductGemmK;
  if ((small_groups || few_outputs || thin) &&
      unsupported_reason(CpuAlgorithm::planes, op, problem).empty()) {
    return {CpuAlgorithm::planes, std::to_string(sources) + " -> " + std::to_string(outputs) +
                                      " channels a group: lanes along pixels"};
  }
  if (const std::string reason = unsupported_reason(CpuAlgorithm::implicit_gemm, op, problem);
      !reason.empty()) {
    return {CpuAlgorithm::direct, reason};
  }
  if (thin) {
    return {CpuAlgorithm::direct, "product too thin for packing: " + std::to_string(outputs) +
                                      " rows, depth " + std::to_string(depth)};
  }
  return {CpuAlgorithm::implicit_gemm,
          "dense product: " + std::to_string(outputs) + " rows, depth " + std::to_string(depth)};
}

}  // namespace fastconv
