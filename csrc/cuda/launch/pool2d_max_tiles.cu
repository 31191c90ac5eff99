#include "cuda/kernels/pool/pool2d_max_tiles.cuh"
#include "cuda/launch/pool2d_params.h"

namespace fastconv::cuda {
namespace {

template <typename T, int kVector>
cudaError_t fwd_strip(const CudaPoolArgs& args) {
  const PoolAxes& axes = args.call.axes;
  const auto kernel = axes.h.kernel == 3 ? pool2d_max_fwd_strip<T, kVector, 3>
                                         : pool2d_max_fwd_strip<T, kVector, 2>;
  return launch_pool(kernel, pool_params<kVector>(args, axes.h.y_size, axes.w.y_size), 0,
                     args.stream);
}

template <typename T, int kVector>
cudaError_t bwd_tile(const CudaPoolArgs& args) {
  const PoolAxis& h = args.call.axes.h;
  const auto kernel = h.kernel == 2 ? pool2d_max_bwd_tile<T, kVector, 2, 0>
                      : h.pad == 0  ? pool2d_max_bwd_tile<T, kVector, 3, 0>
                                    : pool2d_max_bwd_tile<T, kVector, 3, 1>;
  return launch_pool(kernel, pool_bwd_params<kVector>(args), 0, args.stream);
}

}  // namespace

// The plan leaves float64 to the kernels for any windows.

cudaError_t pool2d_max_fwd_strip(const CudaPoolArgs& args) {
  return dispatch_pool(args, [&](auto tag, auto vector) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) == sizeof(double))
      return cudaErrorNotSupported;
    else
      return fwd_strip<T, vector>(args);
  });
}

cudaError_t pool2d_max_bwd_tile(const CudaPoolArgs& args) {
  return dispatch_pool(args, [&](auto tag, auto vector) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) == sizeof(double))
      return cudaErrorNotSupported;
    else
      return bwd_tile<T, vector>(args);
  });
}

}  // namespace fastconv::cuda
