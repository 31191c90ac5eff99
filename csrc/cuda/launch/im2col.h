// One call of im2col or col2im (kernels/gemm/conv2d_im2col.cuh), for some rows of some images.
#pragma once

#include <cuda_runtime.h>

#include "problem/conv_problem.h"
#include "problem/tensor.h"

namespace fastconv::cuda {

struct Im2colArgs {
  ConvProblem problem;
  DType dtype = DType::float32;
  TensorView x;             // or dx of col2im: the whole tensor, not the images and rows alone
  void* columns = nullptr;  // im2col: of dtype; col2im: of dtype's accumulators
  int64_t first_image = 0, images = 1;
  int64_t first_row = 0, rows = 1;  // rows of y that the columns hold
  int64_t first_h = 0, h_rows = 1;  // col2im: rows of dx to write; the columns hold all they need
  bool channels_inner = false;      // the layout of the columns
  cudaStream_t stream = nullptr;
};

cudaError_t im2col(const Im2colArgs& args);
cudaError_t col2im(const Im2colArgs& args);

}  // namespace fastconv::cuda
