// Makes the tables of windows that the pooling kernels walk along. Plain pooling and adaptive
// pooling differ only here.
#pragma once

#include <vector>

#include "cpu/runtime/pool2d_args.h"
#include "problem/pool_problem.h"

namespace fastconv {

class PoolWindows {
 public:
  // The tables are for x (or dx) of these strides. `covers` asks for PoolAxis::covers. Adaptive
  // windows have no padding that they could count.
  PoolWindows(const PoolProblem& problem, const Strides& x, bool count_include_pad, bool covers);
  PoolWindows(const AdaptivePoolProblem& problem, const Strides& x, bool, bool covers);
  PoolWindows(const PoolWindows&) = delete;  // the axes point into the vectors
  PoolWindows& operator=(const PoolWindows&) = delete;

  const PoolAxis& h() const { return h_.axis; }
  const PoolAxis& w() const { return w_.axis; }

 private:
  struct Axis {
    PoolAxis axis;
    std::vector<PoolWindow> windows, covers;
  };
  static void fill(Axis& axis, int64_t in, int64_t kernel, int64_t stride, int64_t pad,
                   int64_t dilation, int64_t out, bool count_include_pad);
  static void fill_adaptive(Axis& axis, int64_t in, int64_t out);
  static void fill_covers(Axis& axis);
  void finish(const Strides& x, int64_t channels, bool covers);

  Axis h_, w_;
};

}  // namespace fastconv
