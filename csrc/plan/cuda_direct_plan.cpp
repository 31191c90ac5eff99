#include "plan/cuda_plan.h"

namespace fastconv {

std::string direct_unsupported_reason(const CudaConvCall&) { return "not built yet"; }

CudaConvPlan plan_direct(const CudaConvCall&) { return {}; }

}  // namespace fastconv
