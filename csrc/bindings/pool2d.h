// The CPU's pools: the reference and the vectorised kernels.
#pragma once

#include <stdexcept>
#include <string>

#include "bindings/bindings.h"
#include "cpu/runtime/kernels.h"
#include "cpu/runtime/pool2d_windows.h"

namespace py = pybind11;

namespace fastconv {
namespace {

enum class PoolAlgorithm { reference, vectorised };

void run_vectorised(PoolOp op, const CpuPoolArgs& args) {
  const CpuKernels& kernels = cpu_kernels();
  switch (op) {
#define FASTCONV_CASES(name)                  \
  case PoolOp::name##_fwd:                    \
    return kernels.pool2d_##name##_fwd(args); \
  case PoolOp::name##_bwd:                    \
    return kernels.pool2d_##name##_bwd(args);
    FASTCONV_POOLS(FASTCONV_CASES)
#undef FASTCONV_CASES
  }
  throw std::invalid_argument("unknown PoolOp " + std::to_string(static_cast<int>(op)));
}

template <typename Problem>
void run(PoolAlgorithm algorithm, PoolOp op, const Problem& problem, CpuPoolArgs args,
         bool count_include_pad) {
  args.N = problem.N;
  args.C = problem.C;
  switch (algorithm) {
    case PoolAlgorithm::reference:
      return pool2d_reference(op, problem, args, count_include_pad);
    case PoolAlgorithm::vectorised: {
      const PoolWindows windows(pool_axes(problem), args.N, args.C, args.x.strides,
                                count_include_pad, is_bwd(op));
      args.h = windows.h();
      args.w = windows.w();
      return run_vectorised(op, args);
    }
  }
  throw std::invalid_argument("unknown PoolAlgorithm " +
                              std::to_string(static_cast<int>(algorithm)));
}

CpuPoolArgs cpu_pool_args(DType dtype, const TensorView& x, const TensorView& y, int num_threads) {
  CpuPoolArgs args;
  args.dtype = dtype;
  args.x = x;
  args.y = y;
  args.num_threads = num_threads;
  return args;
}

// The same two functions for plain and for adaptive pooling; which pass is meant is an argument.
template <typename Problem>
inline void bind_passes(py::module_& m) {
  using release_gil = py::call_guard<py::gil_scoped_release>;
  m.def(
      "pool2d_max",
      [](PoolAlgorithm algorithm, PoolOp op, const Problem& problem, DType dtype, Address x,
         const StrideTuple& x_strides, Address y, const StrideTuple& y_strides, Address indices,
         const StrideTuple& indices_strides, int num_threads) {
        CpuPoolArgs args =
            cpu_pool_args(dtype, view(x, x_strides), view(y, y_strides), num_threads);
        args.indices = view(indices, indices_strides);
        run(algorithm, op, problem, args, false);
      },
      release_gil());
  m.def(
      "pool2d_avg",
      [](PoolAlgorithm algorithm, PoolOp op, const Problem& problem, DType dtype, Address x,
         const StrideTuple& x_strides, Address y, const StrideTuple& y_strides,
         bool count_include_pad, double divisor, int num_threads) {
        CpuPoolArgs args =
            cpu_pool_args(dtype, view(x, x_strides), view(y, y_strides), num_threads);
        args.divisor = divisor;
        run(algorithm, op, problem, args, count_include_pad);
      },
      release_gil());
}

}  // namespace

inline void bind_pool2d(py::module_& m) {
  py::enum_<PoolAlgorithm>(m, "PoolAlgorithm")
      .value("reference", PoolAlgorithm::reference)
      .value("vectorised", PoolAlgorithm::vectorised);
  py::enum_<PoolOp> ops(m, "PoolOp");
#define FASTCONV_VALUES(name)                  \
  ops.value(#name "_fwd", PoolOp::name##_fwd); \
  ops.value(#name "_bwd", PoolOp::name##_bwd);
  FASTCONV_POOLS(FASTCONV_VALUES)
#undef FASTCONV_VALUES
  bind_passes<PoolProblem>(m);
  bind_passes<AdaptivePoolProblem>(m);
}

}  // namespace fastconv
