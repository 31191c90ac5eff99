// The parts of the direct convolution's launch, each in a file of its own.
#pragma once

#include <algorithm>

#include "cuda/launch/conv2d.h"
#include "problem/math.h"

namespace fastconv::cuda {

// A grid of at least so many blocks; a block's number is blockIdx.y * gridDim.x + blockIdx.x.
inline dim3 tile_grid(int64_t blocks) {
  constexpr int64_t kRow = int64_t{1} << 30;
  return dim3(static_cast<unsigned>(std::min(blocks, kRow)),
              static_cast<unsigned>(div_up(blocks, kRow)));
}

cudaError_t conv2d_gather_direct_wide(const CudaConvArgs& args);
cudaError_t conv2d_gather_direct_narrow(const CudaConvArgs& args);
cudaError_t conv2d_wgrad_direct(const CudaConvArgs& args);
cudaError_t conv2d_fprop_stem(const CudaConvArgs& args);

}  // namespace fastconv::cuda
