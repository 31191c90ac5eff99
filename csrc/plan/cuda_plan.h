// Problem -> CUDA algorithm and configuration, with the reason. Host code alone: it can be printed
// and tested without CUDA, and is compiled into both native modules.
#pragma once

#include <array>
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

// The kernels that an algorithm chooses from, named after the tile that a block computes or after
// the filter and the stride that they are compiled for. im2col has one.
enum class DirectKernel {
  wide,             // 128 pixels x 64 filters; wgrad: 128 (tap, channel) x 64 filters
  narrow,           // 128 x 16; wgrad: 64 x 16
  stem,             // fprop of 1 to 4 channels a group: 8 filters a thread
  stem_few_filters  // the same, 4 filters a thread
};
// Pixels x filters; wgrad: filters x (tap, channel). Small warps are twice as many, each with half
// of the sums.
enum class GemmKernel {
  tile128x128,
  tile128x64,
  tile64x64,
  tile128x32,
  tile128x64_small_warps,
  tile256x64,
  tile64x128,
  stem,              // fprop of 1 to 4 channels: 8 x 16 pixels x 64 filters
  stem_few_filters,  // the same, 32 filters
  // Groups of so many channels and filters, but for dgrad of other strides than 1: 8 x 16 pixels x
  // 32 channels.
  grouped4,
  grouped8,
  grouped16
};
// A thread of the kernels called vectors computes several adjacent channels.
enum class DepthwiseKernel {
  any_geometry,
  filter3_stride1,
  filter3_stride2,
  filter5_stride1,
  filter5_stride2,
  filter7_stride1,
  filter7_stride2,
  filter3_stride1_vectors,
  filter3_stride2_vectors,
  filter5_stride1_vectors,
  filter5_stride2_vectors,
  filter7_stride1_vectors,
  filter7_stride2_vectors
};

struct CudaConvPlan {
  CudaAlgorithm algorithm = CudaAlgorithm::direct;
  // Of the next three only the algorithm's own means anything.
  DirectKernel direct = DirectKernel::wide;
  GemmKernel gemm = GemmKernel::tile128x128;
  DepthwiseKernel depthwise = DepthwiseKernel::any_geometry;
  bool vectorised = false;     // 16-byte accesses along channels (or along rows)
  bool packed_w = false;       // w is copied into the workspace in the order the kernel reads it
  bool packed_source = false;  // so are x (for dgrad dy, for wgrad both), to channels_last
  CudaMath math = CudaMath::fma;
  int splits = 1;  // slices of gemm_k, summed in a fixed order afterwards
  int blocks = 0;  // that share the tiles, where a block takes several
  int64_t workspace_bytes = 0;
  std::string tile_name;
  std::string reason;
};

// What a launch needs of a plan, as integers, since it passes from one native module to the other:
//   algorithm, kernel of the algorithm, vectorised, packed_w, math, splits, blocks,
//   packed_source
using CudaPlanNumbers = std::array<int, 8>;
CudaPlanNumbers numbers_of(const CudaConvPlan& plan);
CudaConvPlan plan_of(const CudaPlanNumbers& numbers);

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
