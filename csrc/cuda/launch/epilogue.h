// The epilogue on its own: its backward, and the activation where a convolution could not fuse it.
#pragma once

#include <cuda_runtime.h>

#include "problem/epilogue.h"
#include "problem/tensor.h"

namespace fastconv::cuda {

// dz = dy * activation'(saved), db[k] = sum of dz over n, p, q; both optional.
// `saved` is the activated output for the activations whose slope it tells, else the
// pre-activation: problem/activation.h.
struct EpilogueBackwardArgs {
  int64_t N = 0, K = 0, P = 0, Q = 0;
  DType dtype = DType::float32;
  Activation activation;
  TensorView dy, saved, dz;   // saved is null without activation; dz is null where not wanted
  void* db = nullptr;         // K contiguous elements, or null
  void* workspace = nullptr;  // epilogue_backward_workspace() bytes
  cudaStream_t stream = nullptr;
};

int64_t epilogue_backward_workspace(const EpilogueBackwardArgs& args);
cudaError_t epilogue_backward(const EpilogueBackwardArgs& args);

// y = activation(z + bias[k] + residual)
struct EpilogueForwardArgs {
  int64_t N = 0, K = 0, P = 0, Q = 0;
  DType dtype = DType::float32;
  TensorView z, y;
  Epilogue epilogue;
  cudaStream_t stream = nullptr;
};

cudaError_t epilogue_forward(const EpilogueForwardArgs& args);

}  // namespace fastconv::cuda
