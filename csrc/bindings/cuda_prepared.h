// Prepared calls of the CUDA operators (prepared/prepared_call.h), handed to fastconv._core in
// capsules. A workspace is one more result, which nobody is given: results[last].
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "bindings/cuda_bindings.h"
#include "bindings/cuda_conv2d.h"
#include "bindings/cuda_epilogue.h"
#include "bindings/cuda_pool2d.h"
#include "bindings/prepared/prepared_call.h"

namespace py = pybind11;

namespace fastconv {
namespace {

using OptionalStrides = std::optional<StrideTuple>;

// The beginning of a workspace in memory that has so many more bytes than the kernels ask for:
// torch aligns tensors on the CPU, where the emulator's lie, to less.
void* aligned_workspace(void* memory) {
  constexpr uintptr_t kAlignment = 256;  // bytes
  const uintptr_t address = reinterpret_cast<uintptr_t>(memory) + kAlignment - 1;
  return reinterpret_cast<void*>(address / kAlignment * kAlignment);
}

cudaStream_t enter(const RunContext& context) {
  check(cudaSetDevice(context.device), "cudaSetDevice");
  return static_cast<cudaStream_t>(context.stream);
}

cuda::CudaConvArgs conv_args(ConvOp op, const ConvSizes& sizes, int dtype,
                             const CudaPlanNumbers& plan) {
  cuda::CudaConvArgs args;
  args.op = op;
  args.problem = conv_problem(sizes);
  args.dtype = static_cast<DType>(dtype);
  args.plan = plan_of(plan);
  return args;
}

// operands: x, w, the bias and the residual where there are such; results: y, the workspace.
class PreparedCudaConv2d final : public PreparedCall {
 public:
  PreparedCudaConv2d(const ConvSizes& sizes, int dtype, const CudaPlanNumbers& plan,
                     const StrideTuple& x, const StrideTuple& w, const StrideTuple& y,
                     bool has_bias, const OptionalStrides& residual,
                     const ActivationNumbers& activation, bool has_workspace)
      : args_(conv_args(ConvOp::fprop, sizes, dtype, plan)),
        has_bias_(has_bias),
        has_residual_(residual.has_value()),
        has_workspace_(has_workspace) {
    args_.x.strides = strides_of(x);
    args_.w.strides = strides_of(w);
    args_.y.strides = strides_of(y);
    if (has_residual_) args_.epilogue.residual.strides = strides_of(*residual);
    args_.epilogue.activation = activation_of(activation);
  }

  void run(void* const* operands, void* const* results, const RunContext& context) const override {
    cuda::CudaConvArgs args = args_;
    args.x.data = *operands++;
    args.w.data = *operands++;
    if (has_bias_) args.epilogue.bias = *operands++;
    if (has_residual_) args.epilogue.residual.data = *operands++;
    args.y.data = results[0];
    if (has_workspace_) args.workspace = aligned_workspace(results[1]);
    args.stream = enter(context);
    check(fastconv::run(args), "conv2d");
  }

 private:
  cuda::CudaConvArgs args_;
  bool has_bias_, has_residual_, has_workspace_;
};

// operands: dy, x, w, and what the activation's backward reads where there is one;
// results: dz where there is an activation; then db, dx, dw, those that are wanted; the workspace,
// which the kernels use one after the other.
class PreparedCudaConv2dBackward final : public PreparedCall {
 public:
  PreparedCudaConv2dBackward(const ConvSizes& sizes, int dtype, const ActivationNumbers& activation,
                             const StrideTuple& dy, const StrideTuple& x, const StrideTuple& w,
                             const OptionalStrides& saved, const OptionalStrides& dz, bool wants_db,
                             const std::optional<CudaPlanNumbers>& dgrad, const OptionalStrides& dx,
                             const std::optional<CudaPlanNumbers>& wgrad, const OptionalStrides& dw,
                             bool has_workspace)
      : has_activation_(saved.has_value()), wants_db_(wants_db), has_workspace_(has_workspace) {
    const ConvProblem problem = conv_problem(sizes);
    epilogue_.N = problem.N;
    epilogue_.K = problem.K;
    epilogue_.P = problem.P();
    epilogue_.Q = problem.Q();
    epilogue_.dtype = static_cast<DType>(dtype);
    epilogue_.activation = activation_of(activation);
    epilogue_.dy.strides = strides_of(dy);
    if (has_activation_) {
      epilogue_.saved.strides = strides_of(*saved);
      epilogue_.dz.strides = strides_of(dz.value());
    }
    const Strides dz_strides = strides_of(has_activation_ ? *dz : dy);
    if (dgrad) {
      dgrad_ = conv_args(ConvOp::dgrad, sizes, dtype, *dgrad);
      dgrad_->x.strides = strides_of(dx.value());
      dgrad_->w.strides = strides_of(w);
      dgrad_->y.strides = dz_strides;
    }
    if (wgrad) {
      wgrad_ = conv_args(ConvOp::wgrad, sizes, dtype, *wgrad);
      wgrad_->x.strides = strides_of(x);
      wgrad_->w.strides = strides_of(dw.value());
      wgrad_->y.strides = dz_strides;
    }
  }

  void run(void* const* operands, void* const* results, const RunContext& context) const override {
    const cudaStream_t stream = enter(context);
    const int count = has_activation_ + wants_db_ + dgrad_.has_value() + wgrad_.has_value();
    void* const workspace = has_workspace_ ? aligned_workspace(results[count]) : nullptr;
    void* dz = operands[0];
    if (has_activation_ || wants_db_) {
      cuda::EpilogueBackwardArgs args = epilogue_;
      args.dy.data = operands[0];
      if (has_activation_) {
        args.saved.data = operands[3];
        args.dz.data = dz = *results++;
      }
      if (wants_db_) args.db = *results++;
      args.workspace = workspace;
      args.stream = stream;
      check(cuda::epilogue_backward(args), "epilogue_backward");
    }
    if (dgrad_) {
      cuda::CudaConvArgs args = *dgrad_;
      args.y.data = dz;
      args.w.data = operands[2];
      args.x.data = *results++;
      args.workspace = workspace;
      args.stream = stream;
      check(fastconv::run(args), "conv2d");
    }
    if (wgrad_) {
      cuda::CudaConvArgs args = *wgrad_;
      args.y.data = dz;
      args.x.data = operands[1];
      args.w.data = *results++;
      args.workspace = workspace;
      args.stream = stream;
      check(fastconv::run(args), "conv2d");
    }
  }

 private:
  bool has_activation_, wants_db_, has_workspace_;
  cuda::EpilogueBackwardArgs epilogue_;
  std::optional<cuda::CudaConvArgs> dgrad_, wgrad_;
};

// max fwd: x -> y, and the places where they are wanted; max bwd: dy, places -> dx;
// avg fwd: x -> y; avg bwd: dy -> dx. `x` and `y` are the strides of dx and dy in bwd.
class PreparedCudaPool2d final : public PreparedCall {
 public:
  template <typename Sizes>
  PreparedCudaPool2d(PoolOp op, const Sizes& sizes, int dtype, const StrideTuple& x,
                     const StrideTuple& y, const OptionalStrides& places, bool offsets,
                     bool count_include_pad, double divisor)
      : args_(cuda_pool_args(op, sizes, dtype, view(0, x), view(0, y), 0)),
        is_bwd_(op == PoolOp::max_bwd || op == PoolOp::avg_bwd),
        has_places_(places.has_value()) {
    if (has_places_) args_.call.places.strides = strides_of(*places);
    args_.call.offsets = offsets;
    args_.count_include_pad = count_include_pad;
    args_.divisor = divisor;
  }

  void run(void* const* operands, void* const* results, const RunContext& context) const override {
    cuda::CudaPoolArgs args = args_;
    args.call.x.data = is_bwd_ ? results[0] : operands[0];
    args.call.y.data = is_bwd_ ? operands[0] : results[0];
    if (has_places_) args.call.places.data = is_bwd_ ? operands[1] : results[1];
    args.stream = enter(context);
    fastconv::run(args, "pool2d");
  }

 private:
  cuda::CudaPoolArgs args_;
  bool is_bwd_, has_places_;
};

py::capsule capsule_of(std::unique_ptr<PreparedCall> call) {
  return py::capsule(call.release(), kPreparedCallCapsule, [](PyObject* capsule) {
    delete static_cast<PreparedCall*>(PyCapsule_GetPointer(capsule, kPreparedCallCapsule));
  });
}

template <typename Sizes>
void bind_prepared_cuda_pool2d(py::module_& m) {
  m.def("prepare_pool2d", [](int op, const Sizes& sizes, int dtype, const StrideTuple& x,
                             const StrideTuple& y, const OptionalStrides& places, bool offsets,
                             bool count_include_pad, double divisor) {
    return capsule_of(std::make_unique<PreparedCudaPool2d>(
        static_cast<PoolOp>(op), sizes, dtype, x, y, places, offsets, count_include_pad, divisor));
  });
}

}  // namespace

inline void bind_cuda_prepared(py::module_& m) {
  m.def("prepare_conv2d", [](const ConvSizes& sizes, int dtype, const CudaPlanNumbers& plan,
                             const StrideTuple& x, const StrideTuple& w, const StrideTuple& y,
                             bool has_bias, const OptionalStrides& residual,
                             const ActivationNumbers& activation, bool has_workspace) {
    return capsule_of(std::make_unique<PreparedCudaConv2d>(sizes, dtype, plan, x, w, y, has_bias,
                                                           residual, activation, has_workspace));
  });
  m.def("prepare_conv2d_backward",
        [](const ConvSizes& sizes, int dtype, const ActivationNumbers& activation,
           const StrideTuple& dy, const StrideTuple& x, const StrideTuple& w,
           const OptionalStrides& saved, const OptionalStrides& dz, bool wants_db,
           const std::optional<CudaPlanNumbers>& dgrad, const OptionalStrides& dx,
           const std::optional<CudaPlanNumbers>& wgrad, const OptionalStrides& dw,
           bool has_workspace) {
          return capsule_of(std::make_unique<PreparedCudaConv2dBackward>(
              sizes, dtype, activation, dy, x, w, saved, dz, wants_db, dgrad, dx, wgrad, dw,
              has_workspace));
        });
  bind_prepared_cuda_pool2d<PoolSizes>(m);
  bind_prepared_cuda_pool2d<AdaptivePoolSizes>(m);
}

}  // namespace fastconv
