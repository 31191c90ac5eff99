// How the kernels that multiply on the tensor cores store a tile, and the launchers of those among
// them whose blocks take rectangles of pixels.
#pragma once

#include "cuda/kernels/gemm/implicit_gemm_output.cuh"
#include "cuda/launch/conv2d.h"
#include "problem/layout.h"

namespace fastconv::cuda {

// Of tiles whose columns are `columns` channels of a group.
inline GemmStore choose_store(const CudaConvArgs& args, const TensorView& out,
                              const TensorSize& size, int64_t columns) {
  const int64_t element = element_size(args.dtype), vector = kAccessBytes / element;
  const TensorView& residual = args.epilogue.residual;
  if (columns % vector == 0 && has_vectors(out, size, element, &Strides::c, vector) &&
      (residual.data == nullptr || has_vectors(residual, size, element, &Strides::c, vector))) {
    return GemmStore::vectors;
  }
  return out.strides.c == 1 ? GemmStore::channels : GemmStore::pixels;
}

cudaError_t conv2d_fprop_stem_gemm(const CudaConvArgs& args);
cudaError_t conv2d_grouped_gemm(const CudaConvArgs& args);

}  // namespace fastconv::cuda
