#include <algorithm>

#include "cuda/kernels/depthwise/conv2d_wgrad_depthwise.cuh"
#include "cuda/launch/conv2d_depthwise.h"

namespace fastconv::cuda {
namespace {

template <typename T, int kFilter, int kStride>
constexpr auto kernel =
    conv2d_wgrad_depthwise<T, kFilter, kStride, kDepthwiseStrip, depthwise_max_threads(kFilter)>;

template <typename T>
void (*kernel_of(int config))(DepthwiseWgradParams) {
  switch (config) {
    case 1:
      return kernel<T, 3, 1>;
    case 2:
      return kernel<T, 3, 2>;
    case 3:
      return kernel<T, 5, 1>;
    case 4:
      return kernel<T, 5, 2>;
    case 5:
      return kernel<T, 7, 1>;
    case 6:
      return kernel<T, 7, 2>;
  }
  return nullptr;
}

}  // namespace

cudaError_t conv2d_wgrad_depthwise(const ConvArgs& args) {
  const DepthwiseTile tile =
      depthwise_tile(args.op, args.problem, args.dtype, args.x.strides, args.plan.tile);
  DepthwiseWgradParams params;
  params.tiles = depthwise_params(args, tile, args.x, args.y);
  params.sums = static_cast<float*>(args.workspace);
  params.items = args.problem.N * tile.row_tiles;
  params.slice_items = ceil_div(params.items, args.plan.splits);
  const int64_t partials = args.plan.splits * tile.col_tiles;
  dim3 grid;
  if (!grid_of(partials * tile.channel_blocks, grid)) return cudaErrorNotSupported;
  const size_t sums_bytes = sizeof(float) * static_cast<size_t>(args.problem.R) *
                            static_cast<size_t>(tile.channels * tile.strips);
  const size_t shared = std::max(depthwise_shared_bytes(params.tiles, args), sums_bytes);
  const cudaError_t status = dispatch_depthwise_dtype(args.dtype, [&](auto tag) {
    const auto run = kernel_of<typename decltype(tag)::type>(args.plan.tile);
    if (run == nullptr) return cudaErrorInvalidValue;
    return launch(run, grid, depthwise_threads(tile), shared, args.stream, params);
  });
  return status == cudaSuccess ? depthwise_reduce(args, static_cast<int>(partials)) : status;
}

}  // namespace fastconv::cuda
