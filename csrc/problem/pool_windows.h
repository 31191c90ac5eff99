// Which positions of x each window of a pooling holds, along one axis. Window p of y holds
//   plain:    p * stride - pad + r * dilation for the taps r in [0, kernel)
//   adaptive: [floor(p * x_size / y_size), ceil((p + 1) * x_size / y_size))
// as far as they lie in the tensor.
#pragma once

#include <cstdint>

#include "problem/device.h"
#include "problem/pool_problem.h"

namespace fastconv {

// The pools, declared here alone: the passes, the CPU's table of kernels pool2d_<name>_fwd and
// pool2d_<name>_bwd, their calls and their names in Python follow from this list.
#define FASTCONV_POOLS(X) \
  X(max)                  \
  X(avg)

enum class PoolOp {
#define FASTCONV_PASSES(name) name##_fwd, name##_bwd,
  FASTCONV_POOLS(FASTCONV_PASSES)
#undef FASTCONV_PASSES
};

inline bool is_bwd(PoolOp op) {
#define FASTCONV_IS_BWD(name) \
  if (op == PoolOp::name##_bwd) return true;
  FASTCONV_POOLS(FASTCONV_IS_BWD)
#undef FASTCONV_IS_BWD
  return false;
}

struct PoolAxis {
  int64_t x_size = 1, y_size = 1;
  int64_t kernel = 1, stride = 1, pad = 0, dilation = 1;  // of plain windows
  bool adaptive = false;
};

struct PoolAxes {
  PoolAxis h, w;
};

// The part of a window that lies in the tensor: positions begin, begin + dilation, ..., `count` of
// them. A window that lies wholly in the padding has none; its begin is a position nearby.
template <typename Position>
struct PoolWindow {
  Position begin = 0;
  Position count = 0;
  Position skipped = 0;  // taps in the padding before the tensor
  int64_t extent = 0;    // the axis' factor of an average's divisor
};

// The windows that hold a position: first, first + 1, ..., `count` of them. With dilation some of
// these step over the position.
template <typename Position>
struct PoolCover {
  Position first = 0;
  Position count = 0;
};

#ifdef __CUDACC__
#pragma nv_exec_check_disable  // host code divides by `/`, device code without a division
#endif
// divide.by_dilation(n) and divide.by_y_size(n) are floor(n / dilation) and floor(n / y_size).
template <typename Position, typename Divide>
FASTCONV_LOCAL PoolWindow<Position> pool_window(const PoolAxis& axis, int64_t p,
                                                bool count_include_pad, const Divide& divide) {
  PoolWindow<Position> result;
  const int64_t x_size = axis.x_size;
  if (axis.adaptive) {
    const int64_t begin = divide.by_y_size(p * x_size);
    const int64_t end = divide.by_y_size((p + 1) * x_size + axis.y_size - 1);
    result.begin = static_cast<Position>(begin);
    result.count = static_cast<Position>(end - begin);
    result.extent = end - begin;
    return result;
  }
  const int64_t start = p * axis.stride - axis.pad;
  const int64_t skipped = start < 0 ? divide.by_dilation(axis.dilation - 1 - start) : 0;
  const int64_t begin = start + skipped * axis.dilation;
  const int64_t inside = begin < x_size ? divide.by_dilation(x_size - 1 - begin) + 1 : 0;
  const int64_t left = axis.kernel - skipped, taps = left < inside ? left : inside;
  const int64_t count = taps > 0 ? taps : 0;
  // Where the padding counts, a window reaches no further than the padding does.
  const int64_t last = start + axis.kernel, padded = x_size + axis.pad;
  const int64_t end = last < padded ? last : padded;
  result.begin = static_cast<Position>(begin < x_size ? begin : x_size - 1);
  result.count = static_cast<Position>(count);
  result.skipped = static_cast<Position>(skipped);
  result.extent = count_include_pad ? end - start : count;
  return result;
}

// The most elements that a window can have.
FASTCONV_LOCAL int64_t longest_window(const PoolAxis& axis) {
  const int64_t x_size = axis.x_size, y_size = axis.y_size;
  const int64_t length =
      axis.adaptive ? x_size / y_size + (x_size % y_size != 0 ? 2 : 0) : axis.kernel;
  return length < x_size ? length : x_size;
}

// Whether there is one window, and it holds every position.
FASTCONV_LOCAL bool is_whole(const PoolAxis& axis) {
  return axis.y_size == 1 &&
         (axis.adaptive || (axis.dilation == 1 && axis.kernel - axis.pad >= axis.x_size));
}

inline PoolAxes pool_axes(const PoolProblem& problem) {
  const PoolProblem& o = problem;
  return {{o.H, o.P(), o.R, o.stride_h, o.pad_h, o.dilation_h, false},
          {o.W, o.Q(), o.S, o.stride_w, o.pad_w, o.dilation_w, false}};
}

inline PoolAxes pool_axes(const AdaptivePoolProblem& problem) {
  return {{.x_size = problem.H, .y_size = problem.P, .adaptive = true},
          {.x_size = problem.W, .y_size = problem.Q, .adaptive = true}};
}

}  // namespace fastconv
