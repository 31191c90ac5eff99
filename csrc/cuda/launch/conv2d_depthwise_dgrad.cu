#include "cuda/kernels/depthwise/conv2d_dgrad_depthwise.cuh"
#include "cuda/launch/conv2d_depthwise.h"

namespace fastconv::cuda {
namespace {

template <typename T, int kFilter>
constexpr auto kernel =
    conv2d_dgrad_depthwise<T, kFilter, kDepthwiseStripStride2Dgrad, depthwise_max_threads(kFilter)>;

template <typename T>
void (*kernel_of(int filter))(DepthwiseParams) {
  return filter == 3 ? kernel<T, 3> : filter == 5 ? kernel<T, 5> : kernel<T, 7>;
}

}  // namespace

cudaError_t conv2d_dgrad_depthwise(const ConvArgs& args) {
  const DepthwiseTile tile =
      depthwise_tile(args.op, args.problem, args.dtype, args.y.strides, args.plan.tile);
  const DepthwiseParams params = depthwise_params(args, tile, args.y, args.x);
  dim3 grid;
  if (!grid_of(args.problem.N * tile.blocks_per_sample(), grid)) return cudaErrorNotSupported;
  return dispatch_depthwise_dtype(args.dtype, [&](auto tag) {
    const int filter = kDepthwiseConfigs[args.plan.tile].filter;
    return launch(kernel_of<typename decltype(tag)::type>(filter), grid, depthwise_threads(tile),
                  depthwise_shared_bytes(params, args), args.stream, params);
  });
}

}  // namespace fastconv::cuda
