#include "cuda/kernels/pool/pool2d_max.cuh"
#include "cuda/launch/pool2d_fwd.h"

namespace fastconv::cuda {

cudaError_t pool2d_max_fwd(const CudaPoolArgs& args) { return dispatch_pool_fwd<Maximum>(args); }

cudaError_t pool2d_max_bwd(const CudaPoolArgs& args) {
  return dispatch_pool(args, [&](auto tag, auto vector) {
    using T = typename decltype(tag)::type;
    return launch_pool(pool2d_max_bwd<T, vector>, pool_bwd_params<vector>(args), 0, args.stream);
  });
}

}  // namespace fastconv::cuda
