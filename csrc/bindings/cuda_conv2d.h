// The CUDA convolutions: one call, whose plan says which kernel runs.
#pragma once

#include <stdexcept>

#include "bindings/cuda_bindings.h"
#include "cuda/launch/conv2d.h"

namespace py = pybind11;

namespace fastconv {
namespace {

cudaError_t run(const cuda::CudaConvArgs& args) {
  switch (args.plan.algorithm) {
    case CudaAlgorithm::direct:
      return cuda::conv2d_direct(args);
    case CudaAlgorithm::implicit_gemm:
      return cuda::conv2d_implicit_gemm(args);
    case CudaAlgorithm::depthwise:
      return cuda::conv2d_depthwise(args);
    case CudaAlgorithm::im2col:
      break;  // a kernel, a library's GEMM and another kernel: fastconv/backends/cuda/im2col.py
  }
  throw std::invalid_argument("no CUDA convolution kernel for algorithm " +
                              std::to_string(static_cast<int>(args.plan.algorithm)));
}

}  // namespace

inline void bind_cuda_conv2d(py::module_& m) {
  m.def(
      "conv2d",
      [](int op, const ConvSizes& sizes, int dtype, const CudaPlanNumbers& plan, Address x,
         const StrideTuple& x_strides, Address w, const StrideTuple& w_strides, Address y,
         const StrideTuple& y_strides, Address bias, Address residual,
         const StrideTuple& residual_strides, const ActivationNumbers& activation,
         Address workspace, Address stream) {
        cuda::CudaConvArgs args;
        args.op = static_cast<ConvOp>(op);
        args.problem = conv_problem(sizes);
        args.dtype = static_cast<DType>(dtype);
        args.x = view(x, x_strides);
        args.w = view(w, w_strides);
        args.y = view(y, y_strides);
        args.epilogue = {reinterpret_cast<void*>(bias), view(residual, residual_strides),
                         activation_of(activation)};
        args.plan = plan_of(plan);
        args.workspace = reinterpret_cast<void*>(workspace);
        args.stream = stream_of(stream);
        check(run(args), "conv2d");
      },
      py::call_guard<py::gil_scoped_release>());
}

}  // namespace fastconv
