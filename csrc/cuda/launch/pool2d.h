// One call of a CUDA pooling kernel. fwd reads x and writes y and, where wanted, the places of
// maxima; bwd reads y as dy, and places, and writes x as dx. Everything is enqueued on the stream;
// the status is that of the launches. No sizes are zero.
#pragma once

#include <cuda_runtime.h>

#include "problem/tensor.h"

namespace fastconv::cuda {

struct PoolAxisSizes {
  int64_t in = 1, out = 1;
  int64_t kernel = 1, stride = 1, pad = 0, dilation = 1;  // not of adaptive windows
  bool adaptive = false;

  // The most elements that a window can have.
  int64_t longest_window() const {
    if (!adaptive) return kernel < in ? kernel : in;
    const int64_t length = in / out + (in % out != 0 ? 2 : 0);
    return length < in ? length : in;
  }
  // Whether there is one window that holds every position.
  bool is_whole() const { return out == 1 && (adaptive || (dilation == 1 && kernel - pad >= in)); }
};

struct PoolArgs {
  int64_t N = 1, C = 1;
  PoolAxisSizes h, w;
  DType dtype = DType::float32;
  TensorView x, y;
  TensorView places;     // null where fwd shall not write them
  bool offsets = false;  // int8 r * S + s instead of int64 h * W + w; plain windows, R * S <= 128
  bool count_include_pad = true;
  double divisor = 0;  // of averages; 0: the windows' own sizes
  cudaStream_t stream = nullptr;
};

cudaError_t pool2d_max_fwd(const PoolArgs& args);
cudaError_t pool2d_max_bwd(const PoolArgs& args);
cudaError_t pool2d_avg_fwd(const PoolArgs& args);
cudaError_t pool2d_avg_bwd(const PoolArgs& args);

// Whether pool2d_max_tiles.cu has a kernel for these windows, and its launches.
bool has_max_tiles(const PoolArgs& args, bool bwd);
cudaError_t pool2d_max_fwd_strip(const PoolArgs& args);
cudaError_t pool2d_max_bwd_tile(const PoolArgs& args);

}  // namespace fastconv::cuda
