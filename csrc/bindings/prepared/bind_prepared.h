// Prepared calls of the CPU's operators, and the cache that finds them (call_cache.h).
#pragma once

#include <optional>

#include "bindings/conv2d.h"
#include "bindings/pool2d.h"
#include "bindings/prepared/call_cache.h"
#include "bindings/prepared/prepared_call.h"
#include "bindings/prepared/torch_python.h"

namespace fastconv {
namespace {

using OptionalStrides = std::optional<StrideTuple>;

// fprop, operands: x, w, the bias and the residual where there are such; results: y. A transposed
// convolution is dgrad with y's strides for its source and x's for its result.
class PreparedConv2d final : public PreparedCall {
 public:
  PreparedConv2d(ConvOp op, CpuAlgorithm algorithm, const ConvProblem& problem, DType dtype,
                 const StrideTuple& x, const StrideTuple& w, const StrideTuple& y, bool has_bias,
                 const OptionalStrides& residual, Activation activation)
      : op_(op),
        kernel_(conv2d_kernel(algorithm, op, problem)),
        has_bias_(has_bias),
        has_residual_(residual.has_value()) {
    args_.problem = problem;
    args_.dtype = dtype;
    args_.x.strides = strides_of(x);
    args_.w.strides = strides_of(w);
    args_.y.strides = strides_of(y);
    if (has_residual_) args_.epilogue.residual.strides = strides_of(*residual);
    args_.epilogue.activation = activation;
  }

  void run(void* const* operands, void* const* results, const RunContext& context) const override {
    CpuConvArgs args = args_;
    (op_ == ConvOp::fprop ? args.x : args.y).data = *operands++;
    args.w.data = *operands++;
    if (has_bias_) args.epilogue.bias = *operands++;
    if (has_residual_) args.epilogue.residual.data = *operands++;
    (op_ == ConvOp::fprop ? args.y : args.x).data = results[0];
    args.num_threads = context.num_threads;
    kernel_(op_, args);
  }

  std::unique_ptr<PreparedCall> with_result_strides(const Strides& strides) const override {
    auto call = std::make_unique<PreparedConv2d>(*this);
    (op_ == ConvOp::fprop ? call->args_.y : call->args_.x).strides = strides;
    return call;
  }

 private:
  ConvOp op_;
  Conv2dKernel kernel_;
  CpuConvArgs args_;
  bool has_bias_, has_residual_;
};

// operands: dy, x, w, and what the activation's backward reads where there is one;
// results: dz where there is an activation; then db, dx, dw, those that are wanted. dx is dgrad of
// dz for fprop, and fprop of dz for a transposed convolution, in whose wgrad x and dz change
// places.
class PreparedConv2dBackward final : public PreparedCall {
 public:
  PreparedConv2dBackward(bool transposed, bool reference, const ConvProblem& problem, DType dtype,
                         Activation activation, const StrideTuple& dy, const StrideTuple& x,
                         const StrideTuple& w, const OptionalStrides& saved,
                         const OptionalStrides& dz, bool wants_db,
                         std::optional<CpuAlgorithm> dx_algorithm, const OptionalStrides& dx,
                         std::optional<CpuAlgorithm> wgrad, const OptionalStrides& dw)
      : epilogue_kernel_(reference ? &epilogue_backward_reference
                                   : cpu_kernels().epilogue_backward),
        has_activation_(saved.has_value()),
        wants_db_(wants_db),
        dx_op_(transposed ? ConvOp::fprop : ConvOp::dgrad),
        x_(transposed ? &CpuConvArgs::y : &CpuConvArgs::x),
        dz_(transposed ? &CpuConvArgs::x : &CpuConvArgs::y) {
    epilogue_.N = problem.N;
    epilogue_.K = transposed ? problem.C : problem.K;
    epilogue_.P = transposed ? problem.H : problem.P();
    epilogue_.Q = transposed ? problem.W : problem.Q();
    epilogue_.dtype = dtype;
    epilogue_.activation = activation;
    epilogue_.dy.strides = strides_of(dy);
    if (has_activation_) {
      epilogue_.saved.strides = strides_of(*saved);
      epilogue_.dz.strides = strides_of(dz.value());
    }
    dx_args_.problem = wgrad_.problem = problem;
    dx_args_.dtype = wgrad_.dtype = dtype;
    (dx_args_.*dz_).strides = (wgrad_.*dz_).strides = strides_of(has_activation_ ? *dz : dy);
    dx_args_.w.strides = strides_of(w);
    (wgrad_.*x_).strides = strides_of(x);
    if (dx_algorithm) {
      dx_kernel_ = conv2d_kernel(*dx_algorithm, dx_op_, problem);
      (dx_args_.*x_).strides = strides_of(dx.value());
    }
    if (wgrad) {
      wgrad_kernel_ = conv2d_kernel(*wgrad, ConvOp::wgrad, problem);
      wgrad_.w.strides = strides_of(dw.value());
    }
  }

  void run(void* const* operands, void* const* results, const RunContext& context) const override {
    void *dz = operands[0], *const x = operands[1], *const w = operands[2];
    if (has_activation_ || wants_db_) {
      EpilogueBackwardArgs args = epilogue_;
      args.dy.data = operands[0];
      if (has_activation_) {
        args.saved.data = operands[3];
        args.dz.data = dz = *results++;
      }
      if (wants_db_) args.db = *results++;
      args.num_threads = context.num_threads;
      epilogue_kernel_(args);
    }
    if (dx_kernel_ != nullptr) {
      CpuConvArgs args = dx_args_;
      (args.*dz_).data = dz;
      args.w.data = w;
      (args.*x_).data = *results++;
      args.num_threads = context.num_threads;
      dx_kernel_(dx_op_, args);
    }
    if (wgrad_kernel_ != nullptr) {
      CpuConvArgs args = wgrad_;
      (args.*dz_).data = dz;
      (args.*x_).data = x;
      args.w.data = *results++;
      args.num_threads = context.num_threads;
      wgrad_kernel_(ConvOp::wgrad, args);
    }
  }

 private:
  void (*epilogue_kernel_)(const EpilogueBackwardArgs&);
  bool has_activation_, wants_db_;
  ConvOp dx_op_;
  TensorView CpuConvArgs::* x_;   // where a kernel has x, or dx
  TensorView CpuConvArgs::* dz_;  // and dz
  EpilogueBackwardArgs epilogue_;
  Conv2dKernel dx_kernel_ = nullptr, wgrad_kernel_ = nullptr;
  CpuConvArgs dx_args_, wgrad_;
};

// max fwd: x -> y, and the places where they are wanted; max bwd: dy, places -> dx;
// avg fwd: x -> y; avg bwd: dy -> dx. `x` and `y` are the strides of dx and dy in bwd.
class PreparedPool2d final : public PreparedCall {
 public:
  template <typename Problem>
  PreparedPool2d(PoolOp op, const Problem& problem, DType dtype, const StrideTuple& x,
                 const StrideTuple& y, const OptionalStrides& places, bool count_include_pad,
                 double divisor)
      : op_(op),
        is_bwd_(op == PoolOp::max_bwd || op == PoolOp::avg_bwd),
        has_places_(places.has_value()),
        windows_(pool_axes(problem), problem.N, problem.C, strides_of(x), count_include_pad,
                 is_bwd_) {
    args_.N = problem.N;
    args_.C = problem.C;
    args_.h = windows_.h();
    args_.w = windows_.w();
    args_.dtype = dtype;
    args_.x.strides = strides_of(x);
    args_.y.strides = strides_of(y);
    if (has_places_) args_.indices.strides = strides_of(*places);
    args_.divisor = divisor;
  }

  void run(void* const* operands, void* const* results, const RunContext& context) const override {
    CpuPoolArgs args = args_;
    args.x.data = is_bwd_ ? results[0] : operands[0];
    args.y.data = is_bwd_ ? operands[0] : results[0];
    if (has_places_) args.indices.data = is_bwd_ ? operands[1] : results[1];
    args.num_threads = context.num_threads;
    run_vectorised(op_, args);
  }

 private:
  PoolOp op_;
  bool is_bwd_, has_places_;
  PoolWindows windows_;  // args_ points into it
  CpuPoolArgs args_;
};

template <typename Problem>
void bind_prepared_pool2d(py::module_& m) {
  using namespace py::literals;
  m.def(
      "prepare_pool2d",
      [](PoolOp op, const Problem& problem, DType dtype, const StrideTuple& x, const StrideTuple& y,
         const OptionalStrides& places, bool count_include_pad,
         double divisor) -> std::unique_ptr<PreparedCall> {
        return std::make_unique<PreparedPool2d>(op, problem, dtype, x, y, places, count_include_pad,
                                                divisor);
      },
      "op"_a, "problem"_a, "dtype"_a, "x"_a, "y"_a, "places"_a = py::none(),
      "count_include_pad"_a = false, "divisor"_a = 0.0);
}

// operands: a, b (for a copy a alone); results: y.
class PreparedElementwise final : public PreparedCall {
 public:
  PreparedElementwise(ElementwiseOp op, DType dtype, const StrideTuple& size, const StrideTuple& a,
                      const StrideTuple& b, const StrideTuple& y) {
    args_.op = op;
    args_.dtype = dtype;
    for (size_t i = 0; i < size.size(); ++i) args_.axes[i] = {size[i], y[i], a[i], b[i]};
    join_axes(args_.axes);
  }

  void run(void* const* operands, void* const* results, const RunContext& context) const override {
    ElementwiseArgs args = args_;
    args.a = operands[0];
    args.b = args.op == ElementwiseOp::copy ? operands[0] : operands[1];
    args.y = results[0];
    args.num_threads = context.num_threads;
    cpu_kernels().elementwise(args);
  }

 private:
  ElementwiseArgs args_;
};

void bind_prepared_elementwise(py::module_& m) {
  using namespace py::literals;
  py::enum_<ElementwiseOp>(m, "ElementwiseOp")
      .value("add", ElementwiseOp::add)
      .value("multiply", ElementwiseOp::multiply)
      .value("copy", ElementwiseOp::copy);
  m.def(
      "prepare_elementwise",
      [](ElementwiseOp op, DType dtype, const StrideTuple& size, const StrideTuple& a,
         const StrideTuple& b, const StrideTuple& y) -> std::unique_ptr<PreparedCall> {
        return std::make_unique<PreparedElementwise>(op, dtype, size, a, b, y);
      },
      "op"_a, "dtype"_a, "size"_a, "a"_a, "b"_a, "y"_a);
}

}  // namespace

inline void bind_prepared(py::module_& m) {
  using namespace py::literals;
  if (!add_call_cache(m.ptr())) throw py::error_already_set();
  m.def("connect_torch", [](const py::dict& functions) {
    if (!connect_torch(functions.ptr())) throw py::error_already_set();
  });
  py::class_<PreparedCall>(m, "PreparedCall",
                           "A call that needs nothing but addresses to run again.")
      .def(
          "with_result_strides",
          [](const PreparedCall& self, const StrideTuple& strides) {
            return self.with_result_strides(strides_of(strides));
          },
          "strides"_a, "The same call for a result of other strides; None where there is none.");
  m.def(
      "remember_call",
      [](const py::object& cache, const py::tuple& arguments, const py::object& prepare) {
        const auto prepared_call = [](PyObject* call) -> const PreparedCall* {
          if (PyCapsule_IsValid(call, kPreparedCallCapsule)) {
            return static_cast<PreparedCall*>(PyCapsule_GetPointer(call, kPreparedCallCapsule));
          }
          return py::handle(call).cast<const PreparedCall*>();
        };
        if (!remember_call(cache.ptr(), arguments.ptr(), prepare.ptr(), prepared_call)) {
          throw py::error_already_set();
        }
      },
      "cache"_a, "arguments"_a, "prepare"_a);
  m.def(
      "prepare_conv2d",
      [](ConvOp op, CpuAlgorithm algorithm, const ConvProblem& problem, DType dtype,
         const StrideTuple& x, const StrideTuple& w, const StrideTuple& y, bool has_bias,
         const OptionalStrides& residual, Activation activation) -> std::unique_ptr<PreparedCall> {
        return std::make_unique<PreparedConv2d>(op, algorithm, problem, dtype, x, w, y, has_bias,
                                                residual, activation);
      },
      "op"_a, "algorithm"_a, "problem"_a, "dtype"_a, "x"_a, "w"_a, "y"_a, "has_bias"_a,
      "residual"_a, "activation"_a);
  m.def(
      "prepare_conv2d_backward",
      [](bool transposed, bool reference, const ConvProblem& problem, DType dtype,
         Activation activation, const StrideTuple& dy, const StrideTuple& x, const StrideTuple& w,
         const OptionalStrides& saved, const OptionalStrides& dz, bool wants_db,
         std::optional<CpuAlgorithm> dx_algorithm, const OptionalStrides& dx,
         std::optional<CpuAlgorithm> wgrad,
         const OptionalStrides& dw) -> std::unique_ptr<PreparedCall> {
        return std::make_unique<PreparedConv2dBackward>(transposed, reference, problem, dtype,
                                                        activation, dy, x, w, saved, dz, wants_db,
                                                        dx_algorithm, dx, wgrad, dw);
      },
      "transposed"_a, "reference"_a, "problem"_a, "dtype"_a, "activation"_a, "dy"_a, "x"_a, "w"_a,
      "saved"_a, "dz"_a, "wants_db"_a, "dx_algorithm"_a, "dx"_a, "wgrad"_a, "dw"_a);
  m.def(
      "find_call",
      [](const py::object& cache, const py::tuple& arguments) -> py::object {
        PyObject* const call = find_call(cache.ptr(), arguments.ptr());
        if (call == nullptr) throw py::error_already_set();
        const auto found = py::reinterpret_steal<py::object>(call);
        // Calls of CUDA's kernels are capsules.
        return py::isinstance<PreparedCall>(found) ? found : py::none();
      },
      "cache"_a, "arguments"_a);
  bind_prepared_elementwise(m);
  bind_prepared_pool2d<PoolProblem>(m);
  bind_prepared_pool2d<AdaptivePoolProblem>(m);
}

}  // namespace fastconv
