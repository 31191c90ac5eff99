// What every pooling kernel is told, and where windows lie.
//   plain:    window p holds p * stride - pad + r * dilation for r in [0, kernel)
//   adaptive: window p holds [floor(p * in / out), ceil((p + 1) * in / out))
// Positions and counts fit 32 bits (the launcher sees to it); what lies between may not.
#pragma once

#include "cuda/device/element_grid.cuh"
#include "cuda/device/vector.cuh"
#include "problem/tensor.h"

namespace fastconv::cuda {

constexpr int kPoolThreads = 256;

// The part of a window that lies in the tensor: positions begin, begin + dilation, ...
struct PoolWindow {
  int begin = 0;  // in the tensor even where count is 0
  int count = 0;
  int skipped = 0;     // taps in the padding in front
  int64_t extent = 0;  // the axis' factor of an average's divisor
};

// Windows first, first + 1, ..., `count` of them.
struct PoolCover {
  int first = 0, count = 0;
};

struct PoolAxis {
  int64_t in = 1, out = 1;
  int64_t kernel = 1, stride = 1, pad = 0, dilation = 1;
  bool adaptive = false;
  bool count_include_pad = true;
  Divider by_stride, by_dilation;  // plain
  Divider by_in, by_out;           // adaptive

  __device__ __forceinline__ PoolWindow window(int64_t p) const {
    PoolWindow result;
    if (adaptive) {
      const int64_t begin = by_out.div(p * in), end = by_out.div((p + 1) * in + out - 1);
      result.begin = static_cast<int>(begin);
      result.count = static_cast<int>(end - begin);
      result.extent = end - begin;
      return result;
    }
    const int64_t start = p * stride - pad;
    const int64_t skipped = start < 0 ? by_dilation.div(dilation - 1 - start) : 0;
    const int64_t begin = start + skipped * dilation;
    const int64_t inside = begin < in ? by_dilation.div(in - 1 - begin) + 1 : 0;
    const int64_t count = max_of<int64_t>(0, min_of(kernel - skipped, inside));
    result.begin = static_cast<int>(min_of(begin, in - 1));
    result.count = static_cast<int>(count);
    result.skipped = static_cast<int>(skipped);
    result.extent = count_include_pad ? min_of(start + kernel, in + pad) - start : count;
    return result;
  }

  // The windows that hold a position; with dilation some between the first and the last do not.
  __device__ __forceinline__ PoolCover cover(int64_t position) const {
    int64_t first, last;
    if (adaptive) {
      first = by_in.div(position * out);
      last = by_in.div((position + 1) * out - 1);
    } else {
      const int64_t padded = position + pad, beyond = padded - (kernel - 1) * dilation;
      first = beyond > 0 ? by_stride.div(beyond + stride - 1) : 0;
      last = min_of(by_stride.div(padded), out - 1);
    }
    return {static_cast<int>(first), static_cast<int>(last - first + 1)};
  }
};

struct PoolParams {
  PoolAxis h, w;
  TensorView x, y;       // or dx, dy
  TensorView places;     // of maxima: int8 offsets or int64 indices; null where not wanted
  bool offsets = false;  // places are int8: r * S + s within the window, -1 for a window of nothing
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
