#include "cuda/kernels/depthwise/conv2d_fprop_depthwise.cuh"
#include "cuda/launch/conv2d_depthwise.h"

namespace fastconv::cuda {
cudaError_t conv2d_fprop_depthwise(const CudaConvArgs& args) {
  const bool dgrad = args.op == ConvOp::dgrad;
  const TensorView& source = dgrad ? args.y : args.x;
  const DepthwiseTile tile =
      depthwise_tile(args.op, args.problem, args.dtype, source.strides, args.plan.depthwise);
  DepthwiseParams params = depthwise_params(args, tile, source, dgrad ? args.x : args.y);
  if (!dgrad) params.epilogue = args.epilogue;
  dim3 grid;
  if (!grid_of(args.problem.N * tile.blocks_per_image(), grid)) return cudaErrorNotSupported;
  return dispatch_depthwise_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return dispatch_depthwise_kernel(args.plan.depthwise, [&](auto number) {
      constexpr DepthwiseConfig kConfig = kDepthwiseConfigs[decltype(number)::value];
      return launch(conv2d_fprop_depthwise<T, kConfig.filter, kConfig.stride, kDepthwiseStrip,
                                           depthwise_max_threads(kConfig.filter)>,
                    grid, depthwise_threads(tile), depthwise_shared_bytes(params, args),
                    args.stream, params);
    });
  });
}

}  // namespace fastconv::cuda
