// What the parts of the tensor cores' plan share: the implicit GEMM's, and that of the kernels
// whose blocks take rectangles of pixels.
#pragma once

#include <cstdint>
#include <optional>

#include "plan/cuda_plan.h"

namespace fastconv {

// Partial sums may take this much memory.
constexpr int64_t kMaxPartialBytes = int64_t{256} << 20;

CudaMath math_of(const CudaConvCall& call);

// The plan of a call that the stem's or the grouped kernels run, which are always the fastest.
std::optional<CudaConvPlan> plan_pixel_tiles(const CudaConvCall& call);

}  // namespace fastconv
