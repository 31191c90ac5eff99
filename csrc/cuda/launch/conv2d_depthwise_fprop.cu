#include "cuda/kernels/depthwise/conv2d_fprop_depthwise.cuh"
#include "cuda/launch/conv2d_depthwise.h"

namespace fastconv::cuda {
namespace {

template <typename T, int kFilter, int kStride>
constexpr auto kernel =
    conv2d_fprop_depthwise<T, kFilter, kStride, kDepthwiseStrip, depthwise_max_threads(kFilter)>;

template <typename T>
void (*kernel_of(int config))(DepthwiseParams) {
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

cudaError_t conv2d_fprop_depthwise(const ConvArgs& args) {
  const bool dgrad = args.op == ConvOp::dgrad;
  const TensorView& gathered = dgrad ? args.y : args.x;
  const DepthwiseTile tile =
      depthwise_tile(args.op, args.problem, args.dtype, gathered.strides, args.plan.tile);
  DepthwiseParams params = depthwise_params(args, tile, gathered, dgrad ? args.x : args.y);
  if (!dgrad) params.epilogue = args.epilogue;
  dim3 grid;
  if (!grid_of(args.problem.N * tile.blocks_per_sample(), grid)) return cudaErrorNotSupported;
  return dispatch_depthwise_dtype(args.dtype, [&](auto tag) {
    const auto run = kernel_of<typename decltype(tag)::type>(args.plan.tile);
    if (run == nullptr) return cudaErrorInvalidValue;
    return launch(run, grid, depthwise_threads(tile), depthwise_shared_bytes(params, args),
                  args.stream, params);
  });
}

}  // namespace fastconv::cuda
