// One call of a CUDA pooling kernel, as planned. fwd reads x and writes y and, where wanted, the
// places of maxima; bwd reads y as dy, and places, and writes x as dx. Everything is enqueued on
// the stream; the status is that of the launch. No sizes are zero.
#pragma once

#include <cuda_runtime.h>

#include "plan/cuda_pool2d_plan.h"

namespace fastconv::cuda {

struct CudaPoolArgs {
  CudaPoolCall call;
  CudaPoolPlan plan;
  bool count_include_pad = true;
  double divisor = 0;  // of averages; 0: the windows' own sizes
  cudaStream_t stream = nullptr;
};

cudaError_t pool2d(const CudaPoolArgs& args);

// One function for each algorithm and reduction.
cudaError_t pool2d_max_fwd(const CudaPoolArgs& args);         // reduce
cudaError_t pool2d_avg_fwd(const CudaPoolArgs& args);         // reduce
cudaError_t pool2d_max_bwd(const CudaPoolArgs& args);         // gather
cudaError_t pool2d_avg_bwd(const CudaPoolArgs& args);         // gather
cudaError_t pool2d_max_fwd_strip(const CudaPoolArgs& args);   // strip
cudaError_t pool2d_max_bwd_tile(const CudaPoolArgs& args);    // tile
cudaError_t pool2d_avg_bwd_global(const CudaPoolArgs& args);  // global

}  // namespace fastconv::cuda
