#include "cuda/kernels/depthwise/conv2d_dgrad_depthwise.cuh"
#include "cuda/kernels/depthwise/conv2d_dgrad_depthwise_vectors.cuh"
#include "cuda/launch/conv2d_depthwise.h"

namespace fastconv::cuda {
cudaError_t conv2d_dgrad_depthwise(const CudaConvArgs& args) {
  const DepthwiseTile tile =
      depthwise_tile(args.op, args.problem, args.dtype, args.y.strides, args.plan.depthwise);
  const DepthwiseParams params = depthwise_params(args, tile, args.y, args.x);
  dim3 grid;
  if (!grid_of(args.problem.N * tile.blocks_per_image(), grid)) return cudaErrorNotSupported;
  return dispatch_depthwise_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return dispatch_depthwise_kernel(args.plan.depthwise, [&](auto number) {
      constexpr DepthwiseConfig kConfig = kDepthwiseConfigs[decltype(number)::value];
      if constexpr (kConfig.stride == 1 || !depthwise_has_kernel(ConvOp::dgrad, kConfig)) {
        return cudaErrorInvalidValue;  // of stride 1 is fprop
      } else if constexpr (kConfig.vectors) {
        return launch(
            conv2d_dgrad_depthwise_vectors<
                T, kConfig.filter, depthwise_vector(ConvOp::dgrad, kConfig.filter, sizeof(T)),
                depthwise_strip_of_vectors(kConfig.filter), depthwise_max_threads(kConfig)>,
            grid, depthwise_threads(tile), depthwise_vectors_shared_bytes(tile, kConfig.filter),
            args.stream, params);
      } else {
        return launch(conv2d_dgrad_depthwise<T, kConfig.filter, kDepthwiseStripStride2Dgrad,
                                             depthwise_max_threads(kConfig)>,
                      grid, depthwise_threads(tile), depthwise_shared_bytes(params, args),
                      args.stream, params);
      }
    });
  });
}

}  // namespace fastconv::cuda
