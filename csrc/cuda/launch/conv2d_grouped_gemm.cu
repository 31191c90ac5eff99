// Builds the parameters of the grouped kernel on the tensor cores and starts it.
#include "cuda/kernels/gemm/conv2d_grouped_gemm.cuh"
#include "cuda/launch/pixel_tiles.h"

namespace fastconv::cuda {
namespace {

GroupedGemmParams grouped_params(const CudaConvArgs& args, const GroupedGeometry& geometry) {
  const ConvProblem& problem = args.problem;
  const bool dgrad = args.op == ConvOp::dgrad;
  GroupedGemmParams params;
  params.x = dgrad ? args.y : args.x, params.w = args.w;
  params.dgrad = dgrad;
  params.C = static_cast<int>(problem.C);
  params.H = static_cast<int>(dgrad ? problem.P() : problem.H);
  params.W = static_cast<int>(dgrad ? problem.Q() : problem.W);
  params.taps = static_cast<int>(problem.R * problem.S);
  params.stride_h = static_cast<int>(problem.stride_h);
  params.stride_w = static_cast<int>(problem.stride_w);
  params.pad_h = static_cast<int>(geometry.pad_h), params.pad_w = static_cast<int>(geometry.pad_w);
  params.dilation_h = static_cast<int>(problem.dilation_h);
  params.dilation_w = static_cast<int>(problem.dilation_w);
  params.row_taps = divmod(problem.S);
  params.x_pixels = static_cast<int>(geometry.x_rows * geometry.x_columns);
  params.x_pitch = static_cast<int>(geometry.x_columns);
  params.x_columns = divmod(geometry.x_columns);
  params.steps = static_cast<int>(geometry.steps);
  params.x_offset = static_cast<int>(geometry.x_offset);
  params.staged_offset = static_cast<int>(geometry.staged_offset);
  const int64_t P = dgrad ? problem.H : problem.P(), Q = dgrad ? problem.W : problem.Q();
  params.tiles = pixel_tiles(problem.N, P, Q);
  params.output.out = dgrad ? args.x : args.y;
  params.output.epilogue = args.epilogue;
  params.output.store =
      choose_store(args, params.output.out, {problem.N, problem.C, P, Q}, problem.C);
  return params;
}

template <CudaMath kMath, int kGroup>
cudaError_t launch_group(const CudaConvArgs& args) {
  using Config = PixelTileConfig<kMath, kGroupedChannels>;
  const GroupedGeometry geometry(args.op, args.problem);
  static_assert(sizeof(StagedTile<Config>) == staged_pixel_tile_bytes(Config::kTileN));
  const dim3 grid(static_cast<unsigned>(args.plan.blocks),
                  static_cast<unsigned>(div_up(args.problem.C, kGroupedChannels)));
  return launch(conv2d_grouped_gemm<Config, kGroup>, grid, Config::kThreads,
                static_cast<size_t>(geometry.shared_bytes), args.stream,
                grouped_params(args, geometry));
}

template <CudaMath kMath>
cudaError_t launch_math(const CudaConvArgs& args) {
  switch (args.plan.gemm) {
    case GemmKernel::grouped4:
      return launch_group<kMath, 4>(args);
    case GemmKernel::grouped8:
      return launch_group<kMath, 8>(args);
    default:
      return launch_group<kMath, 16>(args);
  }
}

}  // namespace

cudaError_t conv2d_grouped_gemm(const CudaConvArgs& args) {
  switch (args.plan.math) {
    case CudaMath::fp16:
      return launch_math<CudaMath::fp16>(args);
    case CudaMath::bf16:
      return launch_math<CudaMath::bf16>(args);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace fastconv::cuda
