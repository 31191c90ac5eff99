#pragma once

#include "bindings/cuda_bindings.h"
#include "cuda/launch/pool2d.h"
#include "problem/pool_problem.h"

namespace py = pybind11;

namespace fastconv {
namespace {

// N C H W R S, stride h w, pad h w, dilation h w, ceil_mode
using PoolSizes = std::array<int64_t, 13>;
// N C H W P Q
using AdaptivePoolSizes = std::array<int64_t, 6>;

cuda::PoolArgs pool_args(const PoolSizes& s) {
  const PoolProblem problem{s[0], s[1], s[2], s[3],  s[4],  s[5],      s[6],
                            s[7], s[8], s[9], s[10], s[11], s[12] != 0};
  problem.validate();
  cuda::PoolArgs args;
  args.N = problem.N;
  args.C = problem.C;
  args.h = {problem.H,     problem.P(),        problem.R, problem.stride_h,
            problem.pad_h, problem.dilation_h, false};
  args.w = {problem.W,     problem.Q(),        problem.S, problem.stride_w,
            problem.pad_w, problem.dilation_w, false};
  return args;
}

cuda::PoolArgs pool_args(const AdaptivePoolSizes& s) {
  const AdaptivePoolProblem problem{s[0], s[1], s[2], s[3], s[4], s[5]};
  problem.validate();
  cuda::PoolArgs args;
  args.N = problem.N;
  args.C = problem.C;
  args.h.in = problem.H;
  args.h.out = problem.P;
  args.w.in = problem.W;
  args.w.out = problem.Q;
  args.h.adaptive = args.w.adaptive = true;
  return args;
}

// The same two functions for plain and for adaptive pooling.
template <typename Sizes>
inline void bind_passes(py::module_& m) {
  using release_gil = py::call_guard<py::gil_scoped_release>;
  m.def(
      "pool2d_max",
      [](bool bwd, const Sizes& sizes, int dtype, Address x, const StrideTuple& x_strides,
         Address y, const StrideTuple& y_strides, Address places, const StrideTuple& places_strides,
         bool offsets, Address stream) {
        cuda::PoolArgs args = pool_args(sizes);
        args.dtype = static_cast<DType>(dtype);
        args.x = view(x, x_strides);
        args.y = view(y, y_strides);
        args.places = view(places, places_strides);
        args.offsets = offsets;
        args.stream = stream_of(stream);
        check(bwd ? cuda::pool2d_max_bwd(args) : cuda::pool2d_max_fwd(args), "pool2d_max");
      },
      release_gil());
  m.def(
      "pool2d_avg",
      [](bool bwd, const Sizes& sizes, int dtype, Address x, const StrideTuple& x_strides,
         Address y, const StrideTuple& y_strides, bool count_include_pad, double divisor,
         Address stream) {
        cuda::PoolArgs args = pool_args(sizes);
        args.dtype = static_cast<DType>(dtype);
        args.x = view(x, x_strides);
        args.y = view(y, y_strides);
        args.count_include_pad = count_include_pad;
        args.divisor = divisor;
        args.stream = stream_of(stream);
        check(bwd ? cuda::pool2d_avg_bwd(args) : cuda::pool2d_avg_fwd(args), "pool2d_avg");
      },
      release_gil());
}

}  // namespace

inline void bind_cuda_pool2d(py::module_& m) {
  bind_passes<PoolSizes>(m);
  bind_passes<AdaptivePoolSizes>(m);
}

}  // namespace fastconv
