// Problem -> algorithm, with the reason. Pure and printable: nothing here runs a kernel.
#pragma once

#include <string>

#include "problem/conv_problem.h"

namespace fastconv {

enum class ConvAlgorithm { reference, direct, implicit_gemm, depthwise, planes };

struct ConvPlan {
  ConvAlgorithm algorithm = ConvAlgorithm::reference;
  std::string reason;
};

// Why an algorithm cannot run a problem, or an empty string.
std::string unsupported_reason(ConvAlgorithm algorithm, ConvOp op, const ConvProblem& problem);

// The algorithm for the CPU.
ConvPlan plan_conv2d_cpu(ConvOp op, const ConvProblem& problem);

}  // namespace fastconv
