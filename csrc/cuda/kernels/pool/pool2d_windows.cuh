// What every pooling kernel is told. Positions and counts fit 32 bits (the plan sees to it); what
// lies between, such as the product of a position and a size, may not.
#pragma once

#include "cuda/device/element_grid.cuh"
#include "cuda/device/vector.cuh"
#include "plan/cuda_pool2d_plan.h"
#include "problem/pool_windows.h"
#include "problem/tensor.h"

namespace fastconv::cuda {

// An axis, with divisions by its sizes that need no division instruction.
struct PoolAxisParams : PoolAxis {
  bool count_include_pad = true;
  Divider over_stride, over_dilation;  // plain windows
  Divider over_x_size, over_y_size;    // adaptive windows

  __device__ __forceinline__ int64_t by_dilation(int64_t n) const { return over_dilation.div(n); }
  __device__ __forceinline__ int64_t by_y_size(int64_t n) const { return over_y_size.div(n); }

  __device__ __forceinline__ PoolWindow<int> window(int64_t p) const {
    return pool_window<int>(*this, p, count_include_pad, *this);
  }

  // The windows that hold a position.
  __device__ __forceinline__ PoolCover<int> cover(int64_t position) const {
    int64_t first, last;
    if (adaptive) {
      first = over_x_size.div(position * y_size);
      last = over_x_size.div((position + 1) * y_size - 1);
    } else {
      const int64_t padded = position + pad, beyond = padded - (kernel - 1) * dilation;
      first = beyond > 0 ? over_stride.div(beyond + stride - 1) : 0;
      last = min_of(over_stride.div(padded), y_size - 1);
    }
    return {static_cast<int>(first), static_cast<int>(last - first + 1)};
  }
};

struct PoolParams {
  PoolAxisParams h, w;
  TensorView x, y;       // or dx, dy
  TensorView places;     // of maxima, see CudaPoolCall; null where not wanted
  bool offsets = false;  // places are int8; -1 is that of a window without elements
  double divisor = 0;    // of averages; 0: the product of the extents
  int rows = 1;          // of y (fwd) or dx (bwd) that a thread owns
  // A window's taps may be shared by lanes: lanes_h * lanes_w threads, powers of two.
  int lanes_h = 1, lanes_w = 1;
  bool paired = false;  // two adjacent columns of dx are stored at once
  int64_t index_w = 1;  // W of an index h * W + w
  Divider by_pitch;     // taps are numbered r * pitch + s while a maximum is looked for
  int pitch = 1;
  ElementGrid grid;  // of (n, vectors of channels, strips of rows, columns)
};

}  // namespace fastconv::cuda
