// From a planned pooling call to a kernel's parameters: shared by the launchers of pool2d_*.cu.
#pragma once

#include <type_traits>

#include "cuda/kernels/pool/pool2d_windows.cuh"
#include "cuda/launch/launch.h"
#include "cuda/launch/pool2d.h"

namespace fastconv::cuda {

inline PoolAxisParams pool_axis_params(const PoolAxis& axis, bool count_include_pad) {
  PoolAxisParams params;
  static_cast<PoolAxis&>(params) = axis;
  params.count_include_pad = count_include_pad;
  if (axis.adaptive) {
    const int64_t x_size = axis.x_size, y_size = axis.y_size;
    params.over_x_size = Divider(x_size, x_size * y_size);
    params.over_y_size = Divider(y_size, (y_size + 1) * x_size + y_size);
  } else {
    const int64_t largest = axis.x_size + axis.pad;
    params.over_stride = Divider(axis.stride, largest + axis.stride);
    params.over_dilation = Divider(axis.dilation, largest + axis.dilation);
  }
  return params;
}

// The parameters of a kernel that divides tensors of this height and width among threads, each of
// which owns plan.rows x plan.columns elements of kVector channels.
template <int kVector>
PoolParams pool_params(const CudaPoolArgs& args, int64_t height, int64_t width) {
  const CudaPoolCall& call = args.call;
  const CudaPoolPlan& plan = args.plan;
  PoolParams params;
  params.h = pool_axis_params(call.axes.h, args.count_include_pad);
  params.w = pool_axis_params(call.axes.w, args.count_include_pad);
  params.x = call.x;
  params.y = call.y;
  params.places = call.places;
  params.offsets = call.offsets;
  params.divisor = args.divisor;
  params.index_w = call.axes.w.x_size;
  params.rows = plan.rows;
  params.lanes_h = plan.lanes_h;
  params.lanes_w = plan.lanes_w;
  params.paired = plan.paired;
  params.grid = ElementGrid(call.N, call.C / kVector, div_up<int64_t>(height, plan.rows),
                            div_up<int64_t>(width, plan.columns), plan.channels_inner);
  return params;
}

// The parameters of a backward kernel, which divides dx.
template <int kVector>
PoolParams pool_bwd_params(const CudaPoolArgs& args) {
  return pool_params<kVector>(args, args.call.axes.h.x_size, args.call.axes.w.x_size);
}

// Starts a kernel with threads for all elements of params.grid.
inline cudaError_t launch_pool(void (*kernel)(PoolParams), const PoolParams& params,
                               size_t shared_memory, cudaStream_t stream) {
  const int64_t owners = kPoolThreads / (params.lanes_h * params.lanes_w);
  const int64_t blocks = div_up(params.grid.size(), owners);
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  return launch(kernel, dim3(static_cast<unsigned>(blocks)), kPoolThreads, shared_memory, stream,
                params);
}

// The call with each plane as one row, where the plan joins them. The divisor of an average is what
// it was for H x W elements.
inline CudaPoolArgs join_planes(CudaPoolArgs args) {
  if (!args.plan.joined) return args;
  const PoolAxes& axes = args.call.axes;
  if (args.divisor == 0) {
    const auto extent = [&](const PoolAxis& axis) {
      if (axis.adaptive || !args.count_include_pad) return axis.x_size;
      return min_of(axis.kernel, axis.x_size + 2 * axis.pad);
    };
    args.divisor = static_cast<double>(extent(axes.h)) * static_cast<double>(extent(axes.w));
  }
  args.call.axes = joined_axes(axes);
  return args;
}

// Calls visit(TypeTag<T>{}, the number of channels that a thread moves at once, as a constant). The
// plan has no vectors of float64.
template <typename Visitor>
cudaError_t dispatch_pool(const CudaPoolArgs& args, Visitor&& visit) {
  return dispatch_dtype(args.call.dtype, [&](auto tag) -> cudaError_t {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) < sizeof(double)) {
      if (args.plan.vectorised) {
        return visit(tag, std::integral_constant<int, kVectorSize<T>>{});
      }
    }
    return visit(tag, std::integral_constant<int, 1>{});
  });
}

}  // namespace fastconv::cuda
