// Builds the parameters of the grouped kernels on the tensor cores and starts them.
#include <type_traits>

#include "cuda/kernels/gemm/conv2d_grouped_gemm.cuh"
#include "cuda/kernels/gemm/conv2d_wgrad_grouped_gemm.cuh"
#include "cuda/launch/pixel_tiles.h"

namespace fastconv::cuda {
namespace {

// Of x, or for dgrad of dy.
GroupedSource grouped_source(const CudaConvArgs& args, const GroupedGeometry& geometry) {
  const ConvProblem& problem = args.problem;
  const bool dgrad = args.op == ConvOp::dgrad;
  GroupedSource source;
  source.tensor = dgrad ? args.y : args.x;
  source.C = static_cast<int>(problem.C);
  source.H = static_cast<int>(dgrad ? problem.P() : problem.H);
  source.W = static_cast<int>(dgrad ? problem.Q() : problem.W);
  source.stride_h = static_cast<int>(problem.stride_h);
  source.stride_w = static_cast<int>(problem.stride_w);
  source.pad_h = static_cast<int>(geometry.pad_h), source.pad_w = static_cast<int>(geometry.pad_w);
  source.dilation_h = static_cast<int>(problem.dilation_h);
  source.dilation_w = static_cast<int>(problem.dilation_w);
  source.row_taps = divmod(problem.S);
  source.pixels = static_cast<int>(geometry.x_rows * geometry.x_columns);
  source.pitch = static_cast<int>(geometry.x_columns);
  source.columns = divmod(geometry.x_columns);
  return source;
}

// The pixels of dy that a tile of wgrad reads are its own.
GroupedSource wgrad_dy(const CudaConvArgs& args) {
  GroupedSource source;
  source.tensor = args.y;
  source.C = static_cast<int>(args.problem.C);
  source.H = static_cast<int>(args.problem.P()), source.W = static_cast<int>(args.problem.Q());
  source.pixels = kPixelTileRows * kPixelTileColumns;
  source.pitch = kPixelTileColumns;
  source.columns = divmod(kPixelTileColumns);
  return source;
}

dim3 grouped_grid(const CudaConvArgs& args, int64_t parts = 1) {
  return dim3(static_cast<unsigned>(args.plan.blocks),
              static_cast<unsigned>(div_up(args.problem.C, kGroupedChannels)),
              static_cast<unsigned>(parts));
}

template <CudaMath kMath, int kGroup>
cudaError_t launch_wgrad(const CudaConvArgs& args) {
  using Config = WgradGroupedConfig<kMath>;
  const ConvProblem& problem = args.problem;
  const GroupedGeometry geometry(args.op, problem);
  WgradGroupedParams params;
  params.x = grouped_source(args, geometry);
  params.dy = wgrad_dy(args);
  params.tiles = pixel_tiles(problem.N, problem.P(), problem.Q());
  params.partial = static_cast<float*>(args.workspace);
  params.slice_elements = problem.w_elements();
  params.taps = static_cast<int>(problem.R * problem.S);
  params.dy_offset = static_cast<int>(geometry.x_bytes);
  const dim3 grid = grouped_grid(args, div_up(params.taps, kWgradGroupedTaps));
  return launch(conv2d_wgrad_grouped_gemm<Config, kGroup>, grid, Config::kThreads,
                static_cast<size_t>(geometry.shared_bytes), args.stream, params);
}

template <CudaMath kMath, int kGroup>
cudaError_t launch_fprop_or_dgrad(const CudaConvArgs& args) {
  using Config = PixelTileConfig<kMath, kGroupedChannels>;
  static_assert(sizeof(StagedTile<Config>) == staged_pixel_tile_bytes(Config::kTileN));
  const ConvProblem& problem = args.problem;
  const bool dgrad = args.op == ConvOp::dgrad;
  const GroupedGeometry geometry(args.op, problem);
  GroupedGemmParams params;
  params.x = grouped_source(args, geometry);
  params.w = args.w;
  params.dgrad = dgrad;
  params.taps = static_cast<int>(problem.R * problem.S);
  params.steps = static_cast<int>(geometry.steps);
  params.x_offset = static_cast<int>(geometry.filter_bytes);
  params.staged_offset = static_cast<int>(geometry.filter_bytes + geometry.x_bytes);
  const int64_t P = dgrad ? problem.H : problem.P(), Q = dgrad ? problem.W : problem.Q();
  params.tiles = pixel_tiles(problem.N, P, Q);
  params.output.out = dgrad ? args.x : args.y;
  params.output.epilogue = args.epilogue;
  params.output.store =
      choose_store(args, params.output.out, {problem.N, problem.C, P, Q}, problem.C);
  return launch(conv2d_grouped_gemm<Config, kGroup>, grouped_grid(args), Config::kThreads,
                static_cast<size_t>(geometry.shared_bytes), args.stream, params);
}

template <CudaMath kMath, int kGroup>
cudaError_t launch_group(const CudaConvArgs& args) {
  return args.op == ConvOp::wgrad ? launch_wgrad<kMath, kGroup>(args)
                                  : launch_fprop_or_dgrad<kMath, kGroup>(args);
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
