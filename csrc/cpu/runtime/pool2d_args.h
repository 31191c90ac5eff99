// One call of a CPU pooling kernel: the windows along h and along w, and the tensors. fwd writes y
// (and the indices of max pooling); bwd reads y as dy and writes x as dx.
#pragma once

#include "problem/tensor.h"

namespace fastconv {

enum class PoolOp { max_fwd, max_bwd, avg_fwd, avg_bwd };

// The positions of one window along one axis: begin, begin + step, ..., `count` of them, all inside
// the tensor. A window that lies wholly in the padding has none; its begin is a position nearby.
struct PoolWindow {
  int64_t begin = 0, count = 0;
  int64_t extent = 0;  // the axis' factor of an average's divisor
};

struct PoolAxis {
  int64_t in_size = 0, out_size = 0;
  int64_t step = 1;                     // between the positions of a window: the dilation
  const PoolWindow* windows = nullptr;  // out_size of them
  // For each of in_size positions the windows that hold it. Only for bwd, and without dilation.
  const PoolWindow* covers = nullptr;
  // Where it pays to run vector lanes along the windows: they are `taps` long and a `stride` apart
  // in a row that is padded by `pad` in front and to padded_size positions in all. Else taps is 0.
  int64_t taps = 0, stride = 0, pad = 0, padded_size = 0;
};

struct PoolArgs {
  int64_t N = 0, C = 0;
  PoolAxis h, w;
  DType dtype = DType::float32;
  TensorView x, y;
  TensorView indices;  // int64: h * W + w of each maximum; null where fwd shall not write them
  double divisor = 0;  // of averages; 0: the product of the extents
  int num_threads = 1;
};

// Whoever calls bwd brings the indices, so they may be wrong.
[[noreturn]] void throw_bad_pool_index();  // pool2d_windows.cpp

// Whether vector lanes run along channels (channels_last) or along rows.
inline bool channels_adjacent(const Strides& strides, int64_t channels) {
  return strides.c == 1 && channels > 1;
}

}  // namespace fastconv
