// The CPU's convolutions and their plan, the epilogue's backward, and the activation on its own.
#pragma once

#include <stdexcept>

#include "bindings/bindings.h"
#include "cpu/runtime/kernels.h"
#include "plan/cpu_plan.h"

namespace py = pybind11;

namespace fastconv {
namespace {

using Conv2dKernel = void (*)(ConvOp, const CpuConvArgs&);

// The kernel that runs a pass of a problem by this algorithm.
Conv2dKernel conv2d_kernel(CpuAlgorithm algorithm, ConvOp op, const ConvProblem& problem) {
  if (const std::string reason = unsupported_reason(algorithm, op, problem); !reason.empty()) {
    throw std::invalid_argument(reason);
  }
  // The others cut results into tiles and have none for an empty one.
  if (algorithm != CpuAlgorithm::reference &&
      (problem.x_elements() == 0 || problem.w_elements() == 0 || problem.y_elements() == 0)) {
    algorithm = CpuAlgorithm::direct;
  }
  switch (algorithm) {
    case CpuAlgorithm::reference:
      return conv2d_reference;
#define FASTCONV_CASE(name) \
  case CpuAlgorithm::name:  \
    return cpu_kernels().conv2d_##name;
      FASTCONV_CPU_ALGORITHMS(FASTCONV_CASE)
#undef FASTCONV_CASE
  }
  throw std::invalid_argument("unknown CpuAlgorithm " +
                              std::to_string(static_cast<int>(algorithm)));
}

}  // namespace

inline void bind_conv2d(py::module_& m) {
  using namespace py::literals;
  using release_gil = py::call_guard<py::gil_scoped_release>;

  py::enum_<CpuAlgorithm> algorithms(m, "CpuAlgorithm");
  algorithms.value("reference", CpuAlgorithm::reference);
#define FASTCONV_VALUE(name) algorithms.value(#name, CpuAlgorithm::name);
  FASTCONV_CPU_ALGORITHMS(FASTCONV_VALUE)
#undef FASTCONV_VALUE
  py::enum_<ActivationKind> kinds(m, "ActivationKind");
#define FASTCONV_VALUE(name) kinds.value(#name, ActivationKind::name);
  FASTCONV_ACTIVATIONS(FASTCONV_VALUE)
#undef FASTCONV_VALUE
  py::class_<Activation>(m, "Activation", "An activation and its parameter.")
      .def(py::init<ActivationKind, double>(), "kind"_a = ActivationKind::none, "parameter"_a = 0.0)
      .def_readonly("kind", &Activation::kind)
      .def_readonly("parameter", &Activation::parameter)
      .def_property_readonly("numbers", [](const Activation& activation) {
        return py::make_tuple(static_cast<int>(activation.kind), activation.parameter);
      });

  py::class_<CpuConvPlan>(m, "CpuConvPlan", "The algorithm chosen for a problem, and why.")
      .def(py::init<CpuAlgorithm, std::string>(), "algorithm"_a, "reason"_a)
      .def_readonly("algorithm", &CpuConvPlan::algorithm)
      .def_readonly("reason", &CpuConvPlan::reason);
  m.def("plan_conv2d_cpu", &plan_conv2d_cpu, "op"_a, "problem"_a, "channels_adjacent"_a);
  m.def(
      "unsupported_reason",
      [](CpuAlgorithm algorithm, ConvOp op, const ConvProblem& problem) {
        return unsupported_reason(algorithm, op, problem);
      },
      "algorithm"_a, "op"_a, "problem"_a);

  // fprop writes y; dgrad reads y as dy and writes x as dx; wgrad reads y as dy and writes w as dw.
  m.def(
      "conv2d",
      [](ConvOp op, CpuAlgorithm algorithm, const ConvProblem& problem, DType dtype, Address x,
         const StrideTuple& x_strides, Address w, const StrideTuple& w_strides, Address y,
         const StrideTuple& y_strides, Address bias, Address residual,
         const StrideTuple& residual_strides, Activation activation, int num_threads) {
        conv2d_kernel(algorithm, op, problem)(
            op,
            {problem, dtype, view(x, x_strides), view(w, w_strides), view(y, y_strides),
             Epilogue{reinterpret_cast<void*>(bias), view(residual, residual_strides), activation},
             num_threads});
      },
      release_gil());
  // `size` is (N, K, P, Q); `reference` asks for the oracle.
  m.def(
      "epilogue_backward",
      [](bool reference, const StrideTuple& size, DType dtype, Activation activation, Address dy,
         const StrideTuple& dy_strides, Address saved, const StrideTuple& saved_strides, Address dz,
         const StrideTuple& dz_strides, Address db, int num_threads) {
        const auto run = reference ? &epilogue_backward_reference : cpu_kernels().epilogue_backward;
        run({size[0], size[1], size[2], size[3], dtype, activation, view(dy, dy_strides),
             view(saved, saved_strides), view(dz, dz_strides), reinterpret_cast<void*>(db),
             num_threads});
      },
      release_gil());
  m.def(
      "activation_forward",
      [](bool reference, const StrideTuple& size, DType dtype, Activation activation, Address z,
         const StrideTuple& z_strides, Address y, const StrideTuple& y_strides, int num_threads) {
        const auto run =
            reference ? &activation_forward_reference : cpu_kernels().activation_forward;
        run({size[0], size[1], size[2], size[3], dtype, activation, view(z, z_strides),
             view(y, y_strides), num_threads});
      },
      release_gil());
}

}  // namespace fastconv
