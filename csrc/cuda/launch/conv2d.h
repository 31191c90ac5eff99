// One call of a CUDA convolution. fprop writes y; dgrad reads y as dy and writes x as dx; wgrad
// reads y as dy and writes w as dw. Everything is enqueued on the stream; the status is that of the
// launches. No sizes are zero.
#pragma once

#include <cuda_runtime.h>

#include "plan/cuda_plan.h"
#include "problem/conv_problem.h"
#include "problem/epilogue.h"
#include "problem/tensor.h"

namespace fastconv::cuda {

struct CudaConvArgs {
  ConvOp op = ConvOp::fprop;
  ConvProblem problem;
  DType dtype = DType::float32;
  TensorView x, w, y;
  Epilogue epilogue;  // fprop only
  CudaConvPlan plan;
  void* workspace = nullptr;  // plan.workspace_bytes, 256-byte aligned, not initialised
  cudaStream_t stream = nullptr;
};

cudaError_t conv2d_direct(const CudaConvArgs& args);
cudaError_t conv2d_implicit_gemm(const CudaConvArgs& args);
cudaError_t conv2d_depthwise(const CudaConvArgs& args);

}  // namespace fastconv::cuda
