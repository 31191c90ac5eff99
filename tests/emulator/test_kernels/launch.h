// What the kernels of this folder share. Each file ends with functions for ctypes that return
// CUDA's status.
#pragma once

#include <cuda_runtime.h>

#include "emulator.h"

#define FOR_CTYPES extern "C" __attribute__((visibility("default"))) int

template <class... Parameters, class... Arguments>
cudaError_t launch(void (*kernel)(Parameters...), dim3 grid, dim3 block, size_t shared_bytes,
                   Arguments... arguments) {
  cudaLaunchConfig_t config = {};
  config.gridDim = grid;
  config.blockDim = block;
  config.dynamicSmemBytes = shared_bytes;
  return cudaLaunchKernelEx(&config, kernel, arguments...);
}
