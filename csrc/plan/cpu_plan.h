// Problem -> the CPU's algorithm, with the reason. Nothing here runs a kernel.
#pragma once

#include <string>

#include "plan/cpu_algorithms.h"
#include "problem/conv_problem.h"

namespace fastconv {

struct CpuConvPlan {
  CpuAlgorithm algorithm = CpuAlgorithm::reference;
  std::string reason;
};

// Why an algorithm cannot run a problem, or an empty string.
std::string unsupported_reason(CpuAlgorithm algorithm, ConvOp op, const ConvProblem& problem);

// The algorithm for the CPU.
CpuConvPlan plan_conv2d_cpu(ConvOp op, const ConvProblem& problem, bool channels_adjacent);

}  // namespace fastconv
