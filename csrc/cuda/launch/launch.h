// How every kernel is started, and how a DType becomes a type.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cstddef>
#include <stdexcept>
#include <string>

#include "problem/tensor.h"

namespace fastconv::cuda {

// A kernel must opt in before its blocks may get more shared memory than this. launch() lets one
// that asks for exactly so much opt in as well, because what the compiler puts there counts, too.
constexpr size_t kDefaultSharedMemory = 48 << 10;

// Starts a kernel, whose only argument is a struct of parameters; a grid without blocks is no
// error.
template <typename Params>
cudaError_t launch(void (*kernel)(Params), dim3 grid, unsigned threads, size_t shared_memory,
                   cudaStream_t stream, const Params& params) {
  if (grid.x == 0 || grid.y == 0 || grid.z == 0) return cudaSuccess;
  if (shared_memory >= kDefaultSharedMemory) {
    const cudaError_t status = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, static_cast<int>(shared_memory));
    if (status != cudaSuccess) return status;
  }
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = dim3(threads);
  config.dynamicSmemBytes = shared_memory;
  config.stream = stream;
  return cudaLaunchKernelEx(&config, kernel, params);
}

template <typename T>
struct TypeTag {
  using type = T;
};

// Calls visit(TypeTag<T>{}) with the type of a DType and returns its result.
template <typename Visitor>
auto dispatch_dtype(DType dtype, Visitor&& visit) {
  switch (dtype) {
    case DType::float64:
      return visit(TypeTag<double>{});
    case DType::float32:
      return visit(TypeTag<float>{});
    case DType::float16:
      return visit(TypeTag<__half>{});
    case DType::bfloat16:
      return visit(TypeTag<__nv_bfloat16>{});
  }
  throw std::invalid_argument("no CUDA kernel for DType " +
                              std::to_string(static_cast<int>(dtype)));
}

}  // namespace fastconv::cuda
