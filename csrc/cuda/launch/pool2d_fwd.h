// The launch of pool2d_reduce, for both reductions.
#pragma once

#include "cuda/kernels/pool/pool2d_reduce.cuh"
#include "cuda/launch/pool2d_params.h"

namespace fastconv::cuda {

template <typename Reduction, typename T, int kVector>
cudaError_t launch_pool_fwd(const CudaPoolArgs& given) {
  using State = typename Reduction::template State<accumulator_t<T>>;
  const CudaPoolArgs args = join_planes(given);
  const PoolAxes& axes = args.call.axes;
  PoolParams params = pool_params<kVector>(args, axes.h.y_size, axes.w.y_size);
  const int64_t pitch = longest_window(axes.w);
  params.pitch = static_cast<int>(pitch);
  params.by_pitch = Divider(pitch, INT32_MAX);
  const bool alone = params.lanes_h * params.lanes_w == 1;
  const size_t shared = alone ? 0 : sizeof(PoolSharedStates<State, kVector>);
  return launch_pool(pool2d_reduce<Reduction, T, kVector>, params, shared, args.stream);
}

template <typename Reduction>
cudaError_t dispatch_pool_fwd(const CudaPoolArgs& args) {
  return dispatch_pool(args, [&](auto tag, auto vector) {
    return launch_pool_fwd<Reduction, typename decltype(tag)::type, vector>(args);
  });
}

}  // namespace fastconv::cuda
