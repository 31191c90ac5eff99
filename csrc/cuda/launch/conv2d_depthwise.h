// The parts of the depthwise launcher: one file for each kernel, so that none takes long to
// compile.
#pragma once

#include <type_traits>

#include "cuda/kernels/depthwise/conv2d_depthwise_tile.cuh"
#include "cuda/launch/conv2d.h"
#include "cuda/launch/launch.h"
#include "plan/cuda_depthwise_tile.h"
#include "problem/gather_axis.h"

namespace fastconv::cuda {

cudaError_t conv2d_fprop_depthwise(const CudaConvArgs& args);  // and dgrad of stride 1
cudaError_t conv2d_dgrad_depthwise(const CudaConvArgs& args);  // of stride 2
cudaError_t conv2d_wgrad_depthwise(const CudaConvArgs& args);
cudaError_t conv2d_depthwise_generic(const CudaConvArgs& args);

// dw = the sum of so many parts [k][tap] in the workspace, in order.
cudaError_t depthwise_reduce(const CudaConvArgs& args, int parts);

// The parameters of a kernel for a known filter; source and result are x and y, or dy and dx, or
// for wgrad x and dy.
DepthwiseParams depthwise_params(const CudaConvArgs& args, const DepthwiseTile& tile,
                                 const TensorView& source, const TensorView& result);

// Shared memory that tiles laid out by depthwise_params take.
size_t depthwise_shared_bytes(const DepthwiseParams& params, const CudaConvArgs& args);

// Shared memory of the kernels for vectors that write y or dx: filters, and a bias for each
// channel.
inline size_t depthwise_vectors_shared_bytes(const DepthwiseTile& tile, int filter) {
  return sizeof(float) * static_cast<size_t>((filter * filter + 1) * tile.channels);
}

// How rows x cols positions of a tensor of size C x H x W lie in shared memory, filled by copies as
// wide as strides and address allow. Along columns a tile that may begin at any_column has room for
// the columns before its first one that the first copy brings along.
SharedTile shared_tile(const CudaConvArgs& args, const TensorView& tensor,
                       const DepthwiseTile& tile, int64_t C, int64_t H, int64_t W, int rows,
                       int cols, bool any_column);

inline unsigned depthwise_threads(const DepthwiseTile& tile) {
  return static_cast<unsigned>(tile.threads());
}

// Sets `grid` to so many blocks; false where there are none or too many.
inline bool grid_of(int64_t blocks, dim3& grid) {
  if (blocks < 1 || blocks > INT32_MAX) return false;
  grid = dim3(static_cast<unsigned>(blocks));
  return true;
}

// Calls visit(TypeTag<T>{}) for the types that kernels for a known filter are compiled for.
template <typename Visitor>
cudaError_t dispatch_depthwise_dtype(DType dtype, Visitor&& visit) {
  if (dtype == DType::float32) return visit(TypeTag<float>{});
  if (dtype == DType::float16) return visit(TypeTag<__half>{});
  if (dtype == DType::bfloat16) return visit(TypeTag<__nv_bfloat16>{});
  return cudaErrorNotSupported;
}

// Calls visit(constant number) with the number of a kernel in kDepthwiseConfigs; any_geometry has
// launchers of its own.
template <int kNumber = 1, typename Visitor>
cudaError_t dispatch_depthwise_kernel(DepthwiseKernel kernel, const Visitor& visit) {
  if constexpr (kNumber == kDepthwiseKernelCount) {
    return cudaErrorInvalidValue;
  } else if (static_cast<int>(kernel) == kNumber) {
    return visit(std::integral_constant<int, kNumber>{});
  } else {
    return dispatch_depthwise_kernel<kNumber + 1>(kernel, visit);
  }
}

}  // namespace fastconv::cuda
