// The CUDA plan belongs to _core: it can be asked and printed where no CUDA was built.
#pragma once

#include "bindings/bindings.h"
#include "plan/cuda_plan.h"
#include "plan/cuda_pool2d_plan.h"
#include "plan/implicit_gemm_geometry.h"

namespace py = pybind11;

namespace fastconv {

// The plan of a pooling pass over tensors at these addresses; places at 0 are not wanted.
template <typename Problem>
inline void bind_pool_plan(py::module_& m) {
  using namespace py::literals;
  m.def(
      "plan_pool2d_cuda",
      [](PoolOp op, const Problem& problem, DType dtype, Address x, const StrideTuple& x_strides,
         Address y, const StrideTuple& y_strides, Address places, const StrideTuple& places_strides,
         bool offsets) {
        return plan_pool2d_cuda({op, problem.N, problem.C, pool_axes(problem), dtype,
                                 view(x, x_strides), view(y, y_strides),
                                 view(places, places_strides), offsets});
      },
      "op"_a, "problem"_a, "dtype"_a, "x"_a, "x_strides"_a, "y"_a, "y_strides"_a, "places"_a,
      "places_strides"_a, "offsets"_a);
}

inline void bind_plan(py::module_& m) {
  using namespace py::literals;
  py::enum_<CudaAlgorithm>(m, "CudaAlgorithm")
      .value("direct", CudaAlgorithm::direct)
      .value("im2col", CudaAlgorithm::im2col)
      .value("implicit_gemm", CudaAlgorithm::implicit_gemm)
      .value("depthwise", CudaAlgorithm::depthwise);
  py::enum_<CudaMath>(m, "CudaMath")
      .value("fma", CudaMath::fma)
      .value("fp16", CudaMath::fp16)
      .value("bf16", CudaMath::bf16)
      .value("tf32", CudaMath::tf32)
      .value("tf32x3", CudaMath::tf32x3);

  py::class_<CudaConvCall>(m, "CudaConvCall", "Everything the plan of a CUDA pass depends on.")
      .def(py::init([](ConvOp op, const ConvProblem& problem, DType dtype, bool allow_tf32,
                       const StrideTuple& x, const StrideTuple& w, const StrideTuple& y,
                       bool aligned, int sm_count, int64_t shared_memory, int64_t l2_bytes) {
             return CudaConvCall{op,
                                 problem,
                                 dtype,
                                 allow_tf32,
                                 strides_of(x),
                                 strides_of(w),
                                 strides_of(y),
                                 aligned,
                                 {sm_count, shared_memory, l2_bytes}};
           }),
           "op"_a, "problem"_a, "dtype"_a, "allow_tf32"_a, "x_strides"_a, "w_strides"_a,
           "y_strides"_a, "aligned"_a, "sm_count"_a, "shared_memory"_a, "l2_bytes"_a);

  py::class_<CudaConvPlan>(m, "CudaConvPlan", "A CUDA algorithm, its configuration, and why.")
      .def_readonly("algorithm", &CudaConvPlan::algorithm)
      .def_readonly("workspace_bytes", &CudaConvPlan::workspace_bytes)
      .def_readonly("math", &CudaConvPlan::math)
      .def_readonly("vectorised", &CudaConvPlan::vectorised)
      .def_readonly("packed_w", &CudaConvPlan::packed_w)
      .def_readonly("packed_source", &CudaConvPlan::packed_source)
      .def_readonly("splits", &CudaConvPlan::splits)
      .def_readonly("tile_name", &CudaConvPlan::tile_name)
      .def_readonly("reason", &CudaConvPlan::reason)
      .def_property_readonly(
          "kernel", [](const CudaConvPlan& plan) { return numbers_of(plan)[1]; },
          "Which of the algorithm's kernels, as a number: DirectKernel and so on.")
      .def_property_readonly(
          "numbers", [](const CudaConvPlan& plan) { return py::tuple(py::cast(numbers_of(plan))); },
          "What fastconv._cuda.conv2d takes of it.");

  py::class_<GatherAxis>(m, "GatherAxis", "How an axis of the output meets the source.")
      .def_readonly("positions", &GatherAxis::positions)
      .def_readonly("first", &GatherAxis::first)
      .def_readonly("step", &GatherAxis::step)
      .def_readonly("source_size", &GatherAxis::source_size)
      .def_readonly("source_first", &GatherAxis::source_first)
      .def_readonly("source_step", &GatherAxis::source_step)
      .def_readonly("taps", &GatherAxis::taps)
      .def_readonly("tap_first", &GatherAxis::tap_first)
      .def_readonly("tap_step", &GatherAxis::tap_step)
      .def_readonly("tap_offset", &GatherAxis::tap_offset);
  m.def("with_taps_reversed", [](const GatherAxis& axis) { return with_taps_reversed(axis); });
  m.def(
      "gather_axes",
      [](ConvOp op, const ConvProblem& problem) {
        const GemmAxes axes(op, problem);
        return std::pair(axes.h, axes.w);
      },
      "op"_a, "problem"_a, "The phases of the output along h and along w.");

  m.def(
      "plan_conv2d_cuda", [](const CudaConvCall& call) { return plan_conv2d_cuda(call); },
      "call"_a);
  m.def(
      "plan_conv2d_cuda",
      [](CudaAlgorithm algorithm, const CudaConvCall& call, std::string reason) {
        return plan_conv2d_cuda(algorithm, call, std::move(reason));
      },
      "algorithm"_a, "call"_a, "reason"_a);
  m.def(
      "unsupported_reason",
      [](CudaAlgorithm algorithm, const CudaConvCall& call) {
        return unsupported_reason(algorithm, call);
      },
      "algorithm"_a, "call"_a);

  py::enum_<CudaPoolAlgorithm>(m, "CudaPoolAlgorithm")
      .value("reduce", CudaPoolAlgorithm::reduce)
      .value("strip", CudaPoolAlgorithm::strip)
      .value("gather", CudaPoolAlgorithm::gather)
      .value("tile", CudaPoolAlgorithm::tile)
      .value("global", CudaPoolAlgorithm::global);
  py::class_<CudaPoolPlan>(m, "CudaPoolPlan", "The CUDA kernel of a pooling pass, and why.")
      .def_readonly("algorithm", &CudaPoolPlan::algorithm)
      .def_readonly("vectorised", &CudaPoolPlan::vectorised)
      .def_readonly("channels_inner", &CudaPoolPlan::channels_inner)
      .def_readonly("rows", &CudaPoolPlan::rows)
      .def_readonly("columns", &CudaPoolPlan::columns)
      .def_readonly("lanes_h", &CudaPoolPlan::lanes_h)
      .def_readonly("lanes_w", &CudaPoolPlan::lanes_w)
      .def_readonly("joined", &CudaPoolPlan::joined)
      .def_readonly("paired", &CudaPoolPlan::paired)
      .def_readonly("reason", &CudaPoolPlan::reason)
      .def_property_readonly("tile_name", &CudaPoolPlan::tile_name);
  bind_pool_plan<PoolProblem>(m);
  bind_pool_plan<AdaptivePoolProblem>(m);
}

}  // namespace fastconv
