#include "cuda/kernels/pool/pool2d_avg.cuh"
#include "cuda/launch/pool2d_fwd.h"

namespace fastconv::cuda {

cudaError_t pool2d_avg_fwd(const CudaPoolArgs& args) { return dispatch_pool_fwd<Mean>(args); }

cudaError_t pool2d_avg_bwd(const CudaPoolArgs& args) {
  return dispatch_pool(args, [&](auto tag, auto vector) {
    using T = typename decltype(tag)::type;
    return launch_pool(pool2d_avg_bwd<T, vector>, pool_bwd_params<vector>(args), 0, args.stream);
  });
}

cudaError_t pool2d_avg_bwd_global(const CudaPoolArgs& given) {
  const CudaPoolArgs args = join_planes(given);
  const CudaPoolCall& call = args.call;
  PoolGlobalParams params;
  params.dx = call.x.data;
  params.dy = call.y.data;
  params.dy_step = call.y.strides.c;
  params.plane = call.axes.w.x_size;  // H * W: each plane is one row now
  params.total = call.N * call.C * params.plane;
  params.by_plane = Divider(params.plane, params.total);
  params.divisor = args.divisor;
  return dispatch_dtype(call.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    const int64_t blocks = div_up<int64_t>(params.total, kPoolThreads * kVectorSize<T>);
    if (blocks > INT32_MAX) return cudaErrorInvalidConfiguration;
    return launch(pool2d_avg_bwd_global<T>, dim3(static_cast<unsigned>(blocks)), kPoolThreads, 0,
                  args.stream, params);
  });
}

}  // namespace fastconv::cuda
