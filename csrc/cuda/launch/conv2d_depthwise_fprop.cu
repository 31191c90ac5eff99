#include "cuda/kernels/depthwise/conv2d_fprop_depthwise.cuh"
#include "cuda/kernels/depthwise/conv2d_fprop_depthwise_vectors.cuh"
#include "cuda/launch/conv2d_depthwise.h"
#include "problem/layout.h"

namespace fastconv::cuda {
namespace {

// The plan's kernel, or where the residual, which no plan knows, does not allow vectors the one for
// any layout.
DepthwiseKernel kernel_for_residual(const CudaConvArgs& args) {
  const DepthwiseConfig config = config_of(args.plan.depthwise);
  const TensorView& residual = args.epilogue.residual;
  if (!config.vectors || residual.data == nullptr) return args.plan.depthwise;
  const ConvProblem& problem = args.problem;
  const int64_t element = element_size(args.dtype);
  const int vector = depthwise_vector(ConvOp::fprop, config.filter, element);
  return depthwise_has_vectors(residual.strides, problem, problem.P(), problem.Q(), args.dtype,
                               vector, is_aligned(residual.data, vector * element))
             ? args.plan.depthwise
             : depthwise_kernel_of_any_layout(config);
}

}  // namespace

cudaError_t conv2d_fprop_depthwise(const CudaConvArgs& args) {
  const bool dgrad = args.op == ConvOp::dgrad;
  const TensorView& source = dgrad ? args.y : args.x;
  const DepthwiseKernel kernel = kernel_for_residual(args);
  const DepthwiseTile tile =
      depthwise_tile(args.op, args.problem, args.dtype, source.strides, kernel);
  DepthwiseParams params = depthwise_params(args, tile, source, dgrad ? args.x : args.y);
  if (!dgrad) params.epilogue = args.epilogue;
  dim3 grid;
  if (!grid_of(args.problem.N * tile.blocks_per_image(), grid)) return cudaErrorNotSupported;
  return dispatch_depthwise_dtype(args.dtype, [&](auto tag) {
    using T = typename decltype(tag)::type;
    return dispatch_depthwise_kernel(kernel, [&](auto number) {
      constexpr DepthwiseConfig kConfig = kDepthwiseConfigs[decltype(number)::value];
      if constexpr (kConfig.vectors) {
        return launch(
            conv2d_fprop_depthwise_vectors<
                T, kConfig.filter, kConfig.stride,
                depthwise_vector(ConvOp::fprop, kConfig.filter, sizeof(T)),
                depthwise_strip_of_vectors(kConfig.filter), depthwise_max_threads(kConfig)>,
            grid, depthwise_threads(tile), depthwise_vectors_shared_bytes(tile, kConfig.filter),
            args.stream, params);
      } else {
        return launch(conv2d_fprop_depthwise<T, kConfig.filter, kConfig.stride, kDepthwiseStrip,
                                             depthwise_max_threads(kConfig)>,
                      grid, depthwise_threads(tile), depthwise_shared_bytes(params, args),
                      args.stream, params);
      }
    });
  });
}

}  // namespace fastconv::cuda
