// wgrad for a known filter: its slices, then their sum.
#include <algorithm>

#include "cuda/kernels/depthwise/conv2d_wgrad_depthwise.cuh"
#include "cuda/kernels/depthwise/conv2d_wgrad_depthwise_vectors.cuh"
#include "cuda/launch/conv2d_depthwise.h"

namespace fastconv::cuda {
cudaError_t conv2d_wgrad_depthwise(const CudaConvArgs& args) {
  const DepthwiseTile tile =
      depthwise_tile(args.op, args.problem, args.dtype, args.x.strides, args.plan.depthwise);
  DepthwiseWgradParams params;
  params.tiles = depthwise_params(args, tile, args.x, args.y);
  params.sums = static_cast<float*>(args.workspace);
  params.items = args.problem.N * tile.row_tiles;
  params.slice_items = div_up(params.items, args.plan.splits);
  // Each slice has sums for each tile of columns.
  const int64_t partials = args.plan.splits * tile.col_tiles;
  dim3 grid;
  if (!grid_of(partials * tile.channel_blocks, grid)) return cudaErrorNotSupported;
  const size_t sums_bytes = sizeof(float) * static_cast<size_t>(args.problem.R) *
                            static_cast<size_t>(tile.channels * tile.strips);
  const cudaError_t status = dispatch_depthwise_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return dispatch_depthwise_kernel(args.plan.depthwise, [&](auto number) {
      constexpr DepthwiseConfig kConfig = kDepthwiseConfigs[decltype(number)::value];
      if constexpr (!depthwise_has_kernel(ConvOp::wgrad, kConfig)) {
        return cudaErrorInvalidValue;
      } else if constexpr (kConfig.vectors) {
        return launch(
            conv2d_wgrad_depthwise_vectors<
                T, kConfig.filter, kConfig.stride,
                depthwise_vector(ConvOp::wgrad, kConfig.filter, sizeof(T)),
                depthwise_strip_of_vectors(kConfig.filter), depthwise_max_threads(kConfig)>,
            grid, depthwise_threads(tile), sums_bytes, args.stream, params);
      } else {
        return launch(conv2d_wgrad_depthwise<T, kConfig.filter, kConfig.stride, kDepthwiseStrip,
                                             depthwise_max_threads(kConfig)>,
                      grid, depthwise_threads(tile),
                      std::max(depthwise_shared_bytes(params.tiles, args), sums_bytes), args.stream,
                      params);
      }
    });
  });
  return status == cudaSuccess ? depthwise_reduce(args, static_cast<int>(partials)) : status;
}

}  // namespace fastconv::cuda
