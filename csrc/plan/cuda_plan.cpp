#include "plan/cuda_plan.h"

#include <stdexcept>
#include <utility>

namespace fastconv {
namespace {

// Fewer terms or filters than this leave the tensor cores' tiles mostly empty. With few filters
// they are faster all the same where loads are vectors.
constexpr int64_t kMinGemmK = 16;
constexpr int64_t kMinGemmN = 8;

std::invalid_argument unknown(CudaAlgorithm algorithm) {
  return std::invalid_argument("unknown CudaAlgorithm " +
                               std::to_string(static_cast<int>(algorithm)));
}

}  // namespace

std::string unsupported_reason(CudaAlgorithm algorithm, const CudaConvCall& call) {
  switch (algorithm) {
    case CudaAlgorithm::direct:
      return direct_unsupported_reason(call);
    case CudaAlgorithm::im2col:
      return im2col_unsupported_reason(call);
    case CudaAlgorithm::implicit_gemm:
      return implicit_gemm_unsupported_reason(call);
    case CudaAlgorithm::depthwise:
      return depthwise_unsupported_reason(call);
  }
  throw unknown(algorithm);
}

CudaPlanNumbers numbers_of(const CudaConvPlan& plan) {
  const auto kernel = [&]() -> int {
    switch (plan.algorithm) {
      case CudaAlgorithm::direct:
        return static_cast<int>(plan.direct);
      case CudaAlgorithm::im2col:
        return 0;
      case CudaAlgorithm::implicit_gemm:
        return static_cast<int>(plan.gemm);
      case CudaAlgorithm::depthwise:
        return static_cast<int>(plan.depthwise);
    }
    throw unknown(plan.algorithm);
  };
  return {
      static_cast<int>(plan.algorithm), kernel(),    int{plan.vectorised}, int{plan.packed_w},
      static_cast<int>(plan.math),      plan.splits, plan.blocks,          int{plan.packed_source}};
}

CudaConvPlan plan_of(const CudaPlanNumbers& numbers) {
  const auto [algorithm, kernel, vectorised, packed_w, math, splits, blocks, packed_source] =
      numbers;
  CudaConvPlan plan;
  plan.algorithm = static_cast<CudaAlgorithm>(algorithm);
  switch (plan.algorithm) {
    case CudaAlgorithm::direct:
      plan.direct = static_cast<DirectKernel>(kernel);
      break;
    case CudaAlgorithm::im2col:
      break;
    case CudaAlgorithm::implicit_gemm:
      plan.gemm = static_cast<GemmKernel>(kernel);
      break;
    case CudaAlgorithm::depthwise:
      plan.depthwise = static_cast<DepthwiseKernel>(kernel);
      break;
  }
  plan.vectorised = vectorised != 0;
  plan.packed_w = packed_w != 0;
  plan.math = static_cast<CudaMath>(math);
  plan.splits = splits;
  plan.blocks = blocks;
  plan.packed_source = packed_source != 0;
  return plan;
}

CudaConvPlan plan_conv2d_cuda(CudaAlgorithm algorithm, const CudaConvCall& call,
                              std::string reason) {
  if (const std::string refusal = unsupported_reason(algorithm, call); !refusal.empty()) {
    throw std::invalid_argument(refusal);
  }
  const auto plan = [&]() -> CudaConvPlan {
    switch (algorithm) {
      case CudaAlgorithm::direct:
        return plan_direct(call);
      case CudaAlgorithm::im2col:
        return plan_im2col(call);
      case CudaAlgorithm::implicit_gemm:
        return plan_implicit_gemm(call);
      case CudaAlgorithm::depthwise:
        return plan_depthwise(call);
    }
    throw unknown(algorithm);
  };
  CudaConvPlan result = plan();
  result.algorithm = algorithm;
  result.reason = std::move(reason);
  return result;
}

CudaConvPlan plan_conv2d_cuda(const CudaConvCall& call) {
  const ConvProblem& problem = call.problem;
  if (problem.channels_per_group() == 1 && problem.groups > 1 &&
      depthwise_unsupported_reason(call).empty()) {
    return plan_conv2d_cuda(CudaAlgorithm::depthwise, call, "one channel per group");
  }
  if (const std::string reason = implicit_gemm_unsupported_reason(call); !reason.empty()) {
    return plan_conv2d_cuda(CudaAlgorithm::direct, call, reason);
  }
  const GemmShape shape = problem.gemm_shape(call.op);
  const int64_t filters = call.op == ConvOp::wgrad ? shape.gemm_m : shape.gemm_n;
  const int64_t terms = call.op == ConvOp::wgrad ? shape.gemm_n : shape.gemm_k;
  if (terms < kMinGemmK || (filters < kMinGemmN && !plan_implicit_gemm(call).vectorised)) {
    return plan_conv2d_cuda(CudaAlgorithm::direct, call,
                            "too thin for the tensor cores: " + std::to_string(filters) +
                                " columns, " + std::to_string(terms) + " terms");
  }
  return plan_conv2d_cuda(CudaAlgorithm::implicit_gemm, call,
                          "gemm_m " + std::to_string(shape.gemm_m) + ", gemm_n " +
                              std::to_string(shape.gemm_n) + ", gemm_k " +
                              std::to_string(shape.gemm_k));
}

}  // namespace fastconv
