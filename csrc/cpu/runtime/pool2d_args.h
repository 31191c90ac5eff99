// One call of a CPU pooling kernel: the windows along h and along w, and the tensors. fwd writes y
// (and the indices of max pooling); bwd reads y as dy and writes x as dx.
#pragma once

#include "problem/layout.h"
#include "problem/pool_windows.h"
#include "problem/tensor.h"

namespace fastconv {

struct CpuPoolAxis {
  int64_t x_size = 0, y_size = 0;
  int64_t dilation = 1;
  const PoolWindow<int64_t>* windows = nullptr;  // y_size of them
  // For each of x_size positions the windows that hold it. Only for bwd, and without dilation.
  const PoolCover<int64_t>* covers = nullptr;
  // For vector lanes along the windows: the windows are `taps` long and `stride` apart in a row
  // that has `pad` positions of padding in front and padded_size positions in all. taps is 0 where
  // such lanes do not pay.
  int64_t taps = 0, stride = 0, pad = 0, padded_size = 0;
};

struct CpuPoolArgs {
  int64_t N = 0, C = 0;
  CpuPoolAxis h, w;
  DType dtype = DType::float32;
  TensorView x, y;
  TensorView indices;  // int64: h * W + w of each maximum; null where fwd need not write them
  double divisor = 0;  // of averages; 0: the product of the extents
  int num_threads = 1;
};

// Whoever calls bwd brings the indices, so they may be wrong.
[[noreturn]] void throw_bad_pool_index();  // pool2d_windows.cpp

}  // namespace fastconv
