#include "plan/conv_plan.h"

#include <stdexcept>

namespace fastconv {
namespace {

// One panel of packed filters (kMicroM rows of double) must stay small against the workspace.
constexpr int64_t kMaxIm2colGemmK = int64_t{1} << 18;
// dgrad runs one product for each residue class modulo the stride.
constexpr int64_t kMaxIm2colDgradStride = 4;
// Below this many rows or terms the products spend their time on packing.
constexpr int64_t kMinIm2colRows = 3;
constexpr int64_t kMinIm2colGemmK = 8;

int64_t product_rows(ConvOp op, const ConvProblem& problem) {
  return op == ConvOp::dgrad ? problem.channels_per_group() : problem.filters_per_group();
}

// Terms of a sum; for wgrad the columns of dw instead, whose sums are as long as there are pixels.
int64_t product_depth(ConvOp op, const ConvProblem& problem) {
  const GemmShape shape = problem.gemm_shape(op);
  return op == ConvOp::wgrad ? shape.gemm_n : shape.gemm_k;
}

}  // namespace

std::string unsupported_reason(ConvAlgorithm algorithm, ConvOp op, const ConvProblem& problem) {
  switch (algorithm) {
    case ConvAlgorithm::reference:
    case ConvAlgorithm::direct:
      return "";
    case ConvAlgorithm::depthwise:
      return problem.channels_per_group() == 1 ? ""
                                               : "depthwise needs one channel per group, got " +
                                                     std::to_string(problem.channels_per_group());
    case ConvAlgorithm::im2col: {
      if (op != ConvOp::wgrad && product_depth(op, problem) > kMaxIm2colGemmK) {
        return "im2col's workspace is bounded: gemm_k " +
               std::to_string(product_depth(op, problem)) + " exceeds " +
               std::to_string(kMaxIm2colGemmK);
      }
      return "";
    }
  }
  throw std::invalid_argument("unknown ConvAlgorithm " +
                              std::to_string(static_cast<int>(algorithm)));
}

ConvPlan plan_conv2d_cpu(ConvOp op, const ConvProblem& problem, bool channels_last) {
  if (problem.channels_per_group() == 1 && problem.groups > 1) {
    if (channels_last) {
      return {ConvAlgorithm::depthwise, "one channel per group, channels adjacent in memory"};
    }
    return {ConvAlgorithm::direct, "one channel per group, rows adjacent in memory"};
  }
  const int64_t rows = product_rows(op, problem), depth = product_depth(op, problem);
  if (const std::string reason = unsupported_reason(ConvAlgorithm::im2col, op, problem);
      !reason.empty()) {
    return {ConvAlgorithm::direct, reason};
  }
  if (op == ConvOp::dgrad &&
      (problem.stride_h > kMaxIm2colDgradStride || problem.stride_w > kMaxIm2colDgradStride)) {
    return {ConvAlgorithm::direct, "one product for each of stride_h*stride_w classes is too many"};
  }
  if (rows < kMinIm2colRows || depth < kMinIm2colGemmK) {
    return {ConvAlgorithm::direct, "product too thin for packing: " + std::to_string(rows) +
                                       " rows, depth " + std::to_string(depth)};
  }
  return {ConvAlgorithm::im2col,
          "dense product: " + std::to_string(rows) + " rows, depth " + std::to_string(depth)};
}

}  // namespace fastconv
