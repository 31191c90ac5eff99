#include "plan/cuda_plan.h"

namespace fastconv {

std::string depthwise_unsupported_reason(const CudaConvCall&) { return "not built yet"; }

CudaConvPlan plan_depthwise(const CudaConvCall&) { return {}; }

}  // namespace fastconv
