// The problems as Python classes: sizes that are checked when they are made, and what follows from
// them.
#pragma once

#include <sstream>

#include "bindings/bindings.h"
#include "problem/conv_problem.h"
#include "problem/pool_problem.h"

namespace py = pybind11;

namespace fastconv {
namespace {

std::string repr(const ConvProblem& problem) {
  std::ostringstream out;
  out << "ConvProblem(n" << problem.N << "c" << problem.C << "h" << problem.H << "w" << problem.W
      << "k" << problem.K << "r" << problem.R << "s" << problem.S << " stride " << problem.stride_h
      << "x" << problem.stride_w << " pad " << problem.pad_h << "x" << problem.pad_w << " dilation "
      << problem.dilation_h << "x" << problem.dilation_w << " groups " << problem.groups << ")";
  return out.str();
}

std::string repr(const PoolProblem& problem) {
  std::ostringstream out;
  out << "PoolProblem(n" << problem.N << "c" << problem.C << "h" << problem.H << "w" << problem.W
      << "r" << problem.R << "s" << problem.S << " stride " << problem.stride_h << "x"
      << problem.stride_w << " pad " << problem.pad_h << "x" << problem.pad_w << " dilation "
      << problem.dilation_h << "x" << problem.dilation_w << (problem.ceil_mode ? " ceil_mode" : "")
      << ")";
  return out.str();
}

std::string repr(const AdaptivePoolProblem& problem) {
  std::ostringstream out;
  out << "AdaptivePoolProblem(n" << problem.N << "c" << problem.C << "h" << problem.H << "w"
      << problem.W << "p" << problem.P << "q" << problem.Q << ")";
  return out.str();
}

constexpr const char* kConvProblemDoc =
    R"(Sizes of a 2-D convolution: x (N,C,H,W), w (K,C/groups,R,S), y (N,K,P,Q).

The arguments are attributes too, and so are P and Q, with
P = floor((H + 2*pad_h - dilation_h*(R-1) - 1) / stride_h) + 1 as in torch.nn.Conv2d, or 0 where no
window fits; Q alike.

Args:
    N, C, H, W, K, R, S: int; R and S at least 1, the others may be 0.
    stride_h, stride_w, dilation_h, dilation_w: int, at least 1, in pixels.
    pad_h, pad_w: int, at least 0, in pixels on each side.
    groups: int; C and K are divided into this many independent groups.

Raises:
    ValueError: a size outside these bounds, C or K no multiple of groups.
    RuntimeError: a product of sizes that does not fit into 64 bits.
)";

constexpr const char* kPoolProblemDoc =
    R"(Sizes of a 2-D pooling: x (N,C,H,W), y (N,C,P,Q), windows of R x S pixels.

The arguments are attributes too, and so are P and Q, with
P = floor((H + 2*pad_h - dilation_h*(R-1) - 1) / stride_h) + 1 as in torch.nn.MaxPool2d (ceil with
ceil_mode, but no window that would start in the padding on the far side), or 0 where no window
fits; Q alike.

Args:
    N, C, H, W, R, S: int; N and C may be 0, the others are at least 1.
    stride_h, stride_w, dilation_h, dilation_w: int, at least 1, in pixels.
    pad_h, pad_w: int, in pixels on each side, at least 0 and at most half of the dilated window.
    ceil_mode: bool; also windows that reach past the padding.

Raises:
    ValueError: a size outside these bounds.
    RuntimeError: a product of sizes that does not fit into 64 bits.
)";

}  // namespace

inline void bind_problem(py::module_& m) {
  using namespace py::literals;
  m.def("conv_out_size", &conv_out_size, "size"_a, "kernel"_a, "stride"_a, "pad"_a, "dilation"_a);
  m.def("pool_out_size", &pool_out_size, "size"_a, "kernel"_a, "stride"_a, "pad"_a, "dilation"_a,
        "ceil_mode"_a);

  py::enum_<ConvOp>(m, "ConvOp")
      .value("fprop", ConvOp::fprop)
      .value("dgrad", ConvOp::dgrad)
      .value("wgrad", ConvOp::wgrad);

  py::class_<ConvProblem>(m, "ConvProblem", kConvProblemDoc)
      .def(py::init([](int64_t N, int64_t C, int64_t H, int64_t W, int64_t K, int64_t R, int64_t S,
                       int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
                       int64_t dilation_h, int64_t dilation_w, int64_t groups) {
             const ConvProblem problem{N,     C,          H,          W,        K,
                                       R,     S,          stride_h,   stride_w, pad_h,
                                       pad_w, dilation_h, dilation_w, groups};
             problem.validate();
             return problem;
           }),
           py::kw_only(), "N"_a, "C"_a, "H"_a, "W"_a, "K"_a, "R"_a, "S"_a, "stride_h"_a = 1,
           "stride_w"_a = 1, "pad_h"_a = 0, "pad_w"_a = 0, "dilation_h"_a = 1, "dilation_w"_a = 1,
           "groups"_a = 1)
      .def_readonly("N", &ConvProblem::N)
      .def_readonly("C", &ConvProblem::C)
      .def_readonly("H", &ConvProblem::H)
      .def_readonly("W", &ConvProblem::W)
      .def_readonly("K", &ConvProblem::K)
      .def_readonly("R", &ConvProblem::R)
      .def_readonly("S", &ConvProblem::S)
      .def_readonly("stride_h", &ConvProblem::stride_h)
      .def_readonly("stride_w", &ConvProblem::stride_w)
      .def_readonly("pad_h", &ConvProblem::pad_h)
      .def_readonly("pad_w", &ConvProblem::pad_w)
      .def_readonly("dilation_h", &ConvProblem::dilation_h)
      .def_readonly("dilation_w", &ConvProblem::dilation_w)
      .def_readonly("groups", &ConvProblem::groups)
      .def_property_readonly("P", &ConvProblem::P)
      .def_property_readonly("Q", &ConvProblem::Q)
      .def_property_readonly(
          "sizes",
          [](const ConvProblem& problem) {
            return py::make_tuple(problem.N, problem.C, problem.H, problem.W, problem.K, problem.R,
                                  problem.S, problem.stride_h, problem.stride_w, problem.pad_h,
                                  problem.pad_w, problem.dilation_h, problem.dilation_w,
                                  problem.groups);
          },
          "The constructor's arguments in their order.")
      .def(
          "out_size",
          [](const ConvProblem& problem) {
            return py::make_tuple(problem.N, problem.K, problem.P(), problem.Q());
          },
          "The shape (N, K, P, Q) of y.")
      .def(
          "gemm_shape",
          [](const ConvProblem& problem, ConvOp op) {
            const GemmShape shape = problem.gemm_shape(op);
            return py::make_tuple(shape.gemm_m, shape.gemm_n, shape.gemm_k);
          },
          "op"_a, "(gemm_m, gemm_n, gemm_k) of the implicit GEMM of one group.")
      .def("flops", &ConvProblem::flops, "op"_a,
           "Two per multiply-add of the definition, padding included.")
      .def("bytes", &ConvProblem::bytes, "op"_a, "element_size"_a,
           "Bytes of x, w and y together: the least memory traffic of a pass.")
      .def("__repr__", [](const ConvProblem& problem) { return repr(problem); });

  py::class_<PoolProblem>(m, "PoolProblem", kPoolProblemDoc)
      .def(py::init([](int64_t N, int64_t C, int64_t H, int64_t W, int64_t R, int64_t S,
                       int64_t stride_h, int64_t stride_w, int64_t pad_h, int64_t pad_w,
                       int64_t dilation_h, int64_t dilation_w, bool ceil_mode) {
             const PoolProblem problem{N,          C,          H,        W,     R,
                                       S,          stride_h,   stride_w, pad_h, pad_w,
                                       dilation_h, dilation_w, ceil_mode};
             problem.validate();
             return problem;
           }),
           py::kw_only(), "N"_a, "C"_a, "H"_a, "W"_a, "R"_a, "S"_a, "stride_h"_a = 1,
           "stride_w"_a = 1, "pad_h"_a = 0, "pad_w"_a = 0, "dilation_h"_a = 1, "dilation_w"_a = 1,
           "ceil_mode"_a = false)
      .def_readonly("N", &PoolProblem::N)
      .def_readonly("C", &PoolProblem::C)
      .def_readonly("H", &PoolProblem::H)
      .def_readonly("W", &PoolProblem::W)
      .def_readonly("R", &PoolProblem::R)
      .def_readonly("S", &PoolProblem::S)
      .def_readonly("stride_h", &PoolProblem::stride_h)
      .def_readonly("stride_w", &PoolProblem::stride_w)
      .def_readonly("pad_h", &PoolProblem::pad_h)
      .def_readonly("pad_w", &PoolProblem::pad_w)
      .def_readonly("dilation_h", &PoolProblem::dilation_h)
      .def_readonly("dilation_w", &PoolProblem::dilation_w)
      .def_readonly("ceil_mode", &PoolProblem::ceil_mode)
      .def_property_readonly("P", &PoolProblem::P)
      .def_property_readonly("Q", &PoolProblem::Q)
      .def_property_readonly(
          "sizes",
          [](const PoolProblem& problem) {
            return py::make_tuple(problem.N, problem.C, problem.H, problem.W, problem.R, problem.S,
                                  problem.stride_h, problem.stride_w, problem.pad_h, problem.pad_w,
                                  problem.dilation_h, problem.dilation_w, int{problem.ceil_mode});
          },
          "The constructor's arguments in their order.")
      .def(
          "out_size",
          [](const PoolProblem& problem) {
            return py::make_tuple(problem.N, problem.C, problem.P(), problem.Q());
          },
          "The shape (N, C, P, Q) of y.")
      .def("flops", &PoolProblem::flops, "One per window element.")
      .def("bytes", &PoolProblem::bytes, "element_size"_a, "Bytes of x and y together.")
      .def("__repr__", [](const PoolProblem& problem) { return repr(problem); });

  py::class_<AdaptivePoolProblem>(m, "AdaptivePoolProblem",
                                  "Sizes of an adaptive 2-D pooling: x (N,C,H,W), y (N,C,P,Q).")
      .def(py::init([](int64_t N, int64_t C, int64_t H, int64_t W, int64_t P, int64_t Q) {
             const AdaptivePoolProblem problem{N, C, H, W, P, Q};
             problem.validate();
             return problem;
           }),
           py::kw_only(), "N"_a, "C"_a, "H"_a, "W"_a, "P"_a, "Q"_a)
      .def_readonly("N", &AdaptivePoolProblem::N)
      .def_readonly("C", &AdaptivePoolProblem::C)
      .def_readonly("H", &AdaptivePoolProblem::H)
      .def_readonly("W", &AdaptivePoolProblem::W)
      .def_readonly("P", &AdaptivePoolProblem::P)
      .def_readonly("Q", &AdaptivePoolProblem::Q)
      .def_property_readonly(
          "sizes",
          [](const AdaptivePoolProblem& problem) {
            return py::make_tuple(problem.N, problem.C, problem.H, problem.W, problem.P, problem.Q);
          },
          "The constructor's arguments in their order.")
      .def(
          "out_size",
          [](const AdaptivePoolProblem& problem) {
            return py::make_tuple(problem.N, problem.C, problem.P, problem.Q);
          },
          "The shape (N, C, P, Q) of y.")
      .def("__repr__", [](const AdaptivePoolProblem& problem) { return repr(problem); });
}

}  // namespace fastconv
