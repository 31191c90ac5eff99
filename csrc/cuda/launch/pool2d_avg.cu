#include "cuda/kernels/pool/pool2d_avg.cuh"
#include "cuda/launch/pool2d_fwd.h"

namespace fastconv::cuda {
namespace {

// Whether dx is contiguous, one window holds each plane, and dy's elements are evenly spaced.
bool is_global(const PoolArgs& args) {
  const Strides &x = args.x.strides, &y = args.y.strides;
  const int64_t plane = args.h.in * args.w.in;
  return args.h.is_whole() && args.w.is_whole() && rows_join(args.x, args.h.in, args.w.in) &&
         (plane == 1 || x.w == 1) && (args.C == 1 || x.c == plane) &&
         (args.N == 1 || x.n == args.C * plane) && (args.N == 1 || y.n == args.C * y.c) &&
         reinterpret_cast<uintptr_t>(args.x.data) % kVectorBytes == 0;
}

template <typename T>
cudaError_t bwd_global(const PoolArgs& given) {
  const PoolArgs args = join_whole_planes(given);
  PoolGlobalParams params;
  params.dx = args.x.data;
  params.dy = args.y.data;
  params.dy_step = args.y.strides.c;
  params.plane = args.w.in;
  params.total = args.N * args.C * params.plane;
  params.by_plane = Divider(params.plane, params.total);
  params.divisor = args.divisor;
  const int64_t blocks = div_up<int64_t>(params.total, kPoolThreads * kVectorSize<T>);
  if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
  return launch(pool2d_avg_bwd_global<T>, dim3(static_cast<unsigned>(blocks)), kPoolThreads, 0,
                args.stream, params);
}

template <typename T, int kVector>
cudaError_t bwd(const PoolArgs& args) {
  PoolParams params = pool_params(args);
  const int64_t channels = args.C / kVector;
  params.rows = pool_rows(args.N * channels * args.h.in * args.w.in, args.h.in);
  params.grid = ElementGrid(args.N, channels, div_up<int64_t>(args.h.in, params.rows), args.w.in,
                            kVector > 1 || channels_adjacent(args.x, args.C));
  return launch_pool(pool2d_avg_bwd<T, kVector>, params, 0, args.stream);
}

}  // namespace

cudaError_t pool2d_avg_fwd(const PoolArgs& args) { return dispatch_pool_fwd<Mean>(args); }

cudaError_t pool2d_avg_bwd(const PoolArgs& args) {
  return dispatch_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    if constexpr (sizeof(T) < sizeof(double)) {
      if (pool_has_vectors<T>(args)) return bwd<T, kVectorSize<T>>(args);
    }
    if (is_global(args) && args.h.in <= INT32_MAX / args.w.in) return bwd_global<T>(args);
    return bwd<T, 1>(args);
  });
}

}  // namespace fastconv::cuda
