// The CUDA pools. Every call is planned here, by the function that plans for fastconv._core too.
#pragma once

#include "bindings/cuda_bindings.h"
#include "cuda/launch/pool2d.h"
#include "problem/pool_windows.h"

namespace py = pybind11;

namespace fastconv {
namespace {

// N C H W R S, stride h w, pad h w, dilation h w, ceil_mode
using PoolSizes = std::array<int64_t, 13>;
// N C H W P Q
using AdaptivePoolSizes = std::array<int64_t, 6>;

PoolProblem pool_problem(const PoolSizes& s) {
  return {s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7], s[8], s[9], s[10], s[11], s[12] != 0};
}
AdaptivePoolProblem pool_problem(const AdaptivePoolSizes& s) {
  return {s[0], s[1], s[2], s[3], s[4], s[5]};
}

template <typename Sizes>
cuda::CudaPoolArgs cuda_pool_args(PoolOp op, const Sizes& sizes, int dtype, const TensorView& x,
                                  const TensorView& y, Address stream) {
  const auto problem = pool_problem(sizes);
  problem.validate();
  cuda::CudaPoolArgs args;
  args.call.op = op;
  args.call.N = problem.N;
  args.call.C = problem.C;
  args.call.axes = pool_axes(problem);
  args.call.dtype = static_cast<DType>(dtype);
  args.call.x = x;
  args.call.y = y;
  args.stream = stream_of(stream);
  return args;
}

void run(cuda::CudaPoolArgs& args, const char* what) {
  args.plan = plan_pool2d_cuda(args.call);
  check(cuda::pool2d(args), what);
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
        cuda::CudaPoolArgs args =
            cuda_pool_args(bwd ? PoolOp::max_bwd : PoolOp::max_fwd, sizes, dtype,
                           view(x, x_strides), view(y, y_strides), stream);
        args.call.places = view(places, places_strides);
        args.call.offsets = offsets;
        run(args, "pool2d_max");
      },
      release_gil());
  m.def(
      "pool2d_avg",
      [](bool bwd, const Sizes& sizes, int dtype, Address x, const StrideTuple& x_strides,
         Address y, const StrideTuple& y_strides, bool count_include_pad, double divisor,
         Address stream) {
        cuda::CudaPoolArgs args =
            cuda_pool_args(bwd ? PoolOp::avg_bwd : PoolOp::avg_fwd, sizes, dtype,
                           view(x, x_strides), view(y, y_strides), stream);
        args.count_include_pad = count_include_pad;
        args.divisor = divisor;
        run(args, "pool2d_avg");
      },
      release_gil());
}

}  // namespace

inline void bind_cuda_pool2d(py::module_& m) {
  bind_passes<PoolSizes>(m);
  bind_passes<AdaptivePoolSizes>(m);
}

}  // namespace fastconv
