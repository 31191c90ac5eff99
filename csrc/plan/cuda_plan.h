// Problem -> CUDA algorithm and kernel configuration, with the reason. Pure host code: printable
// and testable without CUDA, and compiled into both native modules.
#pragma once

#include <cstdint>
#include <string>

#include "problem/conv_problem.h"
#include "problem/tensor.h"

namespace fastconv {

enum class CudaAlgorithm { direct, im2col, implicit_gemm, depthwise };

// What multiplies. tf32x3 splits each float32 into two TF32 and sums three products.
enum class CudaMath { fma, fp16, bf16, tf32, tf32x3 };

struct CudaDevice {
  int sm_count = 0;
  int64_t shared_memory = 0;  // bytes that one block can get
  int64_t l2_bytes = 0;
};

// Everything a plan may depend on. x, w, y are the tensors of the forward pass or their gradients.
struct CudaConvCall {
  ConvOp op = ConvOp::fprop;
  ConvProblem problem;
  DType dtype = DType::float32;
  bool allow_tf32 = false;
  Strides x, w, y;
  bool aligned = false;  // the addresses of x, w and y are multiples of 16
  CudaDevice device;
};

struct CudaConvPlan {
  CudaAlgorithm algorithm = CudaAlgorithm::direct;
  int tile = 0;             // which of the algorithm's configurations
  bool vectorised = false;  // 16-byte accesses along channels (or along rows)
  bool packed_w = false;    // w is copied into the workspace in the order the kernel reads it
  CudaMath math = CudaMath::fma;
  int splits = 1;  // slices of gemm_k, summed in a fixed order afterwards
  int64_t workspace_bytes = 0;
  std::string tile_name;
  std::string reason;
};

// Why an algorithm cannot run a call, or an empty string.
std::string unsupported_reason(CudaAlgorithm algorithm, const CudaConvCall& call);

// The configuration of a given algorithm; the call must be one that it supports.
CudaConvPlan plan_conv2d_cuda(CudaAlgorithm algorithm, const CudaConvCall& call,
                              std::string reason);

// The algorithm that should be fastest.
CudaConvPlan plan_conv2d_cuda(const CudaConvCall& call);

// One pair for each algorithm, in a file of its own.
std::string direct_unsupported_reason(const CudaConvCall& call);
CudaConvPlan plan_direct(const CudaConvCall& call);
std::string im2col_unsupported_reason(const CudaConvCall& call);
CudaConvPlan plan_im2col(const CudaConvCall& call);
std::string implicit_gemm_unsupported_reason(const CudaConvCall& call);
CudaConvPlan plan_implicit_gemm(const CudaConvCall& call);
std::string depthwise_unsupported_reason(const CudaConvCall& call);
CudaConvPlan plan_depthwise(const CudaConvCall& call);

}  // namespace fastconv
