// Makes the tables of windows that the pooling kernels walk along.
#pragma once

#include <vector>

#include "cpu/runtime/pool2d_args.h"

namespace fastconv {

class PoolWindows {
 public:
  // The tables are for x (or dx) of these strides, and empty where N or C is 0. `bwd` asks for
  // CpuPoolAxis::covers.
  PoolWindows(const PoolAxes& axes, int64_t N, int64_t C, const Strides& x, bool count_include_pad,
              bool bwd);
  PoolWindows(const PoolWindows&) = delete;  // the axes point into the vectors
  PoolWindows& operator=(const PoolWindows&) = delete;

  const CpuPoolAxis& h() const { return h_.axis; }
  const CpuPoolAxis& w() const { return w_.axis; }

 private:
  struct Axis {
    CpuPoolAxis axis;
    std::vector<PoolWindow<int64_t>> windows;
    std::vector<PoolCover<int64_t>> covers;
  };
  static void fill(Axis& axis, const PoolAxis& geometry, bool count_include_pad);
  static void fill_covers(Axis& axis);
  void join_planes();

  Axis h_, w_;
};

}  // namespace fastconv
