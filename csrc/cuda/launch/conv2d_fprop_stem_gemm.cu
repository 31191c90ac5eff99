// Builds the parameters of the stem's kernel on the tensor cores and starts it.
#include "cuda/kernels/gemm/conv2d_fprop_stem_gemm.cuh"
#include "cuda/launch/launch.h"
#include "cuda/launch/pixel_tiles.h"

namespace fastconv::cuda {
namespace {

StemGemmParams stem_params(const CudaConvArgs& args, const StemGeometry& geometry) {
  const ConvProblem& problem = args.problem;
  StemGemmParams params;
  params.x = args.x, params.w = args.w;
  params.C = static_cast<int>(problem.C), params.K = static_cast<int>(problem.K);
  params.H = static_cast<int>(problem.H), params.W = static_cast<int>(problem.W);
  params.R = static_cast<int>(problem.R), params.S = static_cast<int>(problem.S);
  params.stride_h = static_cast<int>(problem.stride_h);
  params.stride_w = static_cast<int>(problem.stride_w);
  params.pad_h = static_cast<int>(problem.pad_h), params.pad_w = static_cast<int>(problem.pad_w);
  params.dilation_h = static_cast<int>(problem.dilation_h);
  params.dilation_w = static_cast<int>(problem.dilation_w);
  params.tiles = pixel_tiles(problem.N, problem.P(), problem.Q());
  params.x_pixels = static_cast<int>(geometry.x_rows * geometry.x_columns);
  params.x_pitch = static_cast<int>(geometry.x_columns);
  params.x_columns = divmod(geometry.x_columns);
  params.row_steps = static_cast<int>(geometry.row_steps);
  params.row_taps = divmod(geometry.row_steps * kStemStepTaps);
  params.filter_taps = divmod(problem.R * geometry.row_steps * kStemStepTaps);
  params.filter_pitch = static_cast<int>(geometry.filter_pitch);
  params.x_offset = static_cast<int>(geometry.x_offset);
  params.output.out = args.y;
  params.output.epilogue = args.epilogue;
  params.output.store =
      choose_store(args, args.y, {problem.N, problem.K, problem.P(), problem.Q()}, problem.K);
  return params;
}

template <CudaMath kMath, GemmKernel kKernel>
cudaError_t launch_stem(const CudaConvArgs& args) {
  using Config = PixelTileConfig<kMath, stem_filters(kKernel)>;
  const StemGeometry geometry(args.problem, kKernel);
  static_assert(sizeof(StagedTile<Config>) == staged_pixel_tile_bytes(Config::kTileN));
  const StemGemmParams params = stem_params(args, geometry);
  const dim3 grid(static_cast<unsigned>(args.plan.blocks),
                  static_cast<unsigned>(div_up(args.problem.K, Config::kTileN)));
  return launch(conv2d_fprop_stem_gemm<Config>, grid, Config::kThreads,
                static_cast<size_t>(geometry.shared_bytes), args.stream, params);
}

template <CudaMath kMath>
cudaError_t launch_stem(const CudaConvArgs& args) {
  return args.plan.gemm == GemmKernel::stem
             ? launch_stem<kMath, GemmKernel::stem>(args)
             : launch_stem<kMath, GemmKernel::stem_few_filters>(args);
}

}  // namespace

cudaError_t conv2d_fprop_stem_gemm(const CudaConvArgs& args) {
  switch (args.plan.math) {
    case CudaMath::fp16:
      return launch_stem<CudaMath::fp16>(args);
    case CudaMath::bf16:
      return launch_stem<CudaMath::bf16>(args);
    default:
      return cudaErrorInvalidValue;
  }
}

}  // namespace fastconv::cuda
