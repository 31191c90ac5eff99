#include "cuda/kernels/pool/pool2d_max.cuh"
#include "cuda/launch/pool2d_fwd.h"

namespace fastconv::cuda {
namespace {

template <typename T, int kVector>
cudaError_t bwd(const PoolArgs& args) {
  PoolParams params = pool_params(args);
  const int64_t channels = args.C / kVector;
  params.rows = pool_rows(args.N * channels * args.h.in * args.w.in, args.h.in);
  params.grid = ElementGrid(args.N, channels, div_up<int64_t>(args.h.in, params.rows), args.w.in,
                            kVector > 1 || channels_adjacent(args.x, args.C));
  return launch_pool(pool2d_max_bwd<T, kVector>, params, 0, args.stream);
}

}  // namespace

cudaError_t pool2d_max_fwd(const PoolArgs& args) {
  return has_max_tiles(args, false) ? pool2d_max_fwd_strip(args) : dispatch_pool_fwd<Maximum>(args);
}

cudaError_t pool2d_max_bwd(const PoolArgs& args) {
  if (has_max_tiles(args, true)) return pool2d_max_bwd_tile(args);
  return dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) < sizeof(double)) {
      if (pool_has_vectors<T>(args)) return bwd<T, kVectorSize<T>>(args);
    }
    return bwd<T, 1>(args);
  });
}

}  // namespace fastconv::cuda
